"""Models by name: the pyramid for dense prediction and the ImageNet classifier."""

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mlp_backbones.backbones import MLPBackbone
from mlp_backbones.checkpoints import load_pretrained
from mlp_backbones.checkpoints.image_size import takes_image_size
from mlp_backbones.checkpoints.preprocessing import Preprocessing
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


# What timm calls an argument of ours, or does otherwise.
_TIMM_WORDS = {
    "checkpoint_path": "it is pretrained=FILE here",
    "drop_path": "it is drop_path_rate here",
    "drop_rate": "there is no dropout before the classifier here; stochastic depth is "
    "drop_path_rate",
    "exportable": "leave it out, every model can be exported",
    "features_only": "get_backbone returns feature maps, get_model logits",
    "global_pool": "get_model always averages; get_backbone returns maps",
    "grad_checkpointing": "it is with_cp here, or call set_grad_checkpointing()",
    "in_chans": "it is in_channels here",
    "output_stride": "strides are 4, 8, 16 and 32 here; out_indices chooses among them",
    "pretrained_cfg": "it is pretrained=FILE here",
    "scriptable": "leave it out, see docs/deployment.md",
}


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
        num_classes: Number of classes; with 0 the averages, (B, C), are returned.

    Attributes:
        num_classes: See above.
        num_features: Number of averages, C.
    """

    def __init__(self, backbone: MLPBackbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        dim = backbone.out_channels[-1]
        if backbone.norm_after_pool:
            self.neck = PooledNorm(backbone.build_out_norm(dim))
        else:
            self.neck = PooledNorm(nn.Identity())
        self.num_features = dim
        self.reset_classifier(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, classes)."""
        (pooled,) = self.neck(self.backbone(x)[-1:])
        return self.head(pooled)

    def reset_classifier(self, num_classes: int) -> None:
        """Put a fresh head in place of the one there is.

        Args:
            num_classes: Number of classes; 0 leaves no head.

        Raises:
            ValueError: If it is no number, or negative.
        """
        if type(num_classes) is not int or num_classes < 0:
            raise ValueError(
                f"num_classes must be a number, 0 for no head, got {num_classes!r}"
            )
        self.num_classes = num_classes
        self.head: nn.Module = nn.Identity()
        if num_classes:
            zero = self.backbone.zero_head
            head = _LinearHead(self.num_features, num_classes, zero=zero)
            weight = next(self.backbone.parameters())
            self.head = head.to(weight.device, weight.dtype).train(self.training)

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are to be normalised for the published weights of this size."""
        return self.backbone.preprocessing

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass from now on, or store them again.

        Args:
            enable: What the backbone's ``with_cp`` is set to.
        """
        self.backbone.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that are trained without weight decay."""
        inside = {f"backbone.{name}" for name in self.backbone.no_weight_decay()}
        flat = {name for name, value in self.named_parameters() if value.ndim <= 1}
        return inside | flat


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


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """List the names of all models, or of those that fit a shell-style pattern.

    Args:
        pattern: Such as ``"cycle*"`` or ``"*_b1"``. The sizes that the digit-scenes
            configs train are listed where it names them, as ``"*_mini"`` does.
        pretrained: List only those that ``pretrained=True`` has weights for.

    Returns:
        Names ``{family}_{arch}``, families in alphabetical order, sizes in the order
        of the paper's table.
    """
    names = [
        f"{family}_{arch}"
        for family, cls in sorted(families().items())
        for arch in _arch_names(cls)
        if (arch in cls.arch_settings or MINI in pattern)
        and (arch in cls.released_weights or not pretrained)
    ]
    return [name for name in names if fnmatch(name, pattern)]


def get_backbone(
    name: str,
    *,
    pretrained: bool | str | Path | None = None,
    out_indices: Sequence[int] = (0, 1, 2, 3),
    **options: Any,
) -> MLPBackbone:
    """Build a backbone that returns a feature pyramid.

    Args:
        name: One of :func:`list_models`, the authors' or timm's name of it, or
            ``{family}_mini``, the backbone of the digit-scenes configs.
        pretrained: A checkpoint as in
            :func:`mlp_backbones.checkpoints.load_pretrained`, True for ``official``,
            or False. Nothing is downloaded unless this is an address, ``official`` or
            True.
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
    cls, arch = _resolve(name)
    _check_options(cls, options)
    arguments = {**_mini_options(cls, arch), **options}
    backbone = cls(arch, out_indices=out_indices, **arguments)
    _load(backbone, pretrained)
    return backbone


def get_model(
    name: str,
    *,
    pretrained: bool | str | Path | None = None,
    num_classes: int = 1000,
    **options: Any,
) -> Classifier:
    """Build an image classifier.

    Args:
        name: One of :func:`list_models`, the authors' or timm's name of it, or
            ``{family}_mini``, the backbone of the digit-scenes configs.
        pretrained: A checkpoint as in
            :func:`mlp_backbones.checkpoints.load_pretrained`, True for ``official``,
            or False. A head of another number of classes is dropped with a warning.
        num_classes: Number of classes; 0 leaves out the head.
        options: Further arguments of the backbone's class.

    Raises:
        ValueError: If there is no model of that name, or an argument is impossible.
    """
    cls, arch = _resolve(name)
    _check_options(cls, options)
    arguments = {**cls.classifier_arguments, **_mini_options(cls, arch), **options}
    model = Classifier(cls(arch, out_indices=(-1,), **arguments), num_classes)
    _load(model, pretrained)
    return model


def _load(model: nn.Module, pretrained: bool | str | Path | None) -> None:
    if not isinstance(pretrained, bool | str | Path | None):
        raise TypeError(
            "pretrained must be True or 'official' (the authors' weights), a file, an "
            f"address, or False, got {pretrained!r}"
        )
    if pretrained is not None and pretrained is not False:
        load_pretrained(model, "official" if pretrained is True else pretrained)


def _check_options(cls: type[MLPBackbone], options: dict[str, Any]) -> None:
    words = dict(_TIMM_WORDS)
    if takes_image_size(cls):
        words["img_size"] = "it is image_size here, the size of the training images"
    else:
        words["img_size"] = f"leave it out, {cls.__name__} takes images of any size"
    for key, hint in words.items():
        if key in options:
            raise TypeError(f"unknown argument {key}={options[key]!r}: {hint}")
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
            known = (
                f"{family}_{arch}",
                cls.official_names.get(arch),
                cls.timm_names.get(arch),
            )
            if name in known:
                return cls, arch
            tag = name.partition(".")[2]
            if tag and name.removesuffix(f".{tag}") in known:
                raise ValueError(
                    f"model {name!r}: leave out {'.' + tag!r}; weights are chosen by "
                    "pretrained, True for those that the authors published"
                )
    raise ValueError(
        f"unknown model {name!r}, choose one of {', '.join(list_models())}"
    )
