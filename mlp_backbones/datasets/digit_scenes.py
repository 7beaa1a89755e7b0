"""Digit scenes: a small, real-looking data set made without a download.

Scenes are composed from the real handwritten digits and the real photographs
that ship with scikit-learn. One folder serves detection and instance
segmentation (COCO), semantic segmentation (ADE20K layout) and classification
(ImageFolder)::

    <root>/digit_scenes.json                         how the set was made
    <root>/annotations/instances_{train,val}.json    COCO boxes and masks
    <root>/{train,val}/*.jpg
    <root>/ade/images/{training,validation}/*.jpg    the same scenes
    <root>/ade/annotations/{training,validation}/*.png
    <root>/cls/{train,val}/<digit>/*.jpg             one centred digit each

Held-out pictures hold unseen handwriting on unseen ground: the digits are split
into two disjoint pools, and each photograph into two disjoint regions. Both splits are
fixed, so a val scene of one seed shares nothing with a train scene of another.

Semantic masks hold 0 for the background, which is a class of its own, and
``digit + 1`` for the digits: 11 classes and ``reduce_zero_label=False``.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CLASSES",
    "FORMATS",
    "MARKER_FILE",
    "METAINFO",
    "PALETTE",
    "SEG_CLASSES",
    "SEG_METAINFO",
    "SEG_PALETTE",
    "DigitObject",
    "DigitScene",
    "DigitScenesOptions",
    "digit_pool",
    "make_digit_scenes",
    "render_scene",
]

CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
PALETTE = [
    (230, 25, 75),
    (60, 180, 75),
    (255, 225, 25),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (70, 240, 240),
    (240, 50, 230),
    (210, 245, 60),
    (250, 190, 212),
]
METAINFO = {"classes": CLASSES, "palette": PALETTE}

SEG_CLASSES = ("background", *CLASSES)
SEG_PALETTE = [(0, 0, 0), *PALETTE]
SEG_METAINFO = {"classes": SEG_CLASSES, "palette": SEG_PALETTE}

FORMATS = ("coco", "ade", "cls")
SPLITS = ("train", "val")
MARKER_FILE = "digit_scenes.json"
FORMAT_VERSION = 1

_ADE_SPLITS = {"train": "training", "val": "validation"}
_TRAIN_SHARE_DIGITS = 0.8
_TRAIN_SHARE_PHOTO = 0.5  # of the width: each side has a building and a flower
_DIGIT_UPSCALE = 16
_INK_THRESHOLD = 0.5
_MIN_VISIBLE = 0.6
_MAX_PLACEMENTS = 20
_MAX_ROTATION = 25.0  # degrees; more would turn a 6 into a 9
_JPEG_QUALITY = 92

UInt8Array = NDArray[np.uint8]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class DigitScenesOptions:
    """What to make.

    Attributes:
        num_train: Scenes in the train split.
        num_val: Scenes in the val split.
        num_train_cls: Classification pictures in the train split, all classes
            together.
        num_val_cls: The same for the val split.
        size: Side of a scene, px.
        cls_size: Side of a classification picture, px.
        seed: The same seed and options give the same bytes.
        formats: Which of ``FORMATS`` to write.

    Raises:
        ValueError: If a count, size, seed or format is not allowed.
    """

    num_train: int = 1800
    num_val: int = 100
    num_train_cls: int = 6000
    num_val_cls: int = 500
    size: int = 192
    cls_size: int = 64
    seed: int = 0
    formats: tuple[str, ...] = field(default=FORMATS)

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise ValueError(
                f"formats must be some of {FORMATS}, got {tuple(self.formats)}"
            )
        counts: list[str] = []
        if "coco" in self.formats or "ade" in self.formats:
            counts += ["num_train", "num_val"]
        if "cls" in self.formats:
            counts += ["num_train_cls", "num_val_cls"]
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
        for name in ("size", "cls_size"):
            if not 32 <= getattr(self, name) <= 4096:
                raise ValueError(
                    f"{name} must be 32 to 4096 px, got {getattr(self, name)}"
                )
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")


@dataclass
class DigitObject:
    """One digit of a scene.

    Attributes:
        label: The digit, 0 to 9.
        sample: Index of the handwritten sample in scikit-learn's digits.
        mask: Visible pixels, (H, W).
        full_area: Pixels of the digit before others were laid over it.
    """

    label: int
    sample: int
    mask: BoolArray
    full_area: int


@dataclass
class DigitScene:
    """A picture and what is in it.

    Attributes:
        image: BGR, (H, W, 3).
        objects: In the order of painting; the visible masks are disjoint.
    """

    image: UInt8Array
    objects: list[DigitObject]

    def semantic_mask(self) -> UInt8Array:
        """Map of class ids: 0 background, ``digit + 1`` else, (H, W)."""
        semantic = np.zeros(self.image.shape[:2], np.uint8)
        for item in self.objects:
            semantic[item.mask] = item.label + 1
        return semantic


@lru_cache(maxsize=1)
def _load_sources() -> tuple[FloatArray, NDArray[np.int64], list[UInt8Array]]:
    """Digits (N, 8, 8) in 0..1, their labels (N,), and BGR photographs."""
    try:
        from sklearn.datasets import load_digits, load_sample_images
    except ImportError as error:
        raise ImportError(
            "the digit scenes are made from data that ship with scikit-learn: "
            "pip install scikit-learn pillow"
        ) from error
    digits = load_digits()
    photos = [
        np.ascontiguousarray(photo[..., ::-1]) for photo in load_sample_images().images
    ]
    return (
        (digits.images / 16).astype(np.float32),
        digits.target.astype(np.int64),
        photos,
    )


def digit_pool(split: str) -> NDArray[np.int64]:
    """Indices of the handwritten samples that a split may use.

    The cut is one point of scikit-learn's file, not a shuffle, and does not
    depend on a seed: pools of different splits never share a sample.

    Args:
        split: 'train' or 'val'.
    """
    _check_split(split)
    num_samples = len(_load_sources()[0])
    cut = round(num_samples * _TRAIN_SHARE_DIGITS)
    return np.arange(cut) if split == "train" else np.arange(cut, num_samples)


def _photo_regions(split: str) -> list[UInt8Array]:
    regions = []
    for photo in _load_sources()[2]:
        cut = round(photo.shape[1] * _TRAIN_SHARE_PHOTO)
        regions.append(photo[:, :cut] if split == "train" else photo[:, cut:])
    return regions


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")


def _generator(seed: int, kind: str, split: str, index: int) -> np.random.Generator:
    # One stream a picture: it does not depend on how many others are made.
    return np.random.default_rng(
        [seed, FORMATS.index(kind), SPLITS.index(split), index]
    )


def _background(rng: np.random.Generator, split: str, size: int) -> FloatArray:
    """A random crop of the split's part of a photograph, (size, size, 3)."""
    regions = _photo_regions(split)
    region = regions[rng.integers(len(regions))]
    largest = min(region.shape[:2])
    side = int(rng.integers(largest // 2, largest + 1))
    top = int(rng.integers(region.shape[0] - side + 1))
    left = int(rng.integers(region.shape[1] - side + 1))
    crop = region[top : top + side, left : left + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < 0.5:
        crop = crop[::-1]
    interpolation = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    crop = cv2.resize(
        np.ascontiguousarray(crop), (size, size), interpolation=interpolation
    ).astype(np.float32)
    mean = crop.mean()
    contrast = rng.uniform(0.5, 0.9)
    brightness = rng.uniform(-40, 40)
    return np.clip(mean + (crop - mean) * contrast + brightness, 0, 255)


def _digit_field(sample: int) -> tuple[FloatArray, tuple[float, float], float]:
    """A digit as a smooth field of ink.

    Returns:
        The field, its centre of ink (x, y) and the longer side of the ink, px
        of the field.
    """
    image = np.pad(_load_sources()[0][sample], 2)
    # Samples differ in pressure: each reaches full ink somewhere.
    image = image / image.max()
    smooth = cv2.resize(
        image, None, fx=_DIGIT_UPSCALE, fy=_DIGIT_UPSCALE, interpolation=cv2.INTER_CUBIC
    )
    smooth = cv2.GaussianBlur(smooth, (0, 0), _DIGIT_UPSCALE * 0.25)
    rows, columns = np.nonzero(smooth >= _INK_THRESHOLD)
    centre = ((columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2)
    side = max(np.ptp(columns), np.ptp(rows)) + 1
    return smooth, centre, float(side)


def _digit_alpha(sample: int, extent: float, angle: float) -> FloatArray:
    """Opacity of a digit, 0.5 and more inside its mask, cut to the mask.

    Args:
        sample: Index of the handwritten sample.
        extent: Longer side of the upright ink, px.
        angle: Rotation, degrees.

    Returns:
        The smallest map that holds every pixel of the mask, (h, w).
    """
    smooth, centre, side = _digit_field(sample)
    scale = extent / side
    canvas = math.ceil(extent * 1.5) + 4
    matrix = cv2.getRotationMatrix2D(centre, angle, scale)
    matrix[:, 2] += (canvas - 1) / 2 - np.asarray(centre)
    warped = cv2.warpAffine(smooth, matrix, (canvas, canvas), flags=cv2.INTER_LINEAR)
    # An edge of about 1.5 px whatever the scale.
    gain = max(_DIGIT_UPSCALE * scale / 1.5, 1.0)
    alpha = np.clip(0.5 + (warped - _INK_THRESHOLD) * gain, 0, 1)
    rows, columns = np.nonzero(alpha >= 0.5)
    if len(rows) == 0:
        return np.zeros((0, 0), np.float32)
    return alpha[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _ink_colour(rng: np.random.Generator, ground: FloatArray) -> FloatArray:
    """A random colour that stands out from the pixels around it.

    Args:
        rng: Draws the colours to choose from.
        ground: BGR pixels under and around the digit, (N, 3).
    """
    weights = np.array([0.114, 0.587, 0.299], np.float32)
    luminance = ground @ weights
    best: FloatArray = np.zeros(3, np.float32)
    best_share = -1.0
    for _ in range(24):
        colour = rng.uniform(0, 255, 3).astype(np.float32)
        share = float((abs(luminance - colour @ weights) >= 60).mean())
        if share > best_share:
            best, best_share = colour, share
        if share >= 0.9:
            break
    return best


def _paint(
    canvas: FloatArray, alpha: FloatArray, top: int, left: int, rng: np.random.Generator
) -> None:
    height, width = alpha.shape
    patch = canvas[top : top + height, left : left + width]
    near = cv2.dilate(alpha, np.ones((5, 5), np.uint8)) >= 0.5
    colour = _ink_colour(rng, patch[near])
    patch += alpha[..., None] * (colour - patch)


def render_scene(
    seed: int, split: str, index: int, size: int = DigitScenesOptions.size
) -> DigitScene:
    """Compose one scene of 1 to 6 digits.

    Digits measure 1/8 to 1/2.5 of the side and lie wholly inside the picture. A
    digit that would leave less than 60 % of an earlier one visible is moved, and left
    out when no place is found.

    Args:
        seed: Seed of the data set.
        split: 'train' or 'val'.
        index: Number of the scene in its split.
        size: Side of the scene, px.
    """
    _check_split(split)
    rng = _generator(seed, "coco", split, index)
    pool = digit_pool(split)
    labels = _load_sources()[1]
    canvas = _background(rng, split, size)
    objects: list[DigitObject] = []
    for _ in range(int(rng.integers(1, 7))):
        # By class first: the pools are not exactly balanced.
        label = int(rng.integers(10))
        sample = int(rng.choice(pool[labels[pool] == label]))
        # Log-uniform, so that large digits do not crowd the small ones out.
        extent = size * math.exp(rng.uniform(math.log(1 / 8), math.log(1 / 2.5)))
        alpha = _digit_alpha(sample, extent, rng.uniform(-_MAX_ROTATION, _MAX_ROTATION))
        height, width = alpha.shape
        if not 0 < max(height, width) <= size:
            continue
        for _ in range(_MAX_PLACEMENTS):
            top = int(rng.integers(size - height + 1))
            left = int(rng.integers(size - width + 1))
            mask = np.zeros((size, size), bool)
            mask[top : top + height, left : left + width] = alpha >= 0.5
            if all(
                (item.mask & ~mask).sum() >= _MIN_VISIBLE * item.full_area
                for item in objects
            ):
                break
        else:
            continue
        _paint(canvas, alpha, top, left, rng)
        for item in objects:
            item.mask &= ~mask
        objects.append(DigitObject(label, sample, mask, int(mask.sum())))
    return DigitScene(np.rint(canvas).astype(np.uint8), objects)


def _render_single(
    seed: int, split: str, index: int, size: int
) -> tuple[UInt8Array, int]:
    """One digit near the middle of a photo crop, and its class."""
    rng = _generator(seed, "cls", split, index)
    pool = digit_pool(split)
    label = index % len(CLASSES)
    sample = int(rng.choice(pool[_load_sources()[1][pool] == label]))
    canvas = _background(rng, split, size)
    alpha = _digit_alpha(
        sample,
        size * rng.uniform(0.45, 0.7),
        rng.uniform(-_MAX_ROTATION, _MAX_ROTATION),
    )
    height, width = alpha.shape
    jitter = rng.integers(-(size // 16), size // 16 + 1, 2)
    top = int(np.clip((size - height) // 2 + jitter[0], 0, size - height))
    left = int(np.clip((size - width) // 2 + jitter[1], 0, size - width))
    _paint(canvas, alpha, top, left, rng)
    return np.rint(canvas).astype(np.uint8), label


def _encode_jpeg(image: UInt8Array) -> bytes:
    return cv2.imencode(
        ".jpg",
        image,
        [
            cv2.IMWRITE_JPEG_QUALITY,
            _JPEG_QUALITY,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
        ],
    )[1].tobytes()


def _coco_annotation(item: DigitObject, annotation_id: int, image_id: int) -> dict:
    from pycocotools import mask as mask_utils

    # Run lengths, not polygons: a polygon cannot hold the hole of a 0 or an 8.
    encoded = mask_utils.encode(np.asfortranarray(item.mask, dtype=np.uint8))
    rows, columns = np.nonzero(item.mask)
    left, top = int(columns.min()), int(rows.min())
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": item.label + 1,
        "bbox": [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top],
        "area": len(rows),
        "iscrowd": 0,
        "segmentation": {
            "size": [int(side) for side in encoded["size"]],
            "counts": encoded["counts"].decode("ascii"),
        },
    }


def _write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(content, separators=(",", ":")) + "\n",
        encoding="utf-8",
        newline="\n",
    )


def _write_scenes(
    root: Path, options: DigitScenesOptions, split: str, step: Callable[[], None]
) -> None:
    number = options.num_train if split == "train" else options.num_val
    ade_images = root / "ade" / "images" / _ADE_SPLITS[split]
    ade_masks = root / "ade" / "annotations" / _ADE_SPLITS[split]
    coco_images = root / split
    wants_coco, wants_ade = "coco" in options.formats, "ade" in options.formats
    for folder in [coco_images] * wants_coco + [ade_images, ade_masks] * wants_ade:
        folder.mkdir(parents=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for index in range(number):
        scene = render_scene(options.seed, split, index, options.size)
        stem = f"{index:06d}"
        jpeg = _encode_jpeg(scene.image)
        if wants_coco:
            (coco_images / f"{stem}.jpg").write_bytes(jpeg)
            images.append(
                {
                    "id": index + 1,
                    "file_name": f"{stem}.jpg",
                    "width": options.size,
                    "height": options.size,
                }
            )
            for item in scene.objects:
                annotations.append(
                    _coco_annotation(item, len(annotations) + 1, index + 1)
                )
        if wants_ade:
            (ade_images / f"{stem}.jpg").write_bytes(jpeg)
            (ade_masks / f"{stem}.png").write_bytes(
                cv2.imencode(".png", scene.semantic_mask())[1].tobytes()
            )
        step()
    if wants_coco:
        _write_json(
            root / "annotations" / f"instances_{split}.json",
            {
                "info": {
                    "description": f"digit scenes, {split}",
                    "version": str(FORMAT_VERSION),
                    "seed": options.seed,
                },
                "licenses": [],
                "images": images,
                "annotations": annotations,
                "categories": [
                    {"id": label + 1, "name": name, "supercategory": "digit"}
                    for label, name in enumerate(CLASSES)
                ],
            },
        )


def _write_classification(
    root: Path, options: DigitScenesOptions, split: str, step: Callable[[], None]
) -> None:
    number = options.num_train_cls if split == "train" else options.num_val_cls
    for name in CLASSES:
        (root / "cls" / split / name).mkdir(parents=True)
    for index in range(number):
        image, label = _render_single(options.seed, split, index, options.cls_size)
        folder = root / "cls" / split / CLASSES[label]
        (folder / f"{index:06d}.jpg").write_bytes(_encode_jpeg(image))
        step()


def _check_target(out_dir: Path, overwrite: bool) -> None:
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise FileExistsError(f"{out_dir} exists and is not a folder")
    if not any(out_dir.iterdir()):
        return
    if not (out_dir / MARKER_FILE).is_file():
        raise FileExistsError(
            f"{out_dir} is not empty and holds no digit scenes "
            f"({MARKER_FILE} is missing): choose another folder"
        )
    if not overwrite:
        raise FileExistsError(
            f"{out_dir} already holds digit scenes: choose another folder or "
            "allow overwriting (--overwrite)"
        )


def make_digit_scenes(
    out_dir: str | os.PathLike[str],
    options: DigitScenesOptions | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Write the data set; the layout is in the module's docstring.

    The set is built beside ``out_dir`` and moved there when complete, so an
    interrupted run leaves neither half a set nor a lost one.

    Args:
        out_dir: Folder to make.
        options: What to make; the default set if None.
        overwrite: Replace a set of digit scenes that is already there. A
            folder with anything else in it is never replaced.
        progress: Show a progress bar.

    Returns:
        ``out_dir`` as a path.

    Raises:
        FileExistsError: ``out_dir`` may not be written.
        ImportError: If scikit-learn is missing.
    """
    options = options or DigitScenesOptions()
    root = Path(out_dir).resolve()
    _check_target(root, overwrite)
    _load_sources()
    building = root.with_name(f".{root.name}.{os.getpid()}.partial")
    building.mkdir(parents=True)
    try:
        for write, split, step in _jobs(options, progress):
            write(building, options, split, step)
        _write_json(
            building / MARKER_FILE,
            {"format_version": FORMAT_VERSION, **asdict(options)},
        )
        if root.exists():
            shutil.rmtree(root)
        building.rename(root)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Path(out_dir)


_Writer = Callable[[Path, DigitScenesOptions, str, Callable[[], None]], None]


def _jobs(
    options: DigitScenesOptions, progress: bool
) -> Iterator[tuple[_Writer, str, Callable[[], None]]]:
    """Writers to call, each with its split and a callback for one picture."""
    from rich.progress import Progress

    jobs: list[tuple[_Writer, str, str, int]] = []
    if "coco" in options.formats or "ade" in options.formats:
        jobs += [
            (_write_scenes, "train", "train scenes", options.num_train),
            (_write_scenes, "val", "val scenes", options.num_val),
        ]
    if "cls" in options.formats:
        jobs += [
            (_write_classification, "train", "train digits", options.num_train_cls),
            (_write_classification, "val", "val digits", options.num_val_cls),
        ]
    with Progress(disable=not progress) as bar:
        for write, split, name, number in jobs:
            task = bar.add_task(name, total=number)
            yield write, split, partial(bar.advance, task)
