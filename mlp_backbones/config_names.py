"""Configs of this package: where they lie, and what their names say."""

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TASKS", "ConfigName", "config_dir", "find_configs", "parse_config_name"]

TASKS = {
    "mmdet": "detection",
    "mmseg": "segmentation",
    "mmpretrain": "classification",
}
"""The task of a config by its ``default_scope``."""

_DENSE = re.compile(
    r"(?P<head>[a-z0-9-]+)_(?P<model>[a-z0-9-]+)(_(?P<neck>[a-z]+))?"
    r"_(?P<gpus>\d+)xb(?P<batch>\d+)-(?P<schedule>[a-z0-9]+)"
    r"_(?P<dataset>[a-z][a-z0-9-]*)"
)
_CLASSIFIER = re.compile(
    r"(?P<model>[a-z0-9-]+)_(?P<gpus>\d+)xb(?P<batch>\d+)(-(?P<schedule>[a-z0-9]+))?"
    r"_(?P<dataset>[a-z][a-z0-9-]*)"
)
_DENSE_FORM = "{head}_{family}-{size}_{neck}_{gpus}xb{batch}-{schedule}_{dataset}"
_CLASSIFIER_FORM = "{family}-{size}_{gpus}xb{batch}_in1k"


def config_dir() -> Path:
    """Return this package's folder of configs, in a checkout or an installation.

    For configs in other repositories, whose ``_base_`` may call it: MMEngine's
    ``package::config`` form knows a fixed list of packages only.

    Raises:
        FileNotFoundError: If neither is there.

    Example:
        >>> sorted(path.name for path in (config_dir() / "_base_" / "models").iterdir())
        ... # doctest: +ELLIPSIS
        ['image-classifier.py', ...]
    """
    package = Path(__file__).resolve().parent
    for folder in (package / ".mim" / "configs", package.parent / "configs"):
        if (folder / "_base_").is_dir():
            return folder
    raise FileNotFoundError(f"no configs beside {package} and none inside it")


@dataclass(frozen=True)
class ConfigName:
    """What the name of a config file says.

    Attributes:
        head: Such as ``retinanet``; None for a classifier.
        family: The family as in the name, such as ``cyclemlp``.
        size: Such as ``b1``.
        neck: Such as ``fpn``, or None.
        gpus: Number of GPUs the recipe is for.
        batch: Images a GPU takes in one step.
        schedule: Such as ``1x``, ``20e`` or ``40k``; None where the name has none.
        dataset: Such as ``coco`` or ``ade20k-512x512``.
    """

    head: str | None
    family: str
    size: str
    neck: str | None
    gpus: int
    batch: int
    schedule: str | None
    dataset: str


def find_configs(folder: str | Path) -> list[Path]:
    """List the configs one folder below, but for the parts in ``_base_``.

    Args:
        folder: The folder that holds ``_base_`` and one folder for each family.

    Raises:
        FileNotFoundError: If there are none, so that no test passes by testing
            nothing.
    """
    configs = sorted(
        path for path in Path(folder).glob("*/*.py") if path.parent.name != "_base_"
    )
    if not configs:
        raise FileNotFoundError(f"no configs in the folders of {folder}")
    return configs


def parse_config_name(path: str | Path) -> ConfigName:
    """Take the name of a config apart.

    Args:
        path: The file; the folder's name is the family's, with underscores.

    Raises:
        ValueError: If the name does not follow the rule.
    """
    path = Path(path)
    family = path.parent.name.replace("_", "-")
    for pattern in (_CLASSIFIER, _DENSE):
        match = pattern.fullmatch(path.stem)
        if match and match["model"].startswith(f"{family}-"):
            parts = match.groupdict()
            return ConfigName(
                head=parts.get("head"),
                family=family,
                size=match["model"].removeprefix(f"{family}-"),
                neck=parts.get("neck"),
                gpus=int(match["gpus"]),
                batch=int(match["batch"]),
                schedule=match["schedule"],
                dataset=match["dataset"],
            )
    raise ValueError(
        f"the name of {path} should read {_DENSE_FORM}.py (the neck may be left out) "
        f"or {_CLASSIFIER_FORM}.py, with {{family}} = {family}"
    )
