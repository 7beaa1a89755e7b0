"""S2-MLPv2: "S2-MLPv2: Improved Spatial-Shift MLP Architecture for Vision".

Paper: arXiv 2108.01072. The authors published neither code nor weights: the network
is that of the paper's equations, what they leave open is noted here.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import one_of, positive, switch
from mlp_backbones.backbones.arch import TwoStrideArch
from mlp_backbones.backbones.resampled import ResampledArguments, ResampledBackbone
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.layers import ChannelLinear
from mlp_backbones.ops import blend_shifted, shifted_means
from mlp_backbones.registry import MODELS

BRANCHES = (
    ("down", "up", "right", "left"),
    ("right", "left", "down", "up"),
    ("stay",),
)
"""Where the groups of channels of each branch go (paper, equations 7 and 8)."""

_POOLS = ("mean", "sum")


class BranchWeights(nn.Module):
    """Turn the pooled branches into a softmax over the branches per channel.

    Source: paper, equation 3: two linear layers without biases. Output unit k * C + c
    belongs to branch k, channel c; Vision Permutator's split attention has these the
    other way round.

    Args:
        dim: Channels of each branch.
        hidden_dim: Channels between the two layers.
        num_branches: Number of branches K.
    """

    def __init__(self, dim: int, hidden_dim: int, *, num_branches: int) -> None:
        super().__init__()
        self.num_branches = num_branches
        self.fc1 = nn.Linear(dim, hidden_dim, bias=False)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim * num_branches, bias=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """Map the sum of all branches' pooled maps, (B, C), to weights, (B, K * C)."""
        logits = self.fc2(self.act(self.fc1(pooled)))
        # (B, K * C) -> (B, K, C)
        return torch.softmax(logits.unflatten(-1, (self.num_branches, -1)), 1).flatten(
            1
        )


class SplitShiftMixer(nn.Module):
    """Three branches, two of them shifted, blended by split attention.

    Source: paper, equations 6 to 10. Neither the pooling nor the blending needs a
    shifted map: means of shifted maps follow from the borders, and weights commute with
    the shift.

    Args:
        dim: Channels in and out.
        hidden_dim: Channels between the two layers of the split attention.
        pool: ``mean`` to average the branches over the map, ``sum`` to add them up,
            which ties the attention to the size of the map.
    """

    def __init__(self, dim: int, hidden_dim: int, *, pool: str = "mean") -> None:
        super().__init__()
        self.pool = pool
        self.fc1 = ChannelLinear(dim, len(BRANCHES) * dim)
        self.split = BranchWeights(dim, hidden_dim, num_branches=len(BRANCHES))
        self.fc2 = ChannelLinear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        branches = self.fc1(x)
        pooled = shifted_means(branches, BRANCHES)
        pooled = pooled.unflatten(-1, (len(BRANCHES), -1)).sum(1)  # (B, C)
        if self.pool == "sum":
            pooled = pooled * (x.shape[1] * x.shape[2])
        return self.fc2(blend_shifted(branches, self.split(pooled), BRANCHES))

    def extra_repr(self) -> str:
        """Show how the branches are pooled."""
        return f"pool={self.pool!r}"


def _number_blocks(
    weights: dict[str, Tensor], backbone: "S2MLPv2"
) -> dict[str, Tensor]:
    """Number the blocks through all levels, and name the step to each level."""
    starts = [0] + [
        stage + 1 for stage, merges in enumerate(backbone.arch.transitions) if merges
    ]
    renamed = {}
    for key, value in weights.items():
        parts = key.split(".")
        if parts[0] == "levels" and int(parts[1]) < len(starts):
            start = starts[int(parts[1])]
            if parts[2] == "blocks":
                number = int(parts[3]) + sum(backbone.depths[:start])
                parts[:4] = ["blocks", str(number)]
            else:
                parts[:2] = ["stages", str(start)]
        renamed[".".join(parts)] = value
    return renamed


@MODELS.register_module()
class S2MLPv2(ResampledBackbone):
    """S2-MLPv2, two strides, any image size: no weight depends on the token grid.

    Strides 4 and 8 are taken from the end of the finer part, 16 and 32 from the end,
    resampled as :class:`ResampledBackbone` says; ``small14`` has one stride, and each
    of its levels comes from a quarter of the stages. The attention over the branches
    pools the whole map, zeros that fill up the last patches included.

    Args:
        arch: ``small7``, ``medium7``, ``small14`` or a mapping with ``embed_dims``,
            ``depths``, ``transitions`` and ``mlp_ratios``, four values each, and
            ``patch_size``.
        split_ratio: Width of the split attention over that of the stage.
        split_pool: ``mean`` to average the branches over the map, ``sum`` to add them
            up as equation 2 writes it, which ties the attention to the size of the
            map: weights trained so fit one size of image.
        stem_norm: Whether the stem ends in a layer norm.
        norm_eps: Epsilon of all layer norms.
        common: See :class:`ResampledBackbone`.

    Example:
        >>> import torch
        >>> backbone = S2MLPv2("mini")
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 12, 16, 24), (1, 24, 8, 12), (1, 48, 4, 6), (1, 48, 2, 3)]
    """

    family = "s2_mlpv2"

    arch_settings: ClassVar[Mapping[str, TwoStrideArch]] = {
        name: TwoStrideArch(
            embed_dims=dims,
            depths=depths,
            transitions=tuple(stage == merge for stage in range(4)),
            patch_size=patch_size,
            mlp_ratios=(3, 3, 3, 3),
        )
        for name, dims, depths, merge, patch_size in (
            ("small7", (192, 384, 384, 384), (4, 3, 8, 3), 0, 7),
            ("medium7", (256, 256, 512, 512), (4, 3, 14, 3), 1, 7),
            ("small14", (384, 384, 384, 384), (4, 3, 8, 3), None, 14),
        )
    }
    mini_arch = TwoStrideArch(
        embed_dims=(96, 128, 128, 128),
        depths=(3, 2, 2, 1),
        transitions=(True, False, False, False),
        patch_size=7,
        mlp_ratios=(3, 3, 3, 3),
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "small7",
        *,
        split_ratio: float = 0.25,
        split_pool: str = "mean",
        stem_norm: bool = False,
        norm_eps: float = 1e-5,
        **common: Unpack[ResampledArguments],
    ) -> None:
        self.split_ratio = positive("split_ratio", split_ratio)
        self.split_pool = one_of("split_pool", split_pool, _POOLS)
        self.stem_norm = switch("stem_norm", stem_norm)
        self.norm_eps = norm_eps
        super().__init__(arch, **common)

    def build_stem(self) -> nn.Module:
        """Build the patch embedding, with a layer norm behind it or without."""
        size = self.patch_size
        norm = self.build_norm(self.embed_dims[0]) if self.stem_norm else None
        return self.build_embed(0, kernel_size=size, stride=size, norm=norm)

    def build_mixer(self, stage: int, block: int) -> SplitShiftMixer:
        """Build one mixer; all blocks of a stage are alike."""
        dim = self.embed_dims[stage]
        hidden_dim = max(int(dim * self.split_ratio), 1)
        return SplitShiftMixer(dim, hidden_dim, pool=self.split_pool)

    checkpoint_layouts = (
        CheckpointLayout(
            name="S2-MLPv2 as this package's reference cases have it",
            signature=r"^stages\.\d+\.\d+\.mixer\.split\.fc1\.weight",
            renames=(
                (r"^patch_embed\.", "stem."),
                (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
                (
                    r"^downsamples\.(\d+)\.",
                    lambda match: f"stages.{int(match[1]) + 1}.downsample.",
                ),
            ),
        ),
        CheckpointLayout(
            name="S2-MLPv2 re-implementation (liuruiyang98/Jittor-MLP)",
            signature=r"^stages\.0\.1\.model\.\d+\.0\.fn\.split_attention\.mlp1\.weight",
            renames=(
                (r"^stages\.0\.0\.", "stem.proj."),
                (r"^stages\.(\d+)\.0\.", r"levels.\1.downsample.proj."),
                (r"^stages\.(\d+)\.1\.model\.(\d+)\.", r"levels.\1.blocks.\2."),
                (r"\.0\.norm\.", ".norm1."),
                (r"\.0\.fn\.mlp1\.", ".mixer.fc1."),
                (r"\.0\.fn\.mlp2\.", ".mixer.fc2."),
                (r"\.0\.fn\.split_attention\.mlp([12])\.", r".mixer.split.fc\1."),
                (r"\.1\.norm\.", ".norm2."),
                (r"\.1\.fn\.0\.", ".mlp.fc1."),
                (r"\.1\.fn\.3\.", ".mlp.fc2."),
                (r"^mlp_head\.1\.", "head.fc."),
            ),
            convert=_number_blocks,
        ),
    )
