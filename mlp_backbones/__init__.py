"""Vision-MLP backbones for dense prediction on OpenMMLab.

Importing this package is silent and needs nothing but the standard library: the
public functions load torch and mmengine on first use. Where mmcv is installed without
compiled operators, its ``mmcv.ops`` works from now on, by torchvision's kernels.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlp_backbones import operators, safe_loading
from mlp_backbones.version import __version__

if TYPE_CHECKING:
    from mlp_backbones.config_names import config_dir
    from mlp_backbones.factory import get_backbone, get_model, list_models

__all__ = ["__version__", "config_dir", "get_backbone", "get_model", "list_models"]

operators.install()
safe_loading.install()


def __getattr__(name: str) -> Any:
    if name == "config_dir":
        return import_module("mlp_backbones.config_names").config_dir
    if name in ("get_backbone", "get_model", "list_models"):
        return getattr(import_module("mlp_backbones.factory"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
