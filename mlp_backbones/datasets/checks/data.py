"""Checks of the data a config points at, before anything of them is decoded.

``check_data`` reads folders, annotation files and headers, and looks at a few images
and masks; it is meant to run before every training and test.
"""

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mlp_backbones.datasets.checks.classes import (
    Classes,
    compare_classes,
    dataset_classes,
)
from mlp_backbones.datasets.checks.coco import CocoFile, CocoFiles
from mlp_backbones.datasets.checks.evaluators import (
    LoadedData,
    check_evaluator,
    metrics_of,
)
from mlp_backbones.datasets.checks.folders import (
    check_classification,
    check_segmentation,
    folder_labels,
    look_at_images,
)
from mlp_backbones.datasets.checks.images import (
    ImageLoader,
    ImageLooks,
    short_name,
)
from mlp_backbones.datasets.checks.report import (
    NEARLY_ALL,
    DataError,
    DataReport,
    DatasetReport,
    check_file,
    check_folder,
    check_present,
    few,
)
from mlp_backbones.registry import DATASETS

__all__ = ["SPLITS", "check_data", "check_dataset_config", "classes_of"]

SPLITS = ("train", "val", "test")

_LOCAL_BACKENDS = ("local", "LocalBackend")
_REPEATING = ("RepeatDataset", "ClassBalancedDataset")
_MANY = 100_000  # entries of an unknown data set that are looked at


@dataclass(frozen=True)
class _Checked:
    """A report, and what the evaluator and other splits are compared with."""

    report: DatasetReport
    loaded: LoadedData
    labels: Mapping[str, int]  # of folders, where a list gives them

    def of_test(self) -> "_Checked":
        """The same for 'test'; its warnings were told once."""
        return replace(self, report=replace(self.report, split="test", warnings=()))


def check_data(config: Config, splits: Sequence[str] = SPLITS) -> DataReport:
    """Check the data sets of a config, and whether they agree with each other.

    Args:
        config: With ``{split}_dataloader`` and, for its annotation file,
            ``{split}_evaluator``. A split it does not have is left out; a file that
            several splits share is read once.
        splits: Which to check. The classes of the others are compared where they can
            be told without reading annotations.

    Returns:
        One report for each data set inside the data loaders.

    Raises:
        DataError: At the first problem, naming the file or value.
        ValueError: If a split is unknown.
    """
    files = CocoFiles()
    reports: list[DatasetReport] = []
    done: list[tuple[Any, list[_Checked]]] = []
    by_split: dict[str, list[_Checked]] = {}
    with in_scope(config.get("default_scope")), _uncollected():
        for split in splits:
            check_split(split)
            loader = config.get(f"{split}_dataloader")
            if not loader or "dataset" not in loader:
                continue
            evaluator = config.get(f"{split}_evaluator")
            if split == "train":
                evaluator = None
            # val and test are usually one data set.
            key = _as_loaded(loader["dataset"])
            known = next((found for data, found in done if data == key), None)
            if split == "test" and known is not None:
                for inner, _ in unwrap(loader["dataset"]):
                    refuse_skipping(inner, split)
                checked = [one.of_test() for one in known]
            else:
                segm = _judges_masks(evaluator)
                checked = [
                    _check_one(inner, split, files, segm, repeated)
                    for inner, repeated in unwrap(loader["dataset"])
                ]
                done.append((key, checked))
            found, warnings = check_evaluator(
                evaluator, split, [one.loaded for one in checked], files
            )
            by_split[split] = checked
            for one in checked:
                own = tuple(dict.fromkeys([*one.report.warnings, *warnings]))
                report = replace(one.report, evaluator_files=found, warnings=own)
                reports.append(report)
        _compare_splits(config, by_split)
    return DataReport(tuple(reports))


def check_dataset_config(
    dataset: Mapping[str, Any], split: str, scope: str | None = None
) -> list[DatasetReport]:
    """Check one data set, or each one inside wrappers.

    Args:
        dataset: Config of a data set or of a wrapper around some.
        split: 'train', 'val' or 'test'; 'test' may lack annotations.
        scope: Where an unscoped type is looked up, such as 'mmdet'. The current default
            scope if None.

    Raises:
        DataError: At the first problem, naming the file or value.
        ValueError: If a split is unknown.
    """
    check_split(split)
    files = CocoFiles()
    with in_scope(scope), _uncollected():
        checked = [_check_one(one, split, files) for one, _ in unwrap(dataset)]
        _compare(checked, split, checked, split)
    return [one.report for one in checked]


def classes_of(config: Config, split: str) -> Classes | None:
    """Return the classes of a split and where they come from.

    Only folders are listed; no annotation is read.

    Args:
        config: With ``{split}_dataloader``.
        split: 'train', 'val' or 'test'.

    Returns:
        The classes of its first data set; None if the config has no such split, or the
        data set does not tell.

    Raises:
        DataError: If the data set contradicts itself.
    """
    check_split(split)
    loader = config.get(f"{split}_dataloader")
    if not loader or "dataset" not in loader:
        return None
    with in_scope(config.get("default_scope")):
        inner, _ = next(unwrap(loader["dataset"]))
        dataset = _build(inner, split)
        return dataset_classes(dataset, inner) if hasattr(dataset, "metainfo") else None


def check_split(split: str) -> None:
    """Refuse the name of a split that does not exist."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")


def in_scope(scope: str | None) -> Any:
    """Return a context in which unscoped types are looked up in ``scope``."""
    return DefaultScope.overwrite_default_scope(scope) if scope else nullcontext()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from walking over a million entries, all the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def unwrap(
    dataset: Mapping[str, Any], repeated: bool = False
) -> Iterator[tuple[Any, bool]]:
    """Yield the data sets inside wrappers, and whether one repeats their images."""
    kind = str(dataset.get("type", "")).rpartition(".")[2]
    repeated = repeated or (kind in _REPEATING and dataset.get("times", 2) > 1)
    if isinstance(dataset.get("dataset"), Mapping):
        yield from unwrap(dataset["dataset"], repeated)
    elif isinstance(dataset.get("datasets"), Sequence):
        for inner in dataset["datasets"]:
            yield from unwrap(inner, repeated)
    else:
        yield dataset, repeated


def _as_loaded(dataset: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two configs have in common that read the same in the same way."""
    loaders: list[Any] = []
    for step in dataset.get("pipeline") or ():
        name = short_name(step) if isinstance(step, Mapping) else ""
        if name == "CheckAnnotations":
            step = step.get("load") or {}
            name = short_name(step)
        if name.startswith("Load"):
            own = ("type", "skip_bad", "max_skips")
            kind = name.removesuffix("FromFile")
            loaders.append([kind, {k: v for k, v in step.items() if k not in own}])
    loaders.sort(key=str)
    return {k: v for k, v in dataset.items() if k != "pipeline"}, loaders


def _build(config: Mapping[str, Any], split: str) -> Any:
    """Build without reading: the class itself joins its paths and knows its names."""
    try:
        try:
            return DATASETS.build({**config, "lazy_init": True, "pipeline": []})
        except TypeError:  # a class of the user's own may know neither
            return DATASETS.build(dict(config))
    except Exception as error:
        reason = " ".join(str(error).split())
        if isinstance(error, (AssertionError, ValueError)):
            raise DataError(f"{split}: {reason}") from error
        raise DataError(
            f"{split}: {config.get('type')} cannot be built "
            f"({type(error).__name__}: {reason})"
        ) from error


def _compare_splits(config: Config, by_split: dict[str, list[_Checked]]) -> None:
    for split, checked in by_split.items():
        _compare(checked, split, checked, split)
    for first, second in combinations(by_split, 2):
        _compare(by_split[first], first, by_split[second], second)
    for split in SPLITS:
        if split in by_split or not by_split:
            continue
        try:
            classes = classes_of(config, split)
        except DataError:
            continue  # it is not asked for
        name, checked = next(iter(by_split.items()))
        for one in checked:
            if classes is not None and one.loaded.classes is not None:
                compare_classes(classes, split, one.loaded.classes, name)


def _compare(
    first: Sequence[_Checked], name: str, second: Sequence[_Checked], other: str
) -> None:
    """Refuse labels that mean different classes in two splits."""
    for one in first[:1]:
        for two in second:
            if one.loaded.classes is not None and two.loaded.classes is not None:
                compare_classes(one.loaded.classes, name, two.loaded.classes, other)
            for folder, label in two.labels.items():
                if one.labels.get(folder, label) != label:
                    raise DataError(
                        f"{folder} has label {one.labels[folder]} in "
                        f"{one.report.source} and {label} in {two.report.source}"
                    )


def _check_one(
    config: Mapping[str, Any],
    split: str,
    files: CocoFiles,
    judges_masks: bool = False,
    repeated: bool = False,
) -> _Checked:
    if split != "train":
        refuse_skipping(config, split)
    dataset = _build(config, split)
    kind = type(dataset).__name__
    backend = (getattr(dataset, "backend_args", None) or {}).get("backend", "local")
    root = str(getattr(dataset, "data_root", "") or "")
    if backend not in _LOCAL_BACKENDS or "://" in root:
        warning = f"{split}: data on {root or backend} are not checked"
        return _unread(DatasetReport(split, kind, root or backend, 0, 0), warning)
    if not (hasattr(dataset, "metainfo") and hasattr(dataset, "full_init")):
        warning = f"{split}: {kind} is no data set of MMEngine's and is not checked"
        number = len(dataset) if hasattr(dataset, "__len__") else 0
        return _unread(DatasetReport(split, kind, kind, number, 0), warning)
    if _loads_like(dataset, "CocoDataset", "parse_data_info", "filter_data"):
        return _check_coco(dataset, split, config, files, judges_masks, repeated)
    skipping = skips_bad(config)
    if _loads_like(dataset, "BaseSegDataset", "get_label_map"):
        classes = dataset_classes(dataset, config)
        source, images, objects, warnings = check_segmentation(
            dataset, split, config, skipping
        )
    elif _loads_like(dataset, "CustomDataset", "_find_samples"):
        classes = dataset_classes(dataset, config)
        source, images, warnings = check_classification(
            dataset, split, config, skipping
        )
        objects = images if dataset.with_label else 0
    else:
        return _check_unknown(dataset, config, split)
    indices = len(_kept(np.arange(images), dataset, split))
    dropped = {"by indices": images - indices} if indices != images else {}
    report = DatasetReport(
        split,
        kind,
        source,
        indices,
        min(objects, indices),
        classes.names if classes else None,
        classes.source if classes else "",
        dropped,
        warnings=tuple(warnings),
    )
    labels = folder_labels(dataset) if hasattr(dataset, "with_label") else {}
    return _Checked(report, LoadedData(source, classes), labels)


def _unread(report: DatasetReport, warning: str) -> _Checked:
    report = replace(report, warnings=(warning,))
    return _Checked(report, LoadedData(report.source), {})


def _loads_like(dataset: Any, name: str, *methods: str) -> bool:
    """Whether a data set reads its files as the class of this name does.

    By name, as any of the three packages may be missing.
    """
    for base in type(dataset).__mro__:
        if base.__name__ == name:
            return all(
                getattr(type(dataset), method, None) is getattr(base, method, None)
                or getattr(getattr(type(dataset), method, None), "__func__", 0)
                is getattr(getattr(base, method, None), "__func__", 1)
                for method in ("load_data_list", *methods)
            )
    return False


def skips_bad(config: Mapping[str, Any]) -> bool:
    """Whether the pipeline of a data set skips damaged images."""
    return any(
        isinstance(step, Mapping) and bool(step.get("skip_bad"))
        for step in config.get("pipeline") or []
    )


def refuse_skipping(config: Mapping[str, Any], split: str) -> None:
    """Refuse an evaluation that leaves images out."""
    for step in config.get("pipeline") or []:
        if isinstance(step, Mapping) and step.get("skip_bad"):
            raise DataError(
                f"{split}: skip_bad={step['skip_bad']} of {step['type']} is for "
                "training only: an evaluation must not leave images out"
            )


def _judges_masks(evaluator: Any) -> bool:
    return any(
        "segm" in ([kinds] if isinstance(kinds, str) else list(kinds))
        for metric in metrics_of(evaluator)
        for kinds in [(metric or {}).get("metric") or ()]
    )


def _loads_masks(pipeline: Any) -> bool:
    return any(
        isinstance(step, Mapping)
        and (step.get("with_mask") or _loads_masks([step.get("load")]))
        for step in pipeline or ()
    )


def _kept(indices: np.ndarray, dataset: Any, split: str) -> np.ndarray:
    """Apply ``indices`` of a data set."""
    chosen = getattr(dataset, "_indices", None)
    if chosen is None:
        return indices
    if isinstance(chosen, int):
        return indices[:chosen] if chosen >= 0 else indices[chosen:]
    if max(chosen, default=0) >= len(indices):
        raise DataError(
            f"{split}: indices of {type(dataset).__name__} go up to {max(chosen)}, but "
            f"there are {len(indices)} images"
        )
    return indices[list(chosen)]


def _check_coco(
    dataset: Any,
    split: str,
    config: Mapping[str, Any],
    files: CocoFiles,
    judges_masks: bool,
    repeated: bool,
) -> _Checked:
    path, folder = dataset.ann_file, dataset.data_prefix.get("img", "")
    check_file(path, split)
    check_folder(folder, split)
    file = files.read(path, split)
    classes = dataset_classes(dataset, config)
    if classes is None:
        raise DataError(f"{split}: {type(dataset).__name__} has no classes")
    file.check_classes(classes.names, classes.source)
    warnings = _check_coco_values(file, split, config, classes, judges_masks)
    narrowing = None if dataset.test_mode else dataset.filter_cfg
    filtered, dropped = file.kept_images(classes.names, narrowing)
    kept = _kept(filtered, dataset, split)
    if len(kept) < len(filtered):
        dropped["images by indices"] = len(filtered) - len(kept)
    if not len(kept):
        raise DataError(
            f"{split}: no image of {path} is left ({dropped} by filter_cfg and indices)"
        )
    small = sum(n for why, n in dropped.items() if why.startswith("images below"))
    if small >= NEARLY_ALL * len(file.images):
        raise DataError(
            f"{split}: filter_cfg={narrowing} leaves out {small} of "
            f"{len(file.images)} images of {path} for their size"
        )
    warnings += _look_at_coco_images(file, split, config, folder, kept)
    lost = np.zeros(len(file.annotations), dtype=bool)
    wanted = file.wanted(classes.names)
    reasons = {"marked ignore": file.ignored, **file.unusable}
    for why, flags in {"of other classes": ~wanted, **reasons}.items():
        number = int((flags & ~lost).sum())
        dropped |= {f"objects {why}": number} if number else {}
        lost |= flags
    of_kept = np.zeros(len(file.images), dtype=bool)
    of_kept[kept] = True
    report = DatasetReport(
        split,
        type(dataset).__name__,
        path,
        len(kept),
        int((~lost & of_kept[file.image_index]).sum()),
        classes.names,
        classes.source,
        dropped,
        warnings=tuple(warnings),
    )
    images = {file.images[i].id: file.images[i].file_name for i in kept.tolist()}
    why = f" ({few(f'{n} {key}' for key, n in dropped.items() if 'images' in key)})"
    loaded = LoadedData(
        path, classes, images, why if len(kept) < len(file.images) else "", repeated
    )
    return _Checked(report, loaded, {})


def _check_coco_values(
    file: CocoFile,
    split: str,
    config: Mapping[str, Any],
    classes: Classes,
    judges_masks: bool,
) -> list[str]:
    wanted = file.wanted(classes.names)
    if not file.annotations and split == "test":
        return [f"test: {file.path} has no annotations: there is nothing to judge by"]
    if not wanted.any():
        message = (
            f"{file.path}: no annotation belongs to a class of the config "
            f"({few(classes.names)})"
        )
        if split != "test":
            raise DataError(message)
        return [message]
    if not (wanted & ~file.crowd & ~file.ignored).any():
        raise DataError(
            f"{file.path}: all {int(wanted.sum())} objects are marked iscrowd or "
            "ignore: none can be learnt or judged"
        )
    warnings = file.check_objects(classes.names)
    if _loads_masks(config.get("pipeline")) or judges_masks:
        file.check_masks(classes.names, evaluated=False)
    else:
        file.check_run_lengths()
    used = {item.category_id for item in file.annotations}
    absent = [
        one.name
        for one in file.categories
        if one.name in classes.names and one.id not in used
    ]
    if absent:
        warnings.append(
            f"{file.path}: {len(absent)} of {len(classes.names)} classes have no "
            f"object: {few(absent)}"
        )
    return warnings


def _look_at_coco_images(
    file: CocoFile,
    split: str,
    config: Mapping[str, Any],
    folder: str,
    kept: np.ndarray,
) -> list[str]:
    paths = [os.path.join(folder, image.file_name) for image in file.images]
    check_present(paths, split, "image", file.path)
    loader = ImageLoader.of(config.get("pipeline"))
    if loader is None:
        return []
    told = [(int(one.width), int(one.height)) for one in file.images]
    chosen = kept.tolist()
    looks = ImageLooks(split, loader)
    return look_at_images(
        looks, [paths[i] for i in chosen], [told[i] for i in chosen], skips_bad(config)
    )


def _check_unknown(dataset: Any, config: Mapping[str, Any], split: str) -> _Checked:
    """Check what every data set of MMEngine's has: entries with paths and labels."""
    kind = type(dataset).__name__
    path = getattr(dataset, "ann_file", None)
    if path and isinstance(path, str) and not os.path.isdir(path):
        check_file(path, split)
    classes = dataset_classes(dataset, config)
    try:
        dataset.full_init()
        number = len(dataset)
        found = (dataset.get_data_info(i) for i in range(min(number, _MANY)))
        entries = [one for one in found if isinstance(one, Mapping)]
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{split}: {kind} cannot be read ({type(error).__name__}: {reason})"
        ) from error
    source = path or str(getattr(dataset, "data_root", "") or kind)
    if not number:
        raise DataError(f"{split}: {kind} finds no image in {source}")
    classes = classes or dataset_classes(dataset, config)  # reading may tell them
    paths = [one["img_path"] for one in entries if isinstance(one.get("img_path"), str)]
    check_present(paths, split, "image", source)
    objects = 0
    for entry in entries:
        labels = [one.get("bbox_label") for one in entry.get("instances") or ()]
        label = entry.get("gt_label")
        labels += label if isinstance(label, (list, tuple)) else [label]
        for one in labels:
            objects += one is not None
            if classes and isinstance(one, int) and one >= len(classes.names):
                raise DataError(
                    f"{split}: {entry.get('img_path', source)}: label {one} matches no "
                    f"class: there are {len(classes.names)}"
                )
    warning = (
        f"{split}: {kind} reads files in its own way: only the presence of images and "
        "the range of labels were checked, not values, left-out files or the evaluator"
    )
    report = DatasetReport(
        split,
        kind,
        source,
        number,
        objects,
        classes.names if classes else None,
        classes.source if classes else "",
        warnings=(warning,),
    )
    return _Checked(report, LoadedData(source, classes), {})
