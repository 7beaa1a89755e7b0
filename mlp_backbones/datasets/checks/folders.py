"""Data sets made of folders: masks beside images, and one folder for each class."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlp_backbones.datasets.checks.images import (
    IMAGE_SUFFIXES,
    ImageLoader,
    ImageLooks,
    check_mask_file,
    short_name,
    spread,
)
from mlp_backbones.datasets.checks.report import (
    DataError,
    check_file,
    check_folder,
    check_present,
    few,
)

__all__ = ["LabelCounts", "check_classification", "check_segmentation"]

IGNORED = 255
_IMAGES_LOOKED_AT = 256  # of a training; reading a header takes a part of one
_MASKS_LOOKED_AT = 64  # a split; decoding one takes some milliseconds


class LabelCounts:
    """Counts the labels of masks as mmseg's loader gives them.

    Args:
        classes: Names in the order of the labels; None if unknown.
        reduce_zero_label: Of the data set.
        label_map: Of the data set.
    """

    def __init__(
        self,
        classes: Sequence[str] | None,
        reduce_zero_label: bool = False,
        label_map: Mapping[int, int] | None = None,
    ) -> None:
        self.classes = classes
        self.stored = np.zeros(256, dtype=np.int64)
        self.masks = 0
        labels: np.ndarray = np.arange(256)
        if reduce_zero_label:
            labels = np.where(labels == 0, IGNORED, labels - 1)
            labels[labels == IGNORED - 1] = IGNORED
        if label_map:
            mapped = labels.copy()
            for old, new in label_map.items():
                mapped[labels == int(old)] = new
            labels = mapped
        self.labels = labels  # what each stored value becomes

    def add(self, mask: np.ndarray, path: str) -> None:
        """Count one mask.

        Args:
            mask: As stored, (H, W), uint8.
            path: Of its file.

        Raises:
            DataError: If a label matches no class.
        """
        counts = np.bincount(mask.ravel(), minlength=256)
        self.stored += counts
        self.masks += 1
        if self.classes is None:
            return
        held = self.labels[np.flatnonzero(counts)]
        bad = held[(held != IGNORED) & (held >= len(self.classes))]
        if len(bad):
            raise DataError(
                f"{path}: label {bad.max()} matches no class: there are "
                f"{len(self.classes)} (0 to {len(self.classes) - 1})"
            )

    @property
    def held(self) -> list[int]:
        """Labels that occur, without the ignored one."""
        return sorted({*self.labels[np.flatnonzero(self.stored)].tolist()} - {IGNORED})

    @property
    def lost(self) -> bool:
        """Whether objects seem to be written as 255, which is ignored."""
        some = bool(self.stored[IGNORED]) or not self.held
        return self.masks > 0 and some and not set(self.held) - {0}

    def refuse_lost(self, split: str, folder: str) -> None:
        """Refuse masks of 0 and 255, of which nothing is learnt.

        Raises:
            DataError: If no mask has a label that counts.
        """
        if self.lost and len(self.classes or ()) != 1:
            values = few(np.flatnonzero(self.stored))
            raise DataError(
                f"{split}: the masks in {folder} hold no other values than {values}, "
                "of which all but the first class are ignored (255): nothing can be "
                "learnt or judged; write the number of its class for each pixel"
            )

    def absent(self, split: str, folder: str) -> list[str]:
        """Return a warning if some classes are in no mask."""
        names = [
            name
            for label, name in enumerate(self.classes or ())
            if label not in self.held
        ]
        if not names:
            return []
        number = len(self.classes or ())
        return [
            f"{split}: {len(names)} of {number} classes are in none of the "
            f"{self.masks} masks of {folder}: {few(names)}"
        ]


def check_segmentation(
    dataset: Any, split: str, config: Mapping[str, Any], skipping: bool
) -> tuple[str, int, int, list[str]]:
    """Check a data set with one mask for each image.

    Args:
        dataset: Built without reading its files.
        split: 'train', 'val' or 'test'.
        config: It was built from, with its pipeline.
        skipping: Whether the pipeline skips damaged images.

    Returns:
        Source, number of images and of masks, warnings.

    Raises:
        DataError: At the first problem.
    """
    folder = dataset.data_prefix.get("img_path") or ""
    masks = dataset.data_prefix.get("seg_map_path")
    check_folder(folder, split)
    if masks:
        check_folder(masks, split, "mask")
    listed = bool(dataset.ann_file) and not os.path.isdir(dataset.ann_file)
    if listed:
        check_file(dataset.ann_file, split)
    source = dataset.ann_file if listed else folder
    entries = dataset.load_data_list()
    if not entries:
        raise DataError(f"{split}: no image '*{dataset.img_suffix}' in folder {folder}")
    images = [entry["img_path"] for entry in entries]
    targets = [entry["seg_map_path"] for entry in entries if "seg_map_path" in entry]
    check_present(images, split, "image", source)
    check_present(targets, split, "mask", source)
    pipeline = config.get("pipeline")
    _check_pipeline(dataset, pipeline, split)
    warnings: list[str] = []
    if not listed:
        warnings += _left_out(folder, images, split, dataset.img_suffix)
        if masks:
            warnings += _without_image(masks, targets, split, dataset.seg_map_suffix)
    loader = ImageLoader.of(pipeline)
    if loader is None:
        return source, len(images), len(targets), warnings
    sizes: dict[str, tuple[int, int]] = {}
    if any(short_name(step) == "LoadAnnotations" for step in _steps(pipeline)) or (
        not pipeline
    ):
        sizes, more = _look_at_masks(dataset, targets, split, pipeline)
        warnings += more
    told = [sizes.get(entry.get("seg_map_path")) for entry in entries]
    looks = ImageLooks(split, loader)
    tellers = [f"its mask {entry.get('seg_map_path')} is" for entry in entries]
    warnings += look_at_images(looks, images, told, skipping, bool(targets), tellers)
    return source, len(images), len(targets), warnings


def look_at_images(
    looks: ImageLooks,
    paths: Sequence[str],
    told: Sequence[tuple[int, int] | None] | None,
    skipping: bool,
    annotated: bool = False,
    tellers: Sequence[str] | None = None,
) -> list[str]:
    """Look at the images of an evaluation, and at some of a training.

    Args:
        looks: What is done with each.
        paths: All images.
        told: Width and height that annotations tell, px.
        skipping: Whether the pipeline skips damaged images.
        annotated: Whether annotations belong to places in the image.
        tellers: Who tells each size, for messages.

    Returns:
        Warnings.

    Raises:
        DataError: For an image that is damaged, where the pipeline skips none.
    """
    most = _IMAGES_LOOKED_AT if looks.split == "train" else len(paths)
    chosen = {*spread(len(paths), most)}
    damaged = []
    for index in sorted(chosen):
        try:
            teller = tellers[index] if tellers else "its annotation file says"
            looks.look(paths[index], told[index] if told else None, annotated, teller)
        except DataError as error:
            if not skipping:
                raise
            damaged.append(error.line)
    if damaged and len(damaged) == len(chosen):
        raise DataError(
            f"{looks.split}: all {len(damaged)} images looked at are damaged, such as "
            f"{damaged[0]}"
        )
    skipped = [
        f"{looks.split}: {len(damaged)} of {len(chosen)} images looked at are damaged "
        f"and will be skipped: {few(damaged, 3)}"
    ]
    return looks.warnings + (skipped if damaged else [])


def _steps(pipeline: Sequence[Any] | None) -> Iterable[Mapping[str, Any]]:
    """The steps of a pipeline, and the loaders inside ours."""
    for step in pipeline or ():
        if isinstance(step, Mapping):
            yield step
            if isinstance(step.get("load"), Mapping):
                yield step["load"]


def _check_pipeline(dataset: Any, pipeline: Sequence[Any] | None, split: str) -> None:
    for step in _steps(pipeline):
        zero = step.get("reduce_zero_label")
        if zero is not None and zero != dataset.reduce_zero_label:
            raise DataError(
                f"{split}: reduce_zero_label is {zero} for {step['type']} and "
                f"{dataset.reduce_zero_label} for {type(dataset).__name__}; set it for "
                "the data set only"
            )
        classes, number = dataset.metainfo.get("classes"), step.get("num_classes")
        ours = short_name(step) == "CheckAnnotations"
        if ours and number and classes and number != len(classes):
            raise DataError(
                f"{split}: num_classes of {step['type']} is {number}, the data set "
                f"has {len(classes)} classes"
            )


def _look_at_masks(
    dataset: Any, targets: Sequence[str], split: str, pipeline: Sequence[Any] | None
) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Read some masks, or all where those say that something is wrong with all."""
    folder = dataset.data_prefix.get("seg_map_path")
    counts = LabelCounts(
        dataset.metainfo.get("classes"), dataset.reduce_zero_label, dataset.label_map
    )
    backend = next(
        (
            step.get("imdecode_backend", "pillow")
            for step in _steps(pipeline)
            if short_name(step) == "LoadAnnotations"
        ),
        "pillow",
    )
    sizes = {}
    chosen = spread(len(targets), _MASKS_LOOKED_AT)
    others = sorted({*range(len(targets))} - {*chosen})
    for index in [*chosen, *others]:
        if counts.masks >= len(chosen) and not counts.lost:
            break
        mask = check_mask_file(targets[index], backend)
        if mask is not None:
            counts.add(mask, targets[index])
            sizes[targets[index]] = (mask.shape[1], mask.shape[0])
    counts.refuse_lost(split, folder)
    whole = counts.masks == len(targets)
    return sizes, counts.absent(split, folder) if whole else []


def _files(folder: str, suffix: str | None = None) -> list[str]:
    """Files below a folder that are not hidden, in mmengine's way of looking."""
    found = []
    for root, _, names in os.walk(folder, followlinks=True):
        found += [
            os.path.join(root, name)
            for name in names
            if not name.startswith(".") and (suffix is None or name.endswith(suffix))
        ]
    return found


def _left_out(
    folder: str, images: Collection[str], split: str, taken: str
) -> list[str]:
    """Warn of image files that no data set entry stands for."""
    known = {os.path.normpath(path) for path in images}
    suffixes = Counter(
        os.path.splitext(path)[1]
        for path in _files(folder)
        if os.path.normpath(path) not in known
        and os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES
    )
    if not suffixes:
        return []
    kinds = ", ".join(f"{number} of {suffix}" for suffix, number in suffixes.items())
    return [
        f"{split}: {sum(suffixes.values())} images in {folder} are left out beside the "
        f"{len(images)} that are read ({kinds}): the data set reads {taken} only"
    ]


def _without_image(
    folder: str, targets: Collection[str], split: str, suffix: str
) -> list[str]:
    known = {os.path.normpath(path) for path in targets}
    alone = [p for p in _files(folder, suffix) if os.path.normpath(p) not in known]
    if not alone:
        return []
    return [
        f"{split}: {len(alone)} of {len(alone) + len(targets)} masks in {folder} have "
        f"no image that is read: {few(sorted(alone), 3)}"
    ]


def check_classification(
    dataset: Any, split: str, config: Mapping[str, Any], skipping: bool
) -> tuple[str, int, list[str]]:
    """Check class folders, or a list of files with labels.

    Args:
        dataset: Built without reading its files.
        split: 'train', 'val' or 'test'.
        config: It was built from, with its pipeline.
        skipping: Whether the pipeline skips damaged images.

    Returns:
        Source, number of images, warnings.

    Raises:
        DataError: At the first problem.
    """
    folder = dataset.img_prefix
    check_folder(folder, split)
    if dataset.ann_file:
        check_file(dataset.ann_file, split)
        _check_label_lines(dataset, split)
    try:
        entries = dataset.load_data_list()
    except (AssertionError, RuntimeError, OSError) as error:
        raise DataError(f"{split}: image folder {folder}: {error}") from error
    source = dataset.ann_file or folder
    paths = [entry["img_path"] for entry in entries]
    if not paths:
        raise DataError(f"{split}: {source} lists no image")
    check_present(paths, split, "image", source)
    warnings = []
    if not dataset.ann_file:
        warnings += _left_out(folder, paths, split, few(sorted(dataset.extensions), 9))
    classes = dataset.metainfo.get("classes")
    if classes and dataset.with_label:
        labels = {entry["gt_label"] for entry in entries}
        absent = [name for i, name in enumerate(classes) if i not in labels]
        if absent:
            warnings.append(
                f"{split}: {len(absent)} of {len(classes)} classes have no image in "
                f"{source}: {few(absent)}"
            )
    loader = ImageLoader.of(config.get("pipeline"))
    if loader is not None:
        looks = ImageLooks(split, loader)
        warnings += look_at_images(looks, paths, None, skipping)
    return source, len(paths), warnings


def folder_labels(dataset: Any) -> dict[str, int]:
    """Return which label a list gives to the images of each folder.

    Folders that hold several labels, or none, are no classes and are left out.
    """
    labels: dict[str, set[str]] = {}
    if dataset.ann_file and dataset.with_label and os.path.isfile(dataset.ann_file):
        text = Path(dataset.ann_file).read_text(encoding="utf-8")
        for line in text.splitlines():
            path, _, label = line.strip().rpartition(" ")
            folder = path.rpartition("/")[0]
            if folder and label.isdecimal():
                labels.setdefault(folder, set()).add(label)
    return {
        folder: int(next(iter(held)))
        for folder, held in labels.items()
        if len(held) == 1
    }


def _check_label_lines(dataset: Any, split: str) -> None:
    classes = dataset.CLASSES
    lines = Path(dataset.ann_file).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines if dataset.with_label else [], 1):
        label = line.strip().rpartition(" ")[2]
        where = f"{split}: {dataset.ann_file}, line {number}"
        if not (" " in line.strip() and label.isdecimal()):
            raise DataError(f"{where}: expected '<file> <label>', got {line!r}")
        if classes and int(label) >= len(classes):
            raise DataError(
                f"{where}: label {label} matches no class: the config has "
                f"{len(classes)} (0 to {len(classes) - 1})"
            )
