"""What Vision Permutator and DynaMixer share: two strides, and lines that are mixed."""

from abc import ABCMeta
from collections.abc import Mapping
from typing import Any

from typing_extensions import Unpack

from mlp_backbones.arguments import positive, switch
from mlp_backbones.backbones.resampled import GridArguments, GridBackbone
from mlp_backbones.checkpoints import CheckpointLayout
from mlp_backbones.checkpoints.renames import tell_downsamplings


class AxialArguments(GridArguments, total=False):
    """Arguments that every :class:`AxialBackbone` takes."""

    qkv_bias: bool
    skip_lam: float
    norm_eps: float


class AxialBackbone(GridBackbone, metaclass=ABCMeta):
    """A backbone of two strides whose mixers are ``AxialMixer``.

    In windows the whole mixer runs inside them, pooling for the blend included.

    Args:
        arch: See :class:`GridBackbone`.
        qkv_bias: Whether the branches of the mixer have a bias, as far as the paper
            leaves it open.
        skip_lam: Divisor of both residual branches.
        norm_eps: Epsilon of the blocks' and output layer norms.
        common: See :class:`GridBackbone`.
    """

    grid_modes = ("window", "interpolate")

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        *,
        qkv_bias: bool = False,
        skip_lam: float = 1.0,
        norm_eps: float = 1e-5,
        **common: Unpack[GridArguments],
    ) -> None:
        self.qkv_bias = switch("qkv_bias", qkv_bias)
        self.branch_scale = 1.0 / positive("skip_lam", skip_lam)
        self.norm_eps = norm_eps
        super().__init__(arch, **common)


def axial_layout(name: str, lines: str, signature: str) -> CheckpointLayout:
    """Describe the official weights of such a backbone.

    Args:
        name: Of the layout.
        lines: What modules that mix lines are called, before ``_h`` and ``_w``.
        signature: The end of a key that no other layout has.
    """
    return CheckpointLayout(
        name=name,
        signature=rf"^network\.\d+\.\d+\.attn\.{lines}_h\.{signature}",
        renames=(
            (r"^patch_embed\.", "stem."),
            (rf"\.attn\.{lines}_h\.", ".mixer.along_height."),
            (rf"\.attn\.{lines}_w\.", ".mixer.along_width."),
            (r"\.attn\.mlp_c\.", ".mixer.channel."),
            (r"\.attn\.", ".mixer."),
        ),
        convert=tell_downsamplings,
    )
