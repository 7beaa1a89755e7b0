"""CCS: circulant channel-specific token mixing, in MLP-Mixer and in ResMLP.

Paper: "Rethinking Token-Mixing MLP for MLP-based Vision Backbone", arXiv 2106.14882.
The authors published neither code nor weights; host networks follow timm
(huggingface/pytorch-image-models, Apache-2.0 licence), the code is written anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from mlp_backbones.arguments import not_negative, one_of, positive, positive_int
from mlp_backbones.backbones.arch import IsotropicArch, single
from mlp_backbones.backbones.resampled import GridArguments, GridBackbone
from mlp_backbones.backbones.resmlp import without_final_affine
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.layers import (
    Affine,
    ConvEmbed,
    GridMixer,
    LayerScale,
    init_lecun_normal,
)
from mlp_backbones.ops import dispatch
from mlp_backbones.registry import MODELS

HOSTS = ("mlp_mixer", "resmlp")
LIFTS = ("embed", "resize")

# From here on Fourier transforms beat matrix products: timed on one CPU thread. GPUs
# multiply matrices far better than they transform; their number is a guess.
_MIN_FFT_TOKENS_CPU = 64
_MIN_FFT_TOKENS_GPU = 256


def circulant(weight: Tensor) -> Tensor:
    """Build the matrices that correlate tokens with vectors, circularly.

    Args:
        weight: One vector for each group, (G, N).

    Returns:
        (G, N, N), whose entry [g, i, m] is ``weight[g, (m - i) % N]``.
    """
    groups, num_tokens = weight.shape
    # N - 1 copies cut into N rows of N - 1: each row begins one entry further back
    rows = weight.repeat(1, num_tokens - 1).view(groups, num_tokens, num_tokens - 1)
    return torch.cat([rows, weight.flip(1).unsqueeze(2)], dim=2)


def correlate_by_product(x: Tensor, weight: Tensor) -> Tensor:
    """Correlate tokens with vectors as one batched matrix product.

    Args:
        x: Tokens, (B, N, C).
        weight: One vector for each group, (G, N); channel c belongs to group c % G.

    Returns:
        (B, N, C): token i holds the sum of ``weight[:, j] * x[:, (i + j) % N]``.
    """
    batch, num_tokens, dim = x.shape
    groups = len(weight)
    # (B, N, C/G, G) -> (G, N, B, C/G) -> (G, N, B*C/G)
    x = x.unflatten(2, (-1, groups)).permute(3, 1, 0, 2)
    x = torch.bmm(circulant(weight), x.reshape(groups, num_tokens, -1))
    x = x.view(groups, num_tokens, batch, dim // groups).permute(2, 1, 3, 0)
    return x.reshape(batch, num_tokens, dim)


def correlate_by_fft(x: Tensor, weight: Tensor) -> Tensor:
    """Do what :func:`correlate_by_product` does by Fourier transforms.

    Computes in float32 at least, as transforms of half precision are rare and poor.

    Args:
        x: Tokens, (B, N, C).
        weight: One vector for each group, (G, N); channel c belongs to group c % G.

    Returns:
        (B, N, C), of the type of ``x``.
    """
    batch, num_tokens, dim = x.shape
    dtype = torch.promote_types(x.dtype, torch.float32)
    tokens = x.transpose(1, 2).to(dtype).contiguous()  # (B, N, C) -> (B, C, N)
    # the conjugate makes a correlation of what would be a convolution
    spectrum = torch.fft.rfft(weight.to(dtype)).conj()  # (G, frequencies)
    product = torch.fft.rfft(tokens).unflatten(1, (-1, len(weight))) * spectrum
    mixed = torch.fft.irfft(product.flatten(1, 2), n=num_tokens)
    return mixed.transpose(1, 2).to(x.dtype)  # (B, C, N) -> (B, N, C)


class CirculantMixer(GridMixer):
    """Correlate the tokens, row by row in one line, with a vector for each group.

    Source: paper, equations 5 to 8, and algorithm 1 for the channels of a group, which
    lie ``groups`` apart.

    Args:
        groups: Number of vectors.
        grid_size: Height and width of the grid the vectors belong to, in tokens.
        lift: How a vector is brought to another grid. It holds a weight for each
            offset between two tokens, a kernel of the height and width of the grid;
            the paper does not say how to enlarge it. ``"embed"`` fills zeros in around
            it, or cuts it to its centre: offsets keep their length in tokens.
            ``"resize"`` resamples it bicubically: offsets keep their length in parts
            of the map, and a constant map its response.
        options: The other arguments of :class:`GridMixer`.

    Raises:
        ValueError: If ``lift`` is not one of the two.
    """

    def __init__(
        self, groups: int, grid_size: tuple[int, int], *, lift: str, **options: Any
    ) -> None:
        super().__init__(grid_size, **options)
        if lift not in LIFTS:
            raise ValueError(f"lift must be one of {LIFTS}, got {lift!r}")
        self.lift = lift
        self.weight = nn.Parameter(torch.empty(groups, grid_size[0] * grid_size[1]))

    def mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return self._correlate(x, self.weight)

    def mix_resized(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C) by lifted vectors."""
        size = (x.shape[1], x.shape[2])
        positions = _token_of_offset(self.grid_size, x.device)
        kernel = self.weight[:, positions].view(-1, 1, *self.grid_size)
        kernel = (_embed if self.lift == "embed" else _resize)(kernel, size)
        lifted = kernel.flatten(1)[:, _offset_of_token(size, x.device)]
        return self._correlate(x, lifted)

    def _correlate(self, x: Tensor, weight: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)  # (B, H, W, C) -> (B, H*W, C)
        on_gpu = dispatch.prefers_gpu_kernel(x)
        enough = _MIN_FFT_TOKENS_GPU if on_gpu else _MIN_FFT_TOKENS_CPU
        # there is no Fourier transform of no image
        small = tokens.shape[1] < enough or len(x) == 0
        if small or torch.onnx.is_in_onnx_export():
            mixed = correlate_by_product(tokens, weight)
        else:
            mixed = correlate_by_fft(tokens, weight)
        return mixed.unflatten(1, x.shape[1:3])

    def extra_repr(self) -> str:
        """Show the lift beside the grid."""
        return f"{super().extra_repr()}, groups={len(self.weight)}, lift={self.lift!r}"


def _token_of_offset(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return where in the vector the offsets from -H/2, -W/2 on stand, (H*W,)."""
    height, width = size
    rows = torch.arange(height, device=device) - height // 2
    columns = torch.arange(width, device=device) - width // 2
    return ((rows[:, None] * width + columns) % (height * width)).flatten()


def _offset_of_token(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return the inverse of :func:`_token_of_offset`, (H*W,)."""
    height, width = size
    tokens = torch.arange(height * width, device=device) + width // 2
    columns, rows = tokens % width, tokens // width + height // 2
    return rows % height * width + columns


def _embed(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    padding = []
    for old, new in zip(kernel.shape[:1:-1], size[::-1], strict=True):
        before = new // 2 - old // 2  # the offset 0 stands at half the side
        padding += [before, new - old - before]
    return F.pad(kernel, padding)  # negative padding cuts


def _resize(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = (
        _cubic_samples(old, new, kernel.device)
        for old, new in zip(kernel.shape[2:], size, strict=True)
    )
    scale = kernel.shape[2] * kernel.shape[3] / (size[0] * size[1])
    # (H, H0) @ (G, 1, H0, W0) @ (W0, W); autocast would round in single precision
    return (rows @ kernel.double() @ columns.T * scale).to(kernel.dtype)


def _cubic_samples(old: int, new: int, device: torch.device) -> Tensor:
    """Return what each new offset along one side takes from the old, (new, old).

    The cubic convolution of torch's ``interpolate``, which itself would move the
    offset 0: by more than a token on large maps. Offsets are periodic.
    """
    offsets = torch.arange(new, dtype=torch.float64, device=device) - new // 2
    source = offsets * (old / new) + old // 2
    first = source.floor()
    samples = source.new_zeros((new, old))
    for tap in (-1, 0, 1, 2):
        distance = (source - first - tap).abs()
        near = (1.25 * distance - 2.25) * distance**2 + 1
        far = -0.75 * (((distance - 5) * distance + 8) * distance - 4)
        place = F.one_hot((first.long() + tap) % old, old)
        samples = samples + place * torch.where(distance <= 1, near, far)[:, None]
    return samples


@dataclass(frozen=True, kw_only=True)
class CCSArch(IsotropicArch):
    """The host network, its sizes, and how many vectors mix its tokens."""

    host: str = single(partial(one_of, choices=HOSTS))
    mlp_ratio: float = single(positive)
    ccs_groups: int = single(positive_int)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embed_dim % self.ccs_groups:
            raise ValueError(
                f"arch field 'ccs_groups' must divide 'embed_dim' {self.embed_dim}, "
                f"got {self.ccs_groups}"
            )


@MODELS.register_module()
class CCSMLP(GridBackbone):
    """CCS in an MLP-Mixer or a ResMLP, and a pyramid made of it for any image size.

    Everything but the token mixing is the host's.

    Args:
        arch: ``mixer_b16``, ``resmlp_36``, one of its variants ``resmlp_36_g1``,
            ``resmlp_36_g4`` and ``resmlp_36_g384`` with other numbers of groups,
            ``mini``, or a mapping with ``host`` (``mlp_mixer`` or ``resmlp``),
            ``embed_dim``, ``depth``, ``patch_size``, ``mlp_ratio`` and ``ccs_groups``.
        lift: How vectors are lifted, ``"embed"`` or ``"resize"``; see
            :class:`CirculantMixer`.
        norm_eps: Epsilon of all layer norms.
        init_scale: What the branches of a ``resmlp`` host are scaled by at the start.
        common: See :class:`GridBackbone`.

    Example:
        >>> import torch
        >>> backbone = CCSMLP("mini", out_indices=(1, 2, 3))
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 128, 8, 12), (1, 128, 4, 6), (1, 128, 2, 3)]
    """

    family = "ccs_mlp"
    grid_modes = ("interpolate", "window")

    arch_settings: ClassVar[Mapping[str, CCSArch]] = {
        name: CCSArch(
            host=host,
            embed_dim=dim,
            depth=depth,
            patch_size=16,
            mlp_ratio=4,
            ccs_groups=groups,
        )
        for name, host, dim, depth, groups in (
            ("mixer_b16", "mlp_mixer", 768, 12, 8),
            ("resmlp_36", "resmlp", 384, 36, 8),
            ("resmlp_36_g1", "resmlp", 384, 36, 1),
            ("resmlp_36_g4", "resmlp", 384, 36, 4),
            ("resmlp_36_g384", "resmlp", 384, 36, 384),
        )
    }
    mini_arch = CCSArch(
        host="resmlp", embed_dim=128, depth=8, patch_size=8, mlp_ratio=3, ccs_groups=8
    )
    mini_options: ClassVar[dict[str, Any]] = {"image_size": 64, "init_scale": 0.1}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "mixer_b16",
        *,
        lift: str = "embed",
        norm_eps: float = 1e-6,
        init_scale: float = 1e-6,
        **common: Unpack[GridArguments],
    ) -> None:
        self.lift = one_of("lift", lift, LIFTS)
        self.norm_eps = norm_eps
        self.init_scale = not_negative("init_scale", init_scale)
        self.constant_drop_path = self.resolve_arch(arch).host == "resmlp"
        super().__init__(arch, **common)

    def build_mixer(self, stage: int, block: int) -> CirculantMixer:
        """Build one mixer; all blocks are alike."""
        options = self.grid_options(stage, block)
        return CirculantMixer(self.arch.ccs_groups, lift=self.lift, **options)

    def build_norm(self, dim: int) -> nn.Module:
        """Build the host's norm in front of a branch."""
        if self.arch.host == "resmlp":
            return Affine(dim)
        return nn.LayerNorm(dim, eps=self.norm_eps)

    def build_layer_scale(self, dim: int) -> LayerScale | None:
        """Build the learnt scale of a branch, where the host has one."""
        resmlp = self.arch.host == "resmlp"
        return LayerScale(dim, self.init_scale) if resmlp else None

    def build_out_norm(self, dim: int) -> nn.Module:
        """Build the norm of one level, or the final norm of the host's classifier."""
        if self.arch.host == "resmlp" and not self.pyramid:
            return Affine(dim)
        return nn.LayerNorm(dim, eps=self.norm_eps)

    def adapt_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the final affine map of a ResMLP where levels have norms.

        Args:
            weights: Tensors under this package's names.
        """
        return super().adapt_weights(without_final_affine(weights, self.pyramid))

    def _init_module(self, module: nn.Module) -> None:
        """Initialise the vectors as linear layers are, all else as the host does."""
        if isinstance(module, CirculantMixer):
            bound = module.weight.shape[1] ** -0.5
            nn.init.uniform_(module.weight, -bound, bound)
        elif self.arch.host == "resmlp":
            super()._init_module(module)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.normal_(module.bias, std=1e-6)
        elif isinstance(module, ConvEmbed):
            init_lecun_normal(module.proj)

    official_names: ClassVar[Mapping[str, str]] = {
        name: f"ccs_{name}" for name in arch_settings
    }
    checkpoint_layouts = (
        CheckpointLayout(
            name="timm's names of the host",
            signature=r"^blocks\.\d+\.(mlp|linear)_tokens\.weight$",
            renames=(
                (r"^(blocks\.\d+)\.(mlp|linear)_tokens\.", r"\1.mixer."),
                (r"^(blocks\.\d+)\.mlp_channels\.", r"\1.mlp."),
                (r"^(blocks\.\d+)\.ls([12])$", r"\1.layer_scale\2.gamma"),
            ),
        ),
    )
