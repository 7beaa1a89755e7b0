"""A size for each family that only tests use: all parts, hardly a width."""

from typing import Any

from mlp_backbones.backbones import MLPBackbone
from mlp_backbones.factory import get_family

MICRO: dict[str, dict[str, Any]] = {
    "as_mlp": {"embed_dims": (16, 32, 48, 64), "depths": (1, 1, 2, 1)},
    "ccs_mlp": {
        "host": "mlp_mixer",
        "embed_dim": 32,
        "depth": 4,
        "patch_size": 16,
        "mlp_ratio": 4,
        "ccs_groups": 8,
    },
    "convmlp": {
        "embed_dims": (16, 32, 48, 64),
        "depths": (1, 2, 2, 2),
        "mlp_ratios": (2, 2, 2),
    },
    "cs_mixer": {
        "embed_dims": (16, 32, 48, 64),
        "depths": (1, 2, 2, 1),
        "num_heads": (2, 2, 3, 4),
        "reduced_dims": (2, 2, 2, 2),
        "group_sizes": (4, 4, 3, 2),
        "mlp_ratio": 4,
    },
    "cyclemlp": {
        "embed_dims": (16, 32, 48, 64),
        "depths": (1, 1, 2, 1),
        "mlp_ratios": (4, 4, 2, 2),
    },
    "dynamixer": {
        "embed_dims": (24, 48, 48, 48),
        "depths": (1, 1, 2, 1),
        "resolutions": (6, 3, 3, 3),
        "num_heads": (3, 4, 4, 4),
        "reduced_dims": (2, 2, 2, 2),
        "transitions": (True, False, False, False),
        "mlp_ratios": (3, 3, 3, 3),
        "patch_size": 8,
    },
    "gmlp": {"embed_dim": 32, "depth": 4, "patch_size": 16, "mlp_ratio": 6},
    "gfnet": {
        "embed_dims": (16, 32, 48, 64),
        "depths": (1, 1, 2, 1),
        "mlp_ratios": (4, 4, 2, 2),
        "patch_size": 4,
        "hierarchical": True,
    },
    "hire_mlp": {
        "embed_dims": (16, 32, 48, 64),
        "depths": (2, 1, 3, 2),
        "mlp_ratios": (4, 4, 4, 4),
        "region_size": (4, 3, 3, 2),
        "shift_cycle": (2, 2, 3, 2),
        "shift_dilation": (2, 2, 1, 1),
    },
    "mlp_mixer": {
        "embed_dim": 32,
        "depth": 4,
        "patch_size": 16,
        "tokens_mlp_dim": 24,
        "channels_mlp_dim": 96,
        "gated": False,
    },
    "ms_mlp": {
        "embed_dims": (20, 30, 40, 60),
        "depths": (1, 1, 2, 1),
        "mlp_ratios": (4, 4, 4, 4),
    },
    "resmlp": {
        "embed_dim": 32,
        "depth": 4,
        "patch_size": 16,
        "mlp_ratio": 4,
        "init_scale": 0.1,
    },
    "s2_mlp": {
        "embed_dim": 48,
        "depth": 4,
        "patch_size": 16,
        "mlp_ratio": 4,
        "norm": "ln",
    },
    "s2_mlpv2": {
        "embed_dims": (24, 48, 48, 48),
        "depths": (1, 1, 2, 1),
        "transitions": (True, False, False, False),
        "patch_size": 7,
        "mlp_ratios": (3, 3, 3, 3),
    },
    "smlpnet": {
        "embed_dims": (16, 32, 48, 64),
        "depths": (1, 1, 2, 1),
        "mlp_ratios": (3, 3, 3, 3),
    },
    "spach": {
        "embed_dims": (16, 32, 48, 64),
        "net_arch": (
            (("pass", 1),),
            (("mlp", 1),),
            (("mlp", 1), ("attn", 1)),
            (("attn", 1),),
        ),
        "num_heads": 2,
        "mlp_ratio": 2,
        "token_ratio": 0.5,
        "patch_size": 4,
        "stem_type": "conv1",
        "multi_stage": True,
    },
    "vip": {
        "embed_dims": (24, 48, 48, 48),
        "depths": (1, 1, 2, 1),
        "segment_dims": (6, 3, 3, 3),
        "transitions": (True, False, False, False),
        "mlp_ratios": (3, 3, 3, 3),
        "patch_size": 8,
    },
    "wave_mlp": {
        "embed_dims": (16, 32, 48, 64),
        "depths": (1, 1, 2, 1),
        "mlp_ratios": (4, 4, 4, 4),
        "phase": "pointwise",
        "norm": "batch_norm",
        "downsample_norm": True,
        "window": 7,
    },
}
"""The fields of an arch by family."""


def build_micro(family: str, **options: Any) -> MLPBackbone:
    """Build the backbone of a family in this size.

    Args:
        family: Such as ``cyclemlp``.
        options: Further arguments of its class.
    """
    return get_family(family)(MICRO[family], **options)
