"""Which number stands for which class, and whether all agree about it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlp_backbones.datasets.checks.report import DataError, few

__all__ = ["Classes", "compare_classes", "compare_with_checkpoint"]


@dataclass(frozen=True)
class Classes:
    """Names in the order of their labels.

    Attributes:
        names: One for each label.
        source: Where they come from, for messages.
        folders: Class folders in the order of their labels, where labels come from
            folders.
        reduce_zero_label: Whether a segmentation ignores label 0; None otherwise.
    """

    names: tuple[str, ...]
    source: str
    folders: tuple[str, ...] = ()
    reduce_zero_label: bool | None = None


def dataset_classes(dataset: Any, config: Mapping[str, Any]) -> Classes | None:
    """Return the classes of a data set that was built without reading its files.

    Raises:
        DataError: If the names are no list, or class folders contradict them.
    """
    kind = type(dataset).__name__
    names = dataset.metainfo.get("classes")
    if isinstance(config.get("classes"), str):
        source = f"classes file {config['classes']}"
    elif config.get("classes"):
        source = f"classes of {kind}"
    elif "classes" in (config.get("metainfo") or {}):
        source = f"metainfo.classes of {kind}"
    else:
        source = f"{kind}.METAINFO"
    folders = class_folders(dataset)
    if folders:
        if names is None:
            names, source = folders, f"folders of {dataset.img_prefix}"
        _check_folder_names(names, source, folders, dataset.img_prefix)
    if names is None:
        return None
    if isinstance(names, str):
        raise DataError(
            f"{source} is {names!r}: there is no such file, and names are expected as "
            f"a list; for one class write ({names!r},)"
        )
    names = tuple(str(name) for name in names)
    zero = getattr(dataset, "reduce_zero_label", None)
    return Classes(names, source, folders, zero)


def class_folders(dataset: Any) -> tuple[str, ...]:
    """Folders that mmpretrain numbers as classes, in its order.

    Raises:
        DataError: For a hidden folder, which mmpretrain numbers too.
    """
    if not (getattr(dataset, "with_label", False) and hasattr(dataset, "extensions")):
        return ()
    root = dataset.img_prefix
    if dataset.ann_file or not os.path.isdir(root):
        return ()
    with os.scandir(root) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir())
    hidden = [name for name in folders if name.startswith(".")]
    if hidden:
        raise DataError(
            f"{os.path.join(root, hidden[0])}: mmpretrain takes this hidden folder for "
            "a class, which shifts the labels of the others; remove it"
        )
    return tuple(folders)


def _check_folder_names(
    names: Sequence[str], source: str, folders: Sequence[str], root: str
) -> None:
    """Names may translate folder names, but not put these in another order."""
    for label, folder in enumerate(folders):
        if folder in names and list(names).index(folder) != label:
            raise DataError(
                f"{source}: {folder!r} is number {list(names).index(folder)}, but "
                f"number {label} of the sorted folders of {root}, which make the "
                "labels; put the names in the order of the folders"
            )


def compare_classes(
    first: Classes, first_name: str, second: Classes, second_name: str
) -> None:
    """Refuse two splits whose labels mean different classes.

    Args:
        first: Classes of one split.
        first_name: 'train' and the like, for the message.
        second: Classes of the other.
        second_name: Its name.

    Raises:
        DataError: Naming both and the difference.
    """
    if first.folders and second.folders and first.folders != second.folders:
        difference = _difference(
            first.folders, first_name, second.folders, second_name, "class folders"
        )
        raise DataError(
            f"{second.source} and {first.source}: {difference}; labels are numbers of "
            "the sorted folders, so give all splits the same ones (they may be empty)"
        )
    if first.names != second.names:
        difference = _difference(
            first.names, first_name, second.names, second_name, "classes"
        )
        raise DataError(
            f"{first_name} ({first.source}) and {second_name} ({second.source}): "
            f"{difference}"
        )
    if first.reduce_zero_label != second.reduce_zero_label:
        raise DataError(
            f"reduce_zero_label is {first.reduce_zero_label} for {first_name} and "
            f"{second.reduce_zero_label} for {second_name}: labels would mean "
            "different classes"
        )


def compare_with_checkpoint(
    classes: Classes, meta: Mapping[str, Any], checkpoint: str
) -> bool:
    """Refuse data whose labels mean other classes than those of a checkpoint.

    Args:
        classes: Of the data, from :func:`classes_of`.
        meta: ``meta`` of a checkpoint, or its ``dataset_meta``.
        checkpoint: Its name, for the message.

    Returns:
        Whether the checkpoint names its classes, so that they could be compared.

    Raises:
        DataError: Naming both and the difference.
    """
    inner = meta.get("dataset_meta")
    meta = inner if isinstance(inner, Mapping) else meta
    names = meta.get("classes", meta.get("CLASSES"))
    if not isinstance(names, Sequence) or isinstance(names, str) or not names:
        return False
    compare_classes(
        Classes(
            tuple(str(name) for name in names),
            f"checkpoint {checkpoint}",
            reduce_zero_label=meta.get("reduce_zero_label", classes.reduce_zero_label),
        ),
        "the checkpoint",
        Classes(
            classes.names, classes.source, reduce_zero_label=classes.reduce_zero_label
        ),
        "the data",
    )
    return True


def _difference(
    first: Sequence[str], first_name: str, second: Sequence[str], name: str, what: str
) -> str:
    missing = [one for one in first if one not in second]
    more = [one for one in second if one not in first]
    parts = [f"{len(second)} {what} of {name} and {len(first)} of {first_name} differ"]
    if missing:
        parts.append(f"{name} lacks {few(missing)}")
    if more:
        parts.append(f"{name} has {few(more)} besides")
    if not missing and not more:
        pairs = enumerate(zip(first, second, strict=True))
        number = next(number for number, (one, two) in pairs if one != two)
        parts.append(
            f"number {number} is {second[number]!r} for {name} and {first[number]!r} "
            f"for {first_name}"
        )
    return ", ".join(parts)
