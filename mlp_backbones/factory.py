"""Models by name: the pyramid for dense prediction and the ImageNet classifier."""

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mlp_backbones.backbones import MLPBackbone
from mlp_backbones.checkpoints import load_pretrained
from mlp_backbones.necks import PooledNorm
from mlp_backbones.registry import MODELS

__all__ = [
    "Classifier",
    "families",
    "get_backbone",
    "get_family",
    "get_model",
    "list_models",
]

MINI = "mini"


class _LinearHead(nn.Module):
    """A linear layer named as mmpretrain names it."""

    def __init__(self, dim: int, num_classes: int, *, zero: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, num_classes)
        nn.init.trunc_normal_(self.fc.weight, std=0.02)
        if zero:
            nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C) to (B, classes)."""
        return self.fc(x)


class Classifier(nn.Module):
    """A backbone's last map, normed, averaged and classified.

    Families that average first and norm then have the norm in ``neck``, which is
    :class:`mlp_backbones.necks.PooledNorm`. Names are those of mmpretrain's
    ``ImageClassifier`` with a ``LinearClsHead``, so that checkpoints pass between the
    two.

    Args:
        backbone: A backbone that returns its last stage alone.
        num_classes: Number of classes.
    """

    def __init__(self, backbone: MLPBackbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        dim = backbone.out_channels[-1]
        if backbone.norm_after_pool:
            self.neck = PooledNorm(backbone.build_out_norm(dim))
        else:
            self.neck = PooledNorm(nn.Identity())
        self.head = _LinearHead(dim, num_classes, zero=backbone.zero_head)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, classes)."""
        (pooled,) = self.neck(self.backbone(x)[-1:])
        return self.head(pooled)


def get_family(family: str) -> type[MLPBackbone]:
    """Return the backbone class of a family.

    Args:
        family: The name in snake case, such as ``cyclemlp``.

    Raises:
        ValueError: If there is no such family.
    """
    known = families()
    if family not in known:
        raise ValueError(f"unknown family {family!r}, there are {', '.join(known)}")
    return known[family]


def families() -> dict[str, type[MLPBackbone]]:
    """Return the backbone classes by the name of their family."""
    classes = MODELS.module_dict.values()
    return {
        cls.family: cls
        for cls in sorted(classes, key=lambda cls: cls.__name__)
        if isinstance(cls, type)
        and issubclass(cls, MLPBackbone)
        and "family" in vars(cls)  # a user's subclass does not take its parent's place
    }


def list_models(pattern: str = "*") -> list[str]:
    """List the names of all models, or of those that fit a shell-style pattern.

    Args:
        pattern: Such as ``"cycle*"`` or ``"*_b1"``. The sizes that the digit-scenes
            configs train are listed where it names them, as ``"*_mini"`` does.

    Returns:
        Names ``{family}_{arch}``, families in alphabetical order, sizes in the order
        of the paper's table.
    """
    names = [
        f"{family}_{arch}"
        for family, cls in sorted(families().items())
        for arch in _arch_names(cls)
        if arch in cls.arch_settings or MINI in pattern
    ]
    return [name for name in names if fnmatch(name, pattern)]


def get_backbone(
    name: str,
    *,
    pretrained: str | Path | None = None,
    out_indices: Sequence[int] = (0, 1, 2, 3),
    **options: Any,
) -> MLPBackbone:
    """Build a backbone that returns a feature pyramid.

    Args:
        name: One of :func:`list_models`, the authors' name of it, or ``{family}_mini``,
            the backbone of the digit-scenes configs.
        pretrained: A checkpoint as in
            :func:`mlp_backbones.checkpoints.load_pretrained`, or None. Nothing is
            downloaded unless this is an address or ``official``.
        out_indices: The stages whose maps are returned.
        options: Further arguments of the backbone's class.

    Raises:
        ValueError: If there is no model of that name, or an argument is impossible.

    Example:
        >>> import torch
        >>> backbone = get_backbone("cyclemlp_b1")
        >>> [tuple(m.shape[1:]) for m in backbone(torch.rand(1, 3, 64, 64))]
        [(64, 16, 16), (128, 8, 8), (320, 4, 4), (512, 2, 2)]
    """
    _check_options(options)
    cls, arch = _resolve(name)
    arguments = {**_mini_options(cls, arch), **options}
    backbone = cls(arch, out_indices=out_indices, **arguments)
    if pretrained is not None:
        load_pretrained(backbone, pretrained)
    return backbone


def get_model(
    name: str,
    *,
    pretrained: str | Path | None = None,
    num_classes: int = 1000,
    **options: Any,
) -> Classifier:
    """Build an image classifier.

    Args:
        name: One of :func:`list_models`, the authors' name of it, or ``{family}_mini``,
            the backbone of the digit-scenes configs.
        pretrained: A checkpoint as in
            :func:`mlp_backbones.checkpoints.load_pretrained`, or None. A head of
            another number of classes is dropped with a warning.
        num_classes: Number of classes.
        options: Further arguments of the backbone's class.

    Raises:
        ValueError: If there is no model of that name, or an argument is impossible.
    """
    _check_options(options)
    if type(num_classes) is not int or num_classes < 1:
        raise ValueError(f"num_classes must be a positive number, got {num_classes!r}")
    cls, arch = _resolve(name)
    arguments = {**cls.classifier_arguments, **_mini_options(cls, arch), **options}
    model = Classifier(cls(arch, out_indices=(-1,), **arguments), num_classes)
    if pretrained is not None:
        load_pretrained(model, pretrained)
    return model


def _check_options(options: dict[str, Any]) -> None:
    for key in ("arch", "init_cfg", "out_indices"):
        if key in options:
            raise ValueError(
                f"{key}={options[key]!r} cannot be given here: name says the arch, "
                "pretrained the weights, and a classifier uses the last stage"
            )


def _arch_names(cls: type[MLPBackbone]) -> list[str]:
    return [*cls.arch_settings, *([MINI] if cls.mini_arch else [])]


def _mini_options(cls: type[MLPBackbone], arch: str) -> dict[str, Any]:
    return cls.mini_options if arch == MINI else {}


def _resolve(name: str) -> tuple[type[MLPBackbone], str]:
    for family, cls in families().items():
        for arch in _arch_names(cls):
            if name in (f"{family}_{arch}", cls.official_names.get(arch)):
                return cls, arch
    raise ValueError(
        f"unknown model {name!r}, choose one of {', '.join(list_models())}"
    )
