"""COCO annotation files: read fast, checked as a whole, and as mmdet loads them."""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from mlp_backbones.datasets.checks.report import NEARLY_ALL, DataError, check_file, few
from mlp_backbones.datasets.checks.shapes import (
    BOX_TOLERANCE,
    NUMBERS,
    box_problem,
    mask_problem,
    plausible_polygons,
)

__all__ = ["CocoFile", "CocoFiles"]

_CHUNK = 20_000  # annotations whose polygons are in memory at once
_UNSET = msgspec.UNSET
_FLAGS = frozenset([0, 1, None, _UNSET])


class _Image(msgspec.Struct, gc=False):
    id: Any = _UNSET
    file_name: Any = _UNSET
    width: Any = _UNSET
    height: Any = _UNSET


class _Annotation(msgspec.Struct, gc=False):
    id: Any = _UNSET
    image_id: Any = _UNSET
    category_id: Any = _UNSET
    bbox: Any = _UNSET
    area: Any = _UNSET
    iscrowd: Any = _UNSET
    ignore: Any = None
    segmentation: msgspec.Raw = msgspec.Raw()  # read only where masks are


class _Category(msgspec.Struct, gc=False):
    id: Any = _UNSET
    name: Any = _UNSET


class _Content(msgspec.Struct):
    images: list[_Image] | msgspec.UnsetType = _UNSET
    categories: list[_Category] | msgspec.UnsetType = _UNSET
    annotations: list[_Annotation] | msgspec.UnsetType = _UNSET


class CocoFiles:
    """Files of one run of the checks, each read once."""

    def __init__(self) -> None:
        self._files: dict[str, CocoFile] = {}

    def read(self, path: str, split: str) -> "CocoFile":
        """Return a file after the checks that everyone needs who reads it.

        Args:
            path: Of the file.
            split: 'train', 'val' or 'test'; 'test' may lack annotations.

        Raises:
            DataError: At the first fault, naming file and entry.
        """
        if path not in self._files:
            check_file(path, split)
            self._files[path] = _read(path)
        file = self._files[path]
        if split != "test" and not file.has_annotations:
            raise DataError(
                f"{path}: not a COCO annotation file (no list 'annotations')"
            )
        return file


@dataclass
class CocoFile:
    """A file whose entries are complete, unique, of the right types, and plausible.

    Attributes:
        path: Of the file.
        images: In file order, M of them.
        categories: In file order.
        annotations: In file order, N of them.
        has_annotations: Whether the file has a list of them, if only an empty one.
        sizes: Width and height of each image, px, (M, 2).
        image_index: Index of each annotation's image, (N,).
        boxes: Left, top, width, height, px, (N, 4).
        areas: In px, (N,).
    """

    path: str
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]
    has_annotations: bool
    sizes: np.ndarray
    image_index: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray

    def where(self, index: int) -> str:
        """Name an annotation in a message."""
        image = self.images[self.image_index[index]]
        number = self.annotations[index].id
        return f"{self.path}: annotation {number} of {image.file_name}"

    def ids(self, indices: Iterable[int]) -> str:
        """Return the first ids of annotations, for a message."""
        return few([self.annotations[index].id for index in indices])

    def objects(self) -> dict[Any, list[tuple[float, ...]]]:
        """Return the boxes of each image, sorted, by image id."""
        found: dict[Any, list[tuple[float, ...]]] = {one.id: [] for one in self.images}
        for item in self.annotations:
            found[item.image_id].append(tuple(item.bbox))
        return {number: sorted(boxes) for number, boxes in found.items()}

    def wanted(self, classes: Collection[str]) -> np.ndarray:
        """Return which annotations belong to a class, (N,)."""
        known = {one.id for one in self.categories if one.name in classes}
        return _flags(item.category_id in known for item in self.annotations)

    @cached_property
    def crowd(self) -> np.ndarray:
        """Which annotations are crowds, (N,)."""
        return _flags(
            bool(item.iscrowd) and item.iscrowd is not _UNSET
            for item in self.annotations
        )

    @cached_property
    def ignored(self) -> np.ndarray:
        """Which annotations mmdet leaves out for their ``ignore``, (N,)."""
        return _flags(bool(item.ignore) for item in self.annotations)

    @cached_property
    def unusable(self) -> dict[str, np.ndarray]:
        """What mmdet's loader drops for its values, by reason, (N,) each."""
        left, top, width, height = self.boxes.T
        image_width, image_height = self.sizes[self.image_index].T
        outside = ~(
            (np.minimum(left + width, image_width) > np.maximum(left, 0))
            & (np.minimum(top + height, image_height) > np.maximum(top, 0))
        )
        empty = self.areas <= 0
        thin = (width < 1) | (height < 1)
        return {
            "area <= 0": empty,
            "side < 1 px": thin & ~empty,
            "no pixel inside the image": outside & ~empty & ~thin,
        }

    def check_classes(
        self, classes: Sequence[str], source: str, by_id: bool = False
    ) -> None:
        """Refuse categories that give other labels than the config's classes.

        mmdet numbers the classes by the file: the names that the config wants, in the
        order of the file.

        Args:
            classes: What the config wants.
            source: Where that stands.
            by_id: Whether the reader sorts the categories by id first.

        Raises:
            DataError: If names are missing, double, or in another order.
        """
        for name, times in Counter(classes).items():
            if times > 1:
                raise DataError(f"{source} has {name!r} {times} times")
        order = self.categories
        if by_id:
            order = sorted(order, key=lambda category: category.id)
        names = [one.name for one in order]
        found = [name for name in names if name in classes]
        if found == list(classes):
            return
        if not found:
            raise DataError(
                f"{self.path}: no class matches: the file has {few(names)}; "
                f"the config wants {few(classes)}"
            )
        for name, times in Counter(found).items():
            if times > 1:
                raise DataError(
                    f"{self.path}: category {name!r} occurs {times} times, which "
                    "shifts the labels of those behind it; leave one"
                )
        absent = [name for name in classes if name not in found]
        if absent:
            raise DataError(
                f"{self.path}: its categories lack {few(map(repr, absent))} of "
                f"{source}, which shifts the labels of the classes behind it; list it "
                "there even if no annotation uses it, or take it out of the classes"
            )
        raise DataError(
            f"{self.path}: its categories stand in the order {few(found)}, {source} in "
            f"the order {few(classes)}; mmdet numbers them by the file: give both the "
            "same order"
        )

    def check_objects(self, classes: Collection[str]) -> list[str]:
        """Refuse a file of whose objects loaders and evaluators see next to none.

        Returns:
            A warning with counts and ids, where some are lost.
        """
        wanted = self.wanted(classes)
        total = int(wanted.sum())
        lost = {
            why: np.flatnonzero(bad & wanted & ~self.ignored)
            for why, bad in self.unusable.items()
        }
        number = sum(map(len, lost.values()))
        if not number:
            return []
        counts = "; ".join(
            f"{len(indices)} with {why}: annotations {self.ids(indices)}"
            for why, indices in lost.items()
            if len(indices)
        )
        told = f"{self.path}: {number} of {total} boxes are left out by the loader"
        if number >= NEARLY_ALL * total:
            if self.boxes[wanted].max() <= 1:
                counts += "; they look relative (0 to 1), COCO's are in pixels"
            raise DataError(f"{told}, nearly all ({counts})")
        return [f"{told} ({counts})"]

    def masks(self, indices: np.ndarray) -> Iterable[tuple[int, Any]]:
        """Yield index and mask of annotations; None where there is none."""
        decode = msgspec.json.Decoder().decode
        for index in indices.tolist():
            raw = self.annotations[index].segmentation
            if isinstance(raw, msgspec.Raw):
                raw = decode(raw) if len(memoryview(raw)) else None
            yield index, raw

    def check_run_lengths(self) -> None:
        """Refuse run lengths that do not fit their images.

        Raises:
            DataError: Naming annotation and image.
        """
        for index, item in enumerate(self.annotations):
            raw = item.segmentation
            if not isinstance(raw, msgspec.Raw) or memoryview(raw)[:1] == b"{":
                for _, mask in self.masks(np.array([index])):
                    if isinstance(mask, Mapping):
                        self._check_mask(index, mask)

    def check_masks(self, classes: Collection[str], evaluated: bool) -> None:
        """Refuse masks that mmdet or pycocotools drop, misread or stumble over.

        Args:
            classes: What the config wants.
            evaluated: Whether pycocotools reads them, which does not know ``ignore``.

        Raises:
            DataError: Naming annotation and image.
        """
        wanted = self.wanted(classes)
        indices = np.flatnonzero(wanted if evaluated else wanted & ~self.ignored)
        for start in range(0, len(indices), _CHUNK):
            chunk = indices[start : start + _CHUNK]
            if not self._plausible_masks(chunk):
                for index, mask in self.masks(chunk):  # one by one, to name the first
                    self._check_mask(index, mask)

    def _plausible_masks(self, indices: np.ndarray) -> bool:
        """Whether all are good polygons or run lengths; only whether, but fast."""
        decode = msgspec.json.Decoder(list[list[float]]).decode
        polygons: list[list[float]] = []
        counts = []
        others = []
        for index in indices.tolist():
            raw = self.annotations[index].segmentation
            if isinstance(raw, msgspec.Raw) and memoryview(raw)[:1] == b"[":
                try:
                    mask = decode(raw)
                except msgspec.ValidationError:
                    return False
                counts.append(len(mask))
                polygons += mask
            else:
                counts.append(0)
                others.append(index)
        if 0 in counts and counts.count(0) > len(others):
            return False
        for index, mask in self.masks(np.array(others, dtype=np.int64)):
            self._check_mask(index, mask)
        sizes = self.sizes[self.image_index[np.repeat(indices, counts)]]
        return plausible_polygons(polygons, sizes)

    def _check_mask(self, index: int, mask: Any) -> None:
        if not mask:
            raise DataError(f"{self.where(index)}: has no mask ('segmentation')")
        width, height = self.sizes[self.image_index[index]].tolist()
        problem = mask_problem(mask, (int(width), int(height)))
        if problem:
            raise DataError(f"{self.where(index)}: mask {problem}")

    def kept_images(
        self, classes: Collection[str], filter_cfg: Mapping[str, Any] | None
    ) -> tuple[np.ndarray, dict[str, int]]:
        """Return the images that mmdet's ``filter_data`` keeps, and what it drops.

        Args:
            classes: What the config wants.
            filter_cfg: Of the data set; None where it filters nothing.

        Returns:
            Indices of images, and counts by reason.
        """
        keep = np.ones(len(self.images), dtype=bool)
        dropped = {}
        if filter_cfg and filter_cfg.get("filter_empty_gt"):
            full = np.zeros_like(keep)
            full[self.image_index[self.wanted(classes)]] = True
            dropped["images without objects"] = int((~full).sum())
            keep &= full
        side = (filter_cfg or {}).get("min_size", 0)
        if side:
            small = self.sizes.min(axis=1) < side
            dropped[f"images below {side} px"] = int((small & keep).sum())
            keep &= ~small
        return np.flatnonzero(keep), {why: n for why, n in dropped.items() if n}


def _read(path: str) -> CocoFile:
    content = _decode(path)
    if content.images is _UNSET:
        raise DataError(f"{path}: not a COCO annotation file (no list 'images')")
    images = content.images
    _check_ids(images, "image", path, (int, str))
    _check_images(images, path)
    if content.categories is _UNSET:
        raise DataError(f"{path}: not a COCO annotation file (no list 'categories')")
    _check_ids(content.categories, "category", path, (int, str))
    for one in content.categories:
        if not isinstance(one.name, str):
            raise DataError(
                f"{path}: category {one.id} has {_told('name', one.name)}, "
                "expected a text"
            )
    has = content.annotations is not _UNSET
    items: list[_Annotation] = content.annotations if has else []  # type: ignore
    _check_ids(items, "annotation", path, (int, str))
    if not _plausible_annotations(items, images, content.categories):
        _check_annotations(items, images, content.categories, path)
    numbers = {one.id: number for number, one in enumerate(images)}
    file = CocoFile(
        path,
        images,
        content.categories,
        items,
        has,
        np.array([(one.width, one.height) for one in images], float).reshape(-1, 2),
        np.array([numbers[item.image_id] for item in items], dtype=np.int64),
        np.array([item.bbox for item in items], float).reshape(-1, 4),
        np.array([item.area for item in items], float),
    )
    _check_boxes(file)
    return file


def _decode(path: str) -> _Content:
    with open(path, "rb") as stream:
        content = stream.read()
    try:
        return msgspec.json.decode(content, type=_Content)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: not a COCO annotation file ({error})") from error
    except msgspec.DecodeError as error:
        reason = str(error)
    # Python writes NaN and Infinity, and reads them again; JSON has neither.
    try:
        loose = json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a JSON file ({reason})") from error
    if not isinstance(loose, dict):
        raise DataError(f"{path}: not a COCO annotation file (no object at the top)")
    kinds: dict[str, Any]
    kinds = {"images": _Image, "categories": _Category, "annotations": _Annotation}
    lists = {
        key: [_entry(kind, item) for item in loose[key] if isinstance(item, dict)]
        for key, kind in kinds.items()
        if isinstance(loose.get(key), list)
    }
    return _Content(**lists)


def _entry(kind: Any, item: Mapping[str, Any]) -> Any:
    return kind(**{name: item[name] for name in kind.__struct_fields__ if name in item})


def _told(name: str, value: Any) -> str:
    return f"no {name!r}" if value is _UNSET else f"{name} {value!r}"


def _flags(values: Iterable[bool]) -> np.ndarray:
    return np.fromiter(values, dtype=bool)


def _check_ids(
    items: Sequence[Any], what: str, path: str, allowed: tuple[type, ...]
) -> None:
    ids = [item.id for item in items]
    plural = "categories" if what == "category" else f"{what}s"
    if not {*map(type, ids)} <= {*allowed}:
        number = next(i for i, one in enumerate(ids) if type(one) not in allowed)
        told = _told("id", ids[number])
        raise DataError(f"{path}: an entry of {plural!r} (number {number}) has {told}")
    if len({*ids}) != len(ids):
        number, times = Counter(ids).most_common(1)[0]
        raise DataError(f"{path}: {what} id {number} occurs {times} times")


def _check_images(images: Sequence[_Image], path: str) -> None:
    if not images:
        raise DataError(f"{path}: the annotation file lists no image")
    for one in images:
        if not isinstance(one.file_name, str) or not one.file_name:
            told = _told("file_name", one.file_name)
            raise DataError(
                f"{path}: an entry of 'images' (id {one.id}) has {told}, "
                "expected the path of an image"
            )
        for name, value in (("width", one.width), ("height", one.height)):
            if type(value) not in NUMBERS or value % 1:
                raise DataError(
                    f"{path}: image {one.file_name} (id {one.id}) has "
                    f"{_told(name, value)}, expected a whole number"
                )
        if one.width <= 0 or one.height <= 0:
            raise DataError(
                f"{path}: image {one.file_name} has size {one.width}x{one.height}"
            )


def _plausible_annotations(
    items: Sequence[_Annotation],
    images: Sequence[_Image],
    categories: Sequence[_Category],
) -> bool:
    """Whether all values are of the right kind; only whether, but fast."""
    boxes, areas = [item.bbox for item in items], [item.area for item in items]
    try:
        good = {item.image_id for item in items} <= {one.id for one in images}
        good &= {item.category_id for item in items} <= {one.id for one in categories}
        good &= {item.iscrowd for item in items} <= _FLAGS
        good &= {item.ignore for item in items} <= _FLAGS
    except TypeError:  # a list, or the like
        return False
    return (
        good
        and {*map(type, boxes)} <= {list}
        and {*map(len, boxes)} <= {4}
        and {*map(type, chain.from_iterable(boxes))} <= {*NUMBERS}
        and {*map(type, areas)} <= {*NUMBERS}
        and bool((np.isfinite(areas) & (np.array(areas) >= 0)).all())
    )


def _check_annotations(
    items: Sequence[_Annotation],
    images: Sequence[_Image],
    categories: Sequence[_Category],
    path: str,
) -> None:
    """Name the first annotation with a value of the wrong kind."""
    names = {one.id: one.file_name for one in images}
    known = {one.id for one in categories}
    for item in items:
        for name in ("image_id", "category_id", "bbox", "area"):
            value = getattr(item, name)
            if value is _UNSET:
                raise DataError(
                    f"{path}: an entry of 'annotations' (id {item.id}) has no {name!r}"
                )
            if name.endswith("_id") and type(value) not in (int, str):
                raise DataError(
                    f"{path}: an entry of 'annotations' (id {item.id}) has "
                    f"{name} {value!r}, expected an id"
                )
        if item.image_id not in names:
            raise DataError(
                f"{path}: annotation {item.id} belongs to image {item.image_id!r}, "
                "which the file does not list"
            )
        if item.category_id not in known:
            raise DataError(
                f"{path}: annotation {item.id} has category {item.category_id!r}, "
                "which the file does not list"
            )
        told = f"{path}: annotation {item.id} of {names[item.image_id]}"
        box, area = item.bbox, item.area
        if not isinstance(box, list) or len(box) != 4:
            raise DataError(f"{told}: bbox {box} is not [x, y, width, height]")
        if not {*map(type, box)} <= {*NUMBERS}:
            raise DataError(f"{told}: bbox {box} is not of numbers")
        if type(area) not in NUMBERS or not math.isfinite(area) or area < 0:
            raise DataError(f"{told}: area is {area!r}, expected a number of pixels")
        for name, value in (("iscrowd", item.iscrowd), ("ignore", item.ignore)):
            if value not in [*_FLAGS]:
                raise DataError(f"{told}: {name} is {value!r}, expected 0 or 1")


def _check_boxes(file: CocoFile) -> None:
    left, top, width, height = file.boxes.T
    image_width, image_height = file.sizes[file.image_index].T
    with np.errstate(invalid="ignore"):
        good = (
            np.isfinite(file.boxes).all(axis=1)
            & (width >= 0)
            & (height >= 0)
            & (np.minimum(left, top) >= -BOX_TOLERANCE)
            & (left + width <= image_width + BOX_TOLERANCE)
            & (top + height <= image_height + BOX_TOLERANCE)
        )
    if not good.all():
        index = int(np.flatnonzero(~good)[0])
        x, y, w, h = file.annotations[index].bbox
        size = file.sizes[file.image_index[index]].astype(int).tolist()
        problem = box_problem((x, y, x + w, y + h), (size[0], size[1]))
        raise DataError(
            f"{file.where(index)}: bbox {file.annotations[index].bbox} {problem}"
        )
