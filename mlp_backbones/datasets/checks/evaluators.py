"""What an evaluator compares with, held against what the loader reads."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.registry import METRICS

from mlp_backbones.datasets.checks.classes import Classes
from mlp_backbones.datasets.checks.coco import CocoFile, CocoFiles
from mlp_backbones.datasets.checks.report import DataError, check_file, few

__all__ = ["LoadedData", "check_evaluator", "metrics_of"]


@dataclass(frozen=True)
class LoadedData:
    """What one data set of a split gives to the evaluator.

    Attributes:
        source: Its annotation file or folder.
        classes: Of the data set; None if unknown.
        images: File name by image id, as far as ids are known; None otherwise.
        narrowed: Why it reads fewer images than its file lists, for messages.
        repeated: Whether a wrapper reads images more than once.
    """

    source: str
    classes: Classes | None = None
    images: Mapping[Any, str] | None = None
    narrowed: str = ""
    repeated: bool = False


def metrics_of(evaluator: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the metrics' configs of an evaluator's config."""
    if isinstance(evaluator, Mapping):
        inner = evaluator.get("metrics")
        if isinstance(inner, (Mapping, Sequence)) and not isinstance(inner, str):
            yield from metrics_of(inner)
        else:
            yield evaluator
    elif isinstance(evaluator, Sequence):
        for one in evaluator:
            yield from metrics_of(one)


def _is_coco(kind: Any) -> bool:
    """Whether a metric is mmdet's CocoMetric, or one that inherits from it."""
    if isinstance(kind, str):
        # as a build would look it up: in the default scope first
        with METRICS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    return "CocoMetric" in [base.__name__ for base in getattr(kind, "__mro__", ())]


def check_evaluator(
    evaluator: Any, split: str, loaded: Sequence[LoadedData], files: CocoFiles
) -> tuple[tuple[str, ...], list[str]]:
    """Refuse an evaluator that judges other images or classes than are loaded.

    Args:
        evaluator: ``{split}_evaluator`` of a config, or None.
        split: 'val' or 'test'.
        loaded: What the data loader of the split reads.
        files: Annotation files read so far.

    Returns:
        The evaluator's annotation files, and warnings.

    Raises:
        DataError: At the first problem, naming both files.
    """
    metrics = [metric for metric in metrics_of(evaluator) if metric]
    apart = isinstance(evaluator, Mapping) and "MultiDatasets" in str(
        evaluator.get("type")
    )
    found: list[str] = []
    warnings: list[str] = []
    for number, metric in enumerate(metrics):
        data = loaded
        if apart and len(metrics) == len(loaded):
            data = loaded[number : number + 1]  # each judges a data set of its own
        for one in data:
            _check_metric(metric, split, one)
        path = metric.get("ann_file")
        if not path or not isinstance(path, str):
            continue
        found.append(path)
        if "://" in path:
            warnings.append(f"{split}_evaluator: {path} is remote and not checked")
            continue
        check_file(path, f"{split}_evaluator")
        if _is_coco(metric.get("type")):
            warnings += _check_coco_metric(metric, path, split, data, files)
        else:
            warnings.append(
                f"{split}_evaluator: {path} of {metric.get('type')} is not compared "
                "with what the data loader reads"
            )
    return tuple(found), warnings


def _check_metric(metric: Mapping[str, Any], split: str, data: LoadedData) -> None:
    """What metrics without a file of their own need from the data."""
    name = f"{split}_evaluator: {metric.get('type')}"
    zero = metric.get("reduce_zero_label")
    classes = data.classes
    if classes is None:
        return
    if zero is not None and zero != classes.reduce_zero_label:
        raise DataError(
            f"{name} has reduce_zero_label={zero}, the data set "
            f"{classes.reduce_zero_label}: labels would mean different classes"
        )
    ignored = metric.get("ignore_index", 255)
    if classes.reduce_zero_label and ignored != 255:
        raise DataError(
            f"{name} has ignore_index={ignored}, but with reduce_zero_label=True the "
            "loader gives 255 to the pixels to ignore: they would count as wrong"
        )
    topk = metric.get("topk", ())
    topk = [topk] if isinstance(topk, int) else topk
    if topk and max(topk) > len(classes.names):
        raise DataError(
            f"{name} has topk={tuple(topk)}, but there are only "
            f"{len(classes.names)} classes ({classes.source})"
        )


def _check_coco_metric(
    metric: Mapping[str, Any],
    path: str,
    split: str,
    loaded: Sequence[LoadedData],
    files: CocoFiles,
) -> list[str]:
    file = files.read(path, "test")
    warnings: list[str] = []
    names: Sequence[str] = ()
    for data in loaded[:1]:
        if data.classes is not None:
            names = data.classes.names
            by_id = bool(metric.get("sort_categories"))
            file.check_classes(names, data.classes.source, by_id)
    _check_images(file, split, loaded)
    warnings += _compare_objects(file, split, loaded, files)
    if metric.get("format_only"):
        return warnings
    if not file.has_annotations or not file.annotations:
        if split == "val":
            raise DataError(f"{path}: has no annotations to evaluate with")
        return [
            f"{split}: {path} has no annotations: the evaluator can only print -1; "
            "set format_only=True and outfile_prefix to write predictions instead"
        ]
    if names:
        warnings += file.check_objects(names)
        warnings += _check_values(file, metric, names)
    return warnings


def _check_values(
    file: CocoFile, metric: Mapping[str, Any], names: Sequence[str]
) -> list[str]:
    """Refuse values that pycocotools misreads or stumbles over at the very end."""
    for index, item in enumerate(file.annotations):
        if type(item.id) is not int or item.id == 0:
            raise DataError(
                f"{file.where(index)}: id {item.id!r} cannot be evaluated, as "
                "pycocotools takes 0 for 'no match'; number annotations from 1"
            )
        if type(item.iscrowd) not in (int, bool, float):
            told = "no 'iscrowd'" if item.iscrowd is not None else "iscrowd None"
            raise DataError(
                f"{file.where(index)}: has {told}, which the evaluation reads; "
                "write 0 for an ordinary object"
            )
    metrics = metric.get("metric", "bbox")
    if "segm" in ([metrics] if isinstance(metrics, str) else metrics):
        file.check_masks(names, evaluated=True)
    ids = [one.id for one in file.categories if one.name in names]
    if metric.get("classwise") and ids != sorted(ids):
        raise DataError(
            f"{file.path}: classwise=True needs categories in ascending order of their "
            f"ids, found {few(ids)}: results would be given to other classes"
        )
    wanted = file.wanted(names)
    if not wanted.any():
        return [
            f"{file.path}: no annotation belongs to a class of the data set "
            f"({few(names)}): the evaluator can only print -1"
        ]
    ignored = np.flatnonzero(file.ignored & wanted & ~file.crowd)
    if len(ignored):
        return [
            f"{file.path}: {len(ignored)} objects are marked ignore=1, which "
            "pycocotools counts as to be found unless iscrowd is 1: annotations "
            f"{file.ids(ignored)}"
        ]
    return []


def _compare_objects(
    file: CocoFile, split: str, loaded: Sequence[LoadedData], files: CocoFiles
) -> list[str]:
    """Tell of images that have other objects for the loader than are judged by."""
    warnings = []
    for data in loaded:
        if data.images is None or os.path.realpath(data.source) == os.path.realpath(
            file.path
        ):
            continue
        source = files.read(data.source, "test")
        if not source.annotations or not file.annotations:
            continue
        own, judged = source.objects(), file.objects()
        other = [n for n in data.images if n in judged and own[n] != judged[n]]
        if other:
            warnings.append(
                f"{split}: {len(other)} of {len(data.images)} images have other boxes "
                f"in the evaluator's file {file.path} than in {data.source}, such as "
                f"{few(other, 3)}: are these the same pictures?"
            )
    return warnings


def _check_images(file: CocoFile, split: str, loaded: Sequence[LoadedData]) -> None:
    """The loader reads each image of the evaluator's file once, and no other."""
    read: dict[Any, str] = {}
    for data in loaded:
        if data.images is None:
            return
        twice = [number for number in data.images if number in read]
        if twice or data.repeated:
            told = f"image {twice[0]}" if twice else "images"
            raise DataError(
                f"{split}: the loader reads {told} of {data.source} more than once: "
                "detections would be counted as often"
            )
        read.update(data.images)
    judged = {one.id: one.file_name for one in file.images}
    sources = " and ".join(data.source for data in loaded)
    why = "".join(data.narrowed for data in loaded)
    if read.keys() != judged.keys():
        missing = [number for number in judged if number not in read]
        more = [number for number in read if number not in judged]
        parts = [f"the evaluator's file {file.path} lists {len(judged)}"]
        if missing:
            parts.append(f"of which {few(missing, 3)} are not read")
        if more:
            parts.append(f"not among them {few(more, 3)}")
        raise DataError(
            f"{split}: the loader reads {len(read)} images of {sources}{why}, "
            f"{', '.join(parts)}; give both the same images"
        )
    for number, name in read.items():
        if os.path.basename(name) != os.path.basename(judged[number]):
            raise DataError(
                f"{split}: image {number} is {name} in {sources}, but "
                f"{judged[number]} in the evaluator's file {file.path}"
            )
