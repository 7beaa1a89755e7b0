"""Moving the data sets of a config into another folder."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from mlp_backbones.engine.errors import UserError

_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def move_root(config: Config, new: str) -> Config:
    """Move every path below the folder that the data sets have now.

    Args:
        config: A whole config.
        new: The folder to take its place.

    Returns:
        The moved config.

    Raises:
        UserError: If there is no data set, or they lie in several folders.
    """
    roots = sorted(_roots(config))
    old = config.get("data_root")
    if not isinstance(old, str) or not _reaches(config, old):
        if len(roots) != 1:
            where = f"they lie in {', '.join(roots)}" if roots else "there is none"
            raise UserError(
                f"--cfg-options data_root={new} reaches no data set: {where}; set "
                "train_dataloader.dataset.data_root and the like"
            )
        old = roots[0]
    return _moved(config, old, new)


def follow_root_of_file(config: Config) -> Config:
    """Let a ``data_root`` that a derived config sets reach the data sets of its base.

    The base has joined its own into their paths; the new one alone nothing would read.
    """
    new = config.get("data_root")
    if not isinstance(new, str) or not _roots(config) or _reaches(config, new):
        return config
    for old in _roots_of_bases(str(config.filename)):
        if old != new and _reaches(config, old):
            return _moved(config, old, new)
    return config


def _roots_of_bases(file: str) -> Iterator[str]:
    """Yield the ``data_root`` of each base of a config file, the nearest first."""
    for base in Config._get_base_files(file):
        path, _ = Config._get_cfg_path(base, file)
        root = Config.fromfile(path).get("data_root")
        if isinstance(root, str):
            yield root
        yield from _roots_of_bases(str(path))


def _roots(config: Config) -> set[str]:
    """Collect the folders of the data sets, and where these name none their files'."""
    return {
        str(dataset["data_root"]).rstrip("/")
        for dataset in _datasets(config)
        if dataset.get("data_root")
    }


def _datasets(config: Config) -> Iterator[Mapping[str, Any]]:
    def inside(node: Any) -> Iterator[Mapping[str, Any]]:
        if isinstance(node, Mapping):
            inner = node.get("dataset"), *(node.get("datasets") or ())
            found = [one for one in inner if isinstance(one, Mapping)]
            for one in found:
                yield from inside(one)
            if not found:
                yield node

    for name in _LOADERS:
        loader = config.get(name)
        if isinstance(loader, Mapping):
            yield from inside(loader.get("dataset"))


def _reaches(config: Config, root: str) -> bool:
    """Whether a path of some data set lies in a folder."""
    return any(
        _lies_in(value, root) for one in _datasets(config) for value in _texts(one)
    )


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _texts(value)
    elif isinstance(node, str):
        yield node


def _lies_in(path: str, root: str) -> bool:
    root = root.rstrip("/")
    return path.rstrip("/") == root or path.startswith(f"{root}/")


def _moved(config: Config, old: str, new: str) -> Config:
    old, new = old.rstrip("/"), new.rstrip("/") or "/"

    def moved(node: Any) -> Any:
        if isinstance(node, dict):
            return type(node)({key: moved(value) for key, value in node.items()})
        if isinstance(node, (list, tuple)):
            return type(node)(moved(value) for value in node)
        if isinstance(node, str) and _lies_in(node, old):
            return new + node.rstrip("/")[len(old) :]
        return node

    content = moved(config.to_dict())
    content["data_root"] = new
    return Config(content, filename=config.filename)
