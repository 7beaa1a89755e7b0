"""Whether a config normalises images as its weights want it."""

import ast
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mlp_backbones.backbones import MLPBackbone
from mlp_backbones.checkpoints.read import CheckpointError, read_file
from mlp_backbones.registry import MODELS

__all__ = ["check_preprocessing"]


def check_preprocessing(config: Config, checkpoint: str | None = None) -> str | None:
    """Compare how a config normalises images with how its weights were trained.

    What is sure comes from the authors' weights (``init_cfg`` with ``official``, their
    address, or a file of that name) and from the config in a checkpoint of MMEngine.
    For other files of weights, what the family's published weights want is compared.

    Args:
        config: A whole detection, segmentation or classification config.
        checkpoint: A checkpoint that is tested or loaded as a whole; None means what
            the config starts from: ``load_from``, or else the backbone's ``init_cfg``.

    Returns:
        A warning in one line where the two differ, but the weights may have been
        trained so; None if there is nothing to say.

    Raises:
        ValueError: If weights and config are sure to differ.
    """
    backbone = config.model.get("backbone") or {}
    settings = config.model.get("data_preprocessor") or config.get("data_preprocessor")
    settings = settings or {}  # then nothing is normalised
    cls = _find_class(backbone.get("type"))
    if cls is None or backbone.get("in_channels", 3) != 3:
        return None
    arch = backbone.get("arch")
    usual = cls.preprocessing_of(arch if isinstance(arch, str) else None)
    released = cls.released_weights.get(arch) if isinstance(arch, str) else None
    source = checkpoint or config.get("load_from") or _pretrained(backbone)
    if source is None:
        return None
    difference = usual.difference(settings)
    if released and (source == "official" or Path(source).name == Path(released).name):
        if difference:
            raise ValueError(
                f"data_preprocessor: the official weights of {cls.__name__} {arch} "
                f"want another normalisation: {difference}"
            )
        return None
    trained_with = _settings_in(source)
    if trained_with is not None:
        for key, own in _facts(settings).items():
            if own != _facts(trained_with)[key]:
                raise ValueError(
                    f"data_preprocessor: {source} was trained with "
                    f"{key}={_facts(trained_with)[key]}, the config has {key}={own}"
                )
        return None
    if difference:
        return (
            f"data_preprocessor: published weights of {cls.__name__} want another "
            f"normalisation: {difference}; right only if {source} was trained so"
        )
    return None


def _facts(settings: Any) -> dict[str, Any]:
    """Return what of a ``data_preprocessor`` changes the values of pixels."""
    return {
        "mean": list(settings.get("mean") or ()),
        "std": list(settings.get("std") or ()),
        "rgb": bool(settings.get("bgr_to_rgb") or settings.get("to_rgb")),
    }


def _find_class(kind: Any) -> type[MLPBackbone] | None:
    """Return the class of a backbone of this package, named or given itself."""
    if isinstance(kind, str) and kind.startswith("mlp_backbones."):
        kind = MODELS.get(kind)
    is_ours = isinstance(kind, type) and issubclass(kind, MLPBackbone)
    return kind if is_ours else None


def _pretrained(backbone: Any) -> str | None:
    """Return the file or address of a backbone's ``Pretrained`` init_cfg."""
    configs = backbone.get("init_cfg") or []
    for item in [configs] if isinstance(configs, dict) else configs:
        if item and item.get("type") == "Pretrained":
            return str(item.get("checkpoint"))
    return None


def _settings_in(source: str) -> dict[str, Any] | None:
    """Read ``data_preprocessor`` from the config in a checkpoint, executing nothing."""
    path = Path(source)
    if not path.is_file():
        return None
    try:
        content = read_file(path)
    except CheckpointError:
        return None  # whoever loads it says why
    meta = content.get("meta") if isinstance(content, dict) else None
    text = meta.get("cfg") if isinstance(meta, dict) else None
    if not isinstance(text, str):
        return None
    try:
        statements = ast.parse(text).body
    except SyntaxError:
        return None
    found: dict[str, Any] = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(
            statement.targets[0], ast.Name
        ):
            found[statement.targets[0].id] = _plain(statement.value)
    for owner in (found.get("model"), found):
        settings = owner.get("data_preprocessor") if isinstance(owner, dict) else None
        if isinstance(settings, dict) and settings.get("mean") is not None:
            return settings
    return None


def _plain(node: ast.expr) -> Any:
    """Evaluate literals and ``dict(...)``; None for everything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id == "dict":
            return {item.arg: _plain(item.value) for item in node.keywords if item.arg}
        return None
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
