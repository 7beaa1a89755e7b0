"""Checks of the data a config points at, before and while it is read.

``check_data`` is cheap (folders, annotation files, names and numbers; no picture is
decoded) and meant to run before every training. ``check_samples`` reads everything.
"""

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DefaultScope

from mlp_backbones.registry import DATASETS, TRANSFORMS

__all__ = [
    "BOX_TOLERANCE",
    "DataError",
    "DatasetSummary",
    "check_data",
    "check_dataset_config",
    "check_image_bytes",
    "check_samples",
]

BOX_TOLERANCE = 1.0  # px a box may stand out: annotation tools round
SPLITS = ("train", "val", "test")

_TAIL = 4096  # bytes; the end mark of a whole image file is nearly always in here
_LOCAL_BACKENDS = ("local", "LocalBackend")
_NOT_FOR_LOAD_IMAGE = ("type", "skip_bad", "ignore_empty", "file_client_args")


class DataError(ValueError):
    """Something is wrong with the data; the message is one line and names it."""

    @property
    def line(self) -> str:
        """The message alone, also where a data worker put its traceback before it."""
        last = str(self).strip().splitlines()[-1]
        return last.removeprefix(f"{type(self).__module__}.{type(self).__name__}: ")


@dataclass(frozen=True)
class DatasetSummary:
    """What a check found.

    Attributes:
        split: 'train', 'val' or 'test'.
        source: Annotation file, or image folder where there is none.
        num_images: Images listed.
        num_annotations: Boxes, masks or labels.
    """

    split: str
    source: str
    num_images: int
    num_annotations: int


def check_data(config: Config, splits: Sequence[str] = SPLITS) -> list[DatasetSummary]:
    """Check the data sets of a config without decoding an image.

    Args:
        config: With ``{split}_dataloader`` and, for its annotation file,
            ``{split}_evaluator``. A split it does not have is left out; a data set that
            several splits share is read once.
        splits: Which to check.

    Returns:
        One summary for each data set inside the data loaders.

    Raises:
        DataError: At the first problem, naming the file or value.
        ValueError: If a split is unknown.
    """
    scope = config.get("default_scope")
    summaries: list[DatasetSummary] = []
    checked: list[dict] = []
    for split in splits:
        _check_split(split)
        loader = config.get(f"{split}_dataloader")
        if not loader or "dataset" not in loader:
            continue
        if split != "train":
            for inner in _unwrap(loader["dataset"]):
                _refuse_skipping(inner, split)
            _check_evaluator(config.get(f"{split}_evaluator"), split)
        # val and test are usually one data set, whatever is done to its images.
        data = {k: v for k, v in loader["dataset"].items() if k != "pipeline"}
        if split == "test" and data in checked:
            continue
        checked.append(data)
        summaries += check_dataset_config(loader["dataset"], split, scope)
    return summaries


def check_dataset_config(
    dataset: Mapping[str, Any], split: str, scope: str | None = None
) -> list[DatasetSummary]:
    """Check one data set, or each one inside wrappers, without decoding an image.

    COCO files: folders, parsing, classes, unique ids, images on disk, boxes inside
    their image, sizes of run-length masks. Segmentation folders: a mask for each image.
    Classification: folders or list, labels in range. For evaluation the images' first
    and last bytes are read too, as a truncated one would only lower the result.

    Args:
        dataset: Config of a data set or of a wrapper around some.
        split: 'train', 'val' or 'test'; 'test' may lack annotations.
        scope: Where an unscoped type is looked up, such as 'mmdet'. The current default
            scope if None.

    Raises:
        DataError: At the first problem, naming the file or value.
        ValueError: If a split is unknown.
    """
    _check_split(split)
    with _in_scope(scope):
        return [_check_one(inner, split) for inner in _unwrap(dataset)]


def check_samples(
    dataset: Mapping[str, Any],
    split: str,
    scope: str | None = None,
    progress: bool = False,
) -> list[str]:
    """Decode every image and annotation of a data set.

    Runs the loading transforms of the data set's own pipeline, and no others.

    Args:
        dataset: Config of a data set or of a wrapper around some.
        split: 'train', 'val' or 'test'.
        scope: As for ``check_dataset_config``.
        progress: Show a progress bar.

    Returns:
        One line for each bad image; empty if all are good.

    Raises:
        DataError: If the data set cannot be built at all.
    """
    from rich.progress import track

    problems: list[str] = []
    with _in_scope(scope):
        for inner in _unwrap(dataset):
            _check_one(inner, split)
            built = DATASETS.build({**inner, "pipeline": []})
            classes = built.metainfo.get("classes")
            load = _loading_transforms(
                inner.get("pipeline", []), len(classes) if classes else None
            )
            for index in track(
                range(len(built)),
                description=f"{split}: decoding",
                disable=not progress,
            ):
                sample = built.get_data_info(index)
                try:
                    for transform in load:
                        sample = transform(sample)
                except DataError as error:
                    problems.append(error.line)
    return problems


def check_image_bytes(content: bytes, path: str) -> None:
    """Refuse an image file that is empty or breaks off.

    Decoders fill the missing part of a truncated JPEG with grey and go on; the file
    itself tells, as it lacks the end mark.

    Args:
        content: Of the whole file, or its first and last bytes.
        path: For the message.

    Raises:
        DataError: If the file is empty or truncated.
    """
    if not content:
        raise DataError(f"{path}: the image file is empty")
    if content.startswith(b"\xff\xd8"):
        # A thumbnail in the header ends with the same mark: look behind it.
        whole = content.rfind(b"\xff\xd9") > _jpeg_scan_start(content)
    elif content.startswith(b"\x89PNG\r\n\x1a\n"):
        whole = b"IEND" in content[-_TAIL:]
    else:
        whole = True
    if not whole:
        raise DataError(f"{path}: the image file is truncated (no end mark)")


def _jpeg_scan_start(content: bytes) -> int:
    """Offset of the picture's own data, behind all headers."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xDA:  # start of scan
            return position
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return position


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")


def _in_scope(scope: str | None) -> Any:
    return DefaultScope.overwrite_default_scope(scope) if scope else nullcontext()


def _unwrap(dataset: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The data sets inside RepeatDataset, ConcatDataset and the like."""
    if isinstance(dataset.get("dataset"), Mapping):
        yield from _unwrap(dataset["dataset"])
    elif isinstance(dataset.get("datasets"), Sequence):
        for inner in dataset["datasets"]:
            yield from _unwrap(inner)
    else:
        yield dataset


def _check_one(config: Mapping[str, Any], split: str) -> DatasetSummary:
    if split != "train":
        _refuse_skipping(config, split)
    # Built without reading: the class itself joins its paths and knows its names.
    try:
        dataset = DATASETS.build({**config, "lazy_init": True, "pipeline": []})
    except (AssertionError, ValueError) as error:
        raise DataError(f"{split}: {' '.join(str(error).split())}") from error
    backend = (getattr(dataset, "backend_args", None) or {}).get("backend", "local")
    root = str(getattr(dataset, "data_root", "") or "")
    if backend not in _LOCAL_BACKENDS or "://" in root:
        print_log(f"{split}: data on {root or backend} are not checked", "current")
        return DatasetSummary(split, root or backend, 0, 0)
    # By what they have, not by class: any of the three packages may be missing.
    if hasattr(dataset, "COCOAPI"):
        return _check_coco(dataset, split)
    if hasattr(dataset, "seg_map_suffix") and hasattr(dataset, "img_suffix"):
        return _check_segmentation(dataset, split)
    if hasattr(dataset, "with_label") and hasattr(dataset, "extensions"):
        return _check_classification(dataset, split)
    if dataset.ann_file:
        _check_file(dataset.ann_file, split)
    return DatasetSummary(split, dataset.ann_file, 0, 0)


def _refuse_skipping(config: Mapping[str, Any], split: str) -> None:
    for transform in config.get("pipeline") or []:
        if isinstance(transform, Mapping) and transform.get("skip_bad"):
            raise DataError(
                f"{split}: skip_bad=True of {transform['type']} is for training only: "
                "an evaluation must not leave images out"
            )


def _check_file(path: str, split: str) -> None:
    if not os.path.isfile(path):
        raise DataError(f"{split}: annotation file {path} does not exist")
    if os.path.getsize(path) == 0:
        raise DataError(f"{split}: annotation file {path} is empty")


def _check_folder(path: str, split: str, what: str = "image") -> None:
    if not os.path.isdir(path):
        raise DataError(f"{split}: {what} folder {path} does not exist")
    with os.scandir(path) as entries:
        if next(entries, None) is None:
            raise DataError(f"{split}: {what} folder {path} is empty")


def _check_present(paths: Iterable[str], split: str, what: str, source: str) -> None:
    """Every file exists; one listing a folder instead of one question a file."""
    listings: dict[str, set[str]] = {}
    missing: list[str] = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listings:
            try:
                listings[folder] = set(os.listdir(folder or "."))
            except OSError:
                listings[folder] = set()
        if name not in listings[folder]:
            missing.append(path)
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(
            f"{split}: {what} {missing[0]}{more} does not exist, listed by {source}"
        )


def _check_ends(paths: Sequence[str], split: str) -> None:
    """Images of an evaluation are whole: reads their first and last bytes."""
    if split == "train":
        return
    for path in paths:
        with open(path, "rb") as file:
            head = file.read(_TAIL)
            size = os.fstat(file.fileno()).st_size
            if size > 2 * _TAIL:
                file.seek(-_TAIL, os.SEEK_END)
            tail = file.read()
        try:
            check_image_bytes(head + tail, path)
        except DataError:
            # Long headers, or data behind the end mark: the whole file decides.
            check_image_bytes(Path(path).read_bytes(), path)


def _few(names: Iterable[Any], number: int = 6) -> str:
    shown = [str(name) for name in names]
    more = f", ... ({len(shown)} in all)" if len(shown) > number else ""
    return ", ".join(shown[:number]) + more


def _check_coco(dataset: Any, split: str) -> DatasetSummary:
    path = dataset.ann_file
    _check_file(path, split)
    folder = dataset.data_prefix.get("img", "")
    _check_folder(folder, split)
    content = _read_coco(path, split)
    images = {image["id"]: image for image in content["images"]}
    if not images:
        raise DataError(f"{split}: annotation file {path} lists no image")
    _check_unique([image["id"] for image in content["images"]], "image", path)
    _check_unique([item["id"] for item in content["annotations"]], "annotation", path)
    for image in content["images"]:
        if image["width"] <= 0 or image["height"] <= 0:
            raise DataError(
                f"{path}: image {image.get('file_name', image['id'])} has size "
                f"{image['width']}x{image['height']}"
            )

    wanted = list(dataset.metainfo.get("classes", ()))
    names = {item["id"]: item["name"] for item in content["categories"]}
    known = {number for number, name in names.items() if name in wanted}
    if not known:
        raise DataError(
            f"{path}: no class matches: the file has {_few(names.values())}; "
            f"the config wants {_few(wanted)}"
        )
    absent = [name for name in wanted if name not in names.values()]
    if absent:
        print_log(
            f"{path}: classes of the config that the file does not have: "
            f"{_few(absent)}",
            "current",
            level=logging.WARNING,
        )
    _check_coco_annotations(content["annotations"], images, names, path)
    used = sum(item["category_id"] in known for item in content["annotations"])
    if used == 0 and split != "test":
        raise DataError(
            f"{path}: no annotation belongs to a class of the config ({_few(wanted)})"
        )

    paths = [
        os.path.join(folder, image["file_name"])
        for image in content["images"]
        if "file_name" in image
    ]
    _check_present(paths, split, "image", path)
    _check_ends(paths, split)
    return DatasetSummary(split, path, len(images), len(content["annotations"]))


def _read_coco(path: str, split: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a JSON file ({error})") from error
    needed: dict[str, tuple[str, ...]] = {
        "images": ("id", "width", "height"),
        "categories": ("id", "name"),
        "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    }
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a COCO annotation file (no object at the top)")
    if split == "test":
        content.setdefault("annotations", [])
    for key, fields in needed.items():
        if not isinstance(content.get(key), list):
            raise DataError(f"{path}: not a COCO annotation file (no list {key!r})")
        for item in content[key]:
            for name in fields:
                if name not in item:
                    raise DataError(
                        f"{path}: an entry of {key!r} (id {item.get('id')}) "
                        f"has no {name!r}"
                    )
    return content


def _check_unique(numbers: list[int], what: str, path: str) -> None:
    if len(set(numbers)) != len(numbers):
        number, times = Counter(numbers).most_common(1)[0]
        raise DataError(f"{path}: {what} id {number} occurs {times} times")


def _check_coco_annotations(
    annotations: list[dict],
    images: dict[int, dict],
    names: dict[int, str],
    path: str,
) -> None:
    degenerate = 0
    for item in annotations:
        number = item["id"]
        image = images.get(item["image_id"])
        if image is None:
            raise DataError(
                f"{path}: annotation {number} belongs to image "
                f"{item['image_id']}, which the file does not list"
            )
        if item["category_id"] not in names:
            raise DataError(
                f"{path}: annotation {number} has category "
                f"{item['category_id']}, which the file does not list"
            )
        size = (image["width"], image["height"])
        where = image.get("file_name", image["id"])
        box = item["bbox"]
        if len(box) != 4:
            raise DataError(
                f"{path}: annotation {number} of {where}: bbox {box} is not "
                "[x, y, width, height]"
            )
        left, top, width, height = box
        problem = box_problem((left, top, left + width, top + height), size)
        if problem:
            raise DataError(
                f"{path}: annotation {number} of {where}: bbox {box} {problem}"
            )
        degenerate += width == 0 or height == 0
        mask = item.get("segmentation")
        if isinstance(mask, dict):
            problem = mask_problem(mask, size)
            if problem:
                raise DataError(
                    f"{path}: annotation {number} of {where}: mask {problem}"
                )
    if degenerate:
        print_log(
            f"{path}: {degenerate} boxes without width or height are left out",
            "current",
            level=logging.WARNING,
        )


def box_problem(box: Sequence[float], size: tuple[int, int]) -> str | None:
    """Say what is wrong with a box.

    Args:
        box: (left, top, right, bottom), px.
        size: (width, height) of its image, px.

    Returns:
        The end of a sentence that begins with the box, or None.
    """
    left, top, right, bottom = box
    if not all(math.isfinite(value) for value in box):
        return "is not finite"
    if right < left or bottom < top:
        return "has a negative width or height"
    if (
        min(left, top) < -BOX_TOLERANCE
        or right > size[0] + BOX_TOLERANCE
        or bottom > size[1] + BOX_TOLERANCE
    ):
        return f"lies outside its image of {size[0]}x{size[1]} px"
    return None


def mask_problem(mask: Mapping | Sequence, size: tuple[int, int]) -> str | None:
    """Say what is wrong with an instance mask.

    Args:
        mask: COCO polygons or run lengths.
        size: (width, height) of its image, px.

    Returns:
        The end of a sentence that begins with the mask, or None.
    """
    if isinstance(mask, Mapping):
        if "size" not in mask or "counts" not in mask:
            return "has no run lengths ('size' and 'counts')"
        height, width = mask["size"]
        if (width, height) != tuple(size):
            return f"is {width}x{height} px, its image {size[0]}x{size[1]} px"
        return None
    for polygon in mask:
        if len(polygon) < 6 or len(polygon) % 2:
            continue  # the loaders leave such a polygon out
        horizontal, vertical = polygon[0::2], polygon[1::2]
        problem = box_problem(
            (min(horizontal), min(vertical), max(horizontal), max(vertical)), size
        )
        if problem:
            return problem
    return None


def _check_segmentation(dataset: Any, split: str) -> DatasetSummary:
    folder = dataset.data_prefix.get("img_path") or ""
    masks = dataset.data_prefix.get("seg_map_path")
    _check_folder(folder, split)
    if masks:
        _check_folder(masks, split, "mask")
    if dataset.ann_file and not os.path.isdir(dataset.ann_file):
        _check_file(dataset.ann_file, split)
        source = dataset.ann_file
    else:
        source = folder
    entries = dataset.load_data_list()
    if not entries:
        raise DataError(f"{split}: no image '*{dataset.img_suffix}' in folder {folder}")
    images = [entry["img_path"] for entry in entries]
    _check_present(images, split, "image", source)
    targets = [entry["seg_map_path"] for entry in entries if "seg_map_path" in entry]
    _check_present(targets, split, "mask", source)
    _check_ends(images, split)
    return DatasetSummary(split, source, len(images), len(targets))


def _check_classification(dataset: Any, split: str) -> DatasetSummary:
    folder = dataset.img_prefix
    _check_folder(folder, split)
    if dataset.ann_file:
        _check_file(dataset.ann_file, split)
        _check_label_lines(dataset, split)
    try:
        entries = dataset.load_data_list()
    except (AssertionError, RuntimeError, OSError) as error:
        raise DataError(f"{split}: image folder {folder}: {error}") from error
    source = dataset.ann_file or folder
    paths = [entry["img_path"] for entry in entries]
    _check_present(paths, split, "image", source)
    _check_ends(paths, split)
    return DatasetSummary(split, source, len(paths), len(paths))


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


def _check_evaluator(evaluator: Any, split: str) -> None:
    metrics = evaluator if isinstance(evaluator, Sequence) else [evaluator or {}]
    for metric in metrics:
        path = metric.get("ann_file")
        if path and "://" not in path:
            _check_file(path, f"{split}_evaluator")


def _loading_transforms(
    pipeline: Sequence[Mapping[str, Any]], num_classes: int | None
) -> list[Any]:
    load: list[Any] = []
    for transform in pipeline:
        name = transform["type"]
        short = (name if isinstance(name, str) else name.__name__).rpartition(".")[2]
        if short in ("LoadImage", "LoadImageFromFile"):
            options = {
                key: value
                for key, value in transform.items()
                if key not in _NOT_FOR_LOAD_IMAGE
            }
            load.append({**options, "type": "mlp_backbones.LoadImage"})
        elif short == "CheckAnnotations":
            load.append({"num_classes": num_classes, **transform, "skip_bad": False})
        elif short.startswith("Load"):
            load.append(
                {
                    "type": "mlp_backbones.CheckAnnotations",
                    "load": transform,
                    "num_classes": num_classes,
                }
            )
    return [TRANSFORMS.build(transform) for transform in load]
