"""Loading transforms that name the file when it is bad."""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine import fileio
from mmengine.config import Config
from mmengine.logging import print_log

from mlp_backbones.datasets.checks.data import classes_of, unwrap
from mlp_backbones.datasets.checks.images import (
    ImageLoader,
    check_image_bytes,
    check_mask_file,
    image_facts,
    short_name,
)
from mlp_backbones.datasets.checks.report import DataError
from mlp_backbones.datasets.checks.shapes import box_problem, mask_problem
from mlp_backbones.registry import TRANSFORMS

__all__ = ["CheckAnnotations", "LoadImage", "guard_pipelines"]


class _Skips:
    """Counts the bad images that were skipped, in all data workers together.

    Args:
        most: How many different ones may be; with another one, or with as many in a
            row, the training stops.
    """

    def __init__(self, most: int) -> None:
        if not isinstance(most, int) or most < 1:
            raise ValueError(f"max_skips must be at least 1, got {most!r}")
        self.most = most
        # Shared memory: workers write into what the main process made for them.
        self._marks = torch.zeros(most, dtype=torch.int64).share_memory_()
        self._in_a_row = 0

    def good(self) -> None:
        """Note an image that was not skipped."""
        self._in_a_row = 0

    def skip(self, path: str, error: DataError) -> None:
        """Note a bad image; warn of it once.

        Raises:
            DataError: If there are more than ``most``.
        """
        self._in_a_row += 1
        mark = int.from_bytes(
            hashlib.blake2b(path.encode(), digest_size=7).digest(), "big"
        )
        known = self._marks[self._marks != 0]
        new = mark not in known.tolist()
        if self._in_a_row > self.most or (new and len(known) == self.most):
            number = f"{len(known)} bad images were skipped"
            if self._in_a_row > self.most:
                number += f", the last {self._in_a_row} drawn all were bad"
            raise DataError(
                f"{number}; max_skips={self.most} allows no more: {error.line}; their "
                "names stand in the log"
            )
        if new:
            self._marks[len(known)] = mark
            print_log(
                f"skipped bad image, number {len(known) + 1} of at most {self.most}: "
                f"{error.line}",
                "current",
                level=logging.WARNING,
            )


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """Load an image, or say which file cannot be loaded and why.

    Takes the place of ``LoadImageFromFile`` in mmdet, mmseg and mmpretrain pipelines:
    same keys, same pixels. In addition a truncated file is an error; the decoders
    return it with a grey rest. Of what they change without a word (CMYK, more than 8
    bits, alpha, animations, a format that the name denies) the log tells the first
    image of each kind.

    Args:
        to_float32: Return float32 instead of uint8.
        color_type: Flag of ``mmcv.imfrombytes``.
        imdecode_backend: Backend of ``mmcv.imfrombytes``.
        backend_args: File backend; inferred from the path if None.
        skip_bad: Warn and return None, upon which the data set draws another image,
            instead of raising. For training only.
        max_skips: How many different images may be skipped, in all data workers of a
            process together, before the training stops.

    Raises:
        DataError: (when called) the file is missing, empty, truncated or undecodable,
            or more than ``max_skips`` are.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = "color",
        imdecode_backend: str = "cv2",
        *,
        backend_args: dict | None = None,
        skip_bad: bool = False,
        max_skips: int = 100,
    ) -> None:
        super().__init__(
            to_float32=to_float32,
            color_type=color_type,
            imdecode_backend=imdecode_backend,
            backend_args=backend_args,
        )
        self.skip_bad = skip_bad
        self._skips = _Skips(max_skips)
        self._how = ImageLoader(color_type, imdecode_backend)
        self._told: set[str] = set()

    def transform(self, results: dict) -> dict | None:
        """Add ``img`` (H, W, 3), ``img_shape`` and ``ori_shape`` (H, W).

        Args:
            results: With ``img_path``.
        """
        path = results["img_path"]
        try:
            image = self._load(path)
        except DataError as error:
            if not self.skip_bad:
                raise
            self._skips.skip(path, error)
            return None
        self._skips.good()
        if self.to_float32:
            image = image.astype(np.float32)
        results["img"] = image
        results["img_shape"] = image.shape[:2]
        results["ori_shape"] = image.shape[:2]
        return results

    def _load(self, path: str) -> np.ndarray:
        try:
            content = fileio.get(path, backend_args=self.backend_args)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise DataError(f"{path}: cannot be read ({reason})") from error
        check_image_bytes(content, path)
        try:
            image = mmcv.imfrombytes(
                content, flag=self.color_type, backend=self.imdecode_backend
            )
        except Exception as error:
            # Each backend has errors of its own, without the path.
            reason = " ".join(str(error).split())
            raise DataError(f"{path}: not a readable image ({reason})") from error
        if image is None:
            raise DataError(f"{path}: not a readable image")
        self._tell_oddities(content, path)
        return image

    def _tell_oddities(self, content: bytes, path: str) -> None:
        facts = image_facts(BytesIO(content), content)
        for oddity in facts.oddities(path, self._how) if facts else ():
            if oddity not in self._told:
                self._told.add(oddity)
                print_log(
                    f"{path}: an image {oddity}; further ones are not told",
                    "current",
                    level=logging.WARNING,
                )


@TRANSFORMS.register_module()
class CheckAnnotations(BaseTransform):
    """Check the annotations of one image against the image as loaded.

    Boxes are finite and inside the image, masks have its size, labels are within the
    number of classes. Some loaders fail on such input with an error that names no
    file: give the loader as ``load`` and its errors are reported with the path::

        dict(type='mlp_backbones.CheckAnnotations',
             load=dict(type='LoadAnnotations', with_bbox=True, with_mask=True))

    Without ``load`` it stands behind the loader and checks what that has left.

    Args:
        load: Config of the annotation loader to run between the checks.
        num_classes: Labels must be smaller; None leaves them unchecked. For semantic
            masks counted after ``reduce_zero_label``; 255 is always allowed there.
        skip_bad: Warn and return None, upon which the data set draws another image,
            instead of raising. For training only.
        max_skips: How many different images may be skipped, in all data workers of a
            process together, before the training stops.

    Raises:
        DataError: (when called) annotations do not fit the image, or those of more than
            ``max_skips`` images do not.
    """

    def __init__(
        self,
        load: dict | None = None,
        num_classes: int | None = None,
        skip_bad: bool = False,
        max_skips: int = 100,
    ) -> None:
        self.load = TRANSFORMS.build(load) if load is not None else None
        self.num_classes = num_classes
        self.skip_bad = skip_bad
        self._skips = _Skips(max_skips)

    def transform(self, results: dict) -> dict | None:
        """Return ``results``, with what ``load`` adds.

        Args:
            results: With ``img_path`` and ``ori_shape`` from the image loader.
        """
        path = results.get("img_path", "image without a path")
        try:
            self._check_instances(results, path)
            self._check_stored_mask(results)
            loaded = self._run_loader(results, path)
            self._check_semantic(loaded, path)
            self._check_label(loaded, path)
        except DataError as error:
            if not self.skip_bad:
                raise
            self._skips.skip(path, error)
            return None
        self._skips.good()
        return loaded

    def _run_loader(self, results: dict, path: str) -> dict:
        if self.load is None:
            return results
        try:
            return self.load(results)
        except DataError:
            raise
        except Exception as error:
            # Whatever a loader stumbles over, the user needs the file first.
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            source = results.get("seg_map_path") or path
            raise DataError(f"{source}: cannot load annotations ({reason})") from error

    def _check_instances(self, results: Mapping[str, Any], path: str) -> None:
        instances = results.get("instances") or []
        size = _stored_size(results)
        if size is None:  # the user's own loader tells no size
            return
        width, height = size
        told = (results.get("width", width), results.get("height", height))
        if told != size:
            raise DataError(
                f"{path}: the image is {width}x{height} px, its annotation file "
                f"says {told[0]}x{told[1]} px"
            )
        for number, instance in enumerate(instances):
            where = f"{path}: instance {number}"
            problem = (
                box_problem(instance["bbox"], size) if "bbox" in instance else None
            )
            if problem:
                raise DataError(
                    f"{where}: box {instance['bbox']} (left, top, right, bottom) "
                    f"{problem}"
                )
            mask = instance.get("mask")
            read = getattr(self.load, "with_mask", self.load is None)
            problem = mask_problem(mask, size) if read and mask is not None else None
            if problem:
                raise DataError(f"{where}: mask {problem}")
            if getattr(self.load, "with_mask", False) and mask is None:
                raise DataError(f"{where}: has no mask ('segmentation')")
            self._check_range(instance.get("bbox_label"), where)

    def _check_stored_mask(self, results: Mapping[str, Any]) -> None:
        """Refuse what mmseg's loader would cast away."""
        path = results.get("seg_map_path")
        ours = type(self.load).__name__ == "LoadAnnotations"
        if not isinstance(path, str) or "://" in path or not ours:
            return
        if type(self.load).__module__.startswith("mmseg.") and os.path.isfile(path):
            backend = getattr(self.load, "imdecode_backend", "pillow")
            check_mask_file(path, backend, whole=False)

    def _check_semantic(self, results: Mapping[str, Any], path: str) -> None:
        semantic = results.get("gt_seg_map")
        if semantic is None:
            return
        source = results.get("seg_map_path") or path
        if semantic.ndim != 2:
            raise DataError(
                f"{source}: the mask has shape {semantic.shape}, expected one channel"
            )
        size = _stored_size(results)
        if size is not None and semantic.shape != (size[1], size[0]):
            raise DataError(
                f"{source}: the mask is {semantic.shape[1]}x{semantic.shape[0]} px, "
                f"its image {size[0]}x{size[1]} px"
            )
        if self.num_classes is None:
            return
        labels = semantic[semantic != results.get("ignore_index", 255)]
        if labels.size:
            self._check_range(int(labels.max()), source)

    def _check_label(self, results: Mapping[str, Any], path: str) -> None:
        label = results.get("gt_label")
        if label is not None:
            self._check_range(int(np.max(label)), path)

    def _check_range(self, label: int | None, where: str) -> None:
        if label is None or self.num_classes is None:
            return
        if not 0 <= label < self.num_classes:
            raise DataError(
                f"{where}: label {label} matches no class: there are "
                f"{self.num_classes} (0 to {self.num_classes - 1})"
            )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(load={self.load}, num_classes={self.num_classes}, "
            f"skip_bad={self.skip_bad}, max_skips={self._skips.most})"
        )


def _stored_size(results: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height of an image as it was loaded, before any resizing."""
    shape = results.get("ori_shape")
    if shape is None and hasattr(results.get("img"), "shape"):
        shape = results["img"].shape
    return None if shape is None else (shape[1], shape[0])


def guard_pipelines(config: Config, splits: Sequence[str]) -> None:
    """Put this module's checks around the loaders of a config's own pipelines.

    What they load stays the same; a damaged image, or a label that matches no class, is
    then an error that names the file in an evaluation too.

    Args:
        config: With ``{split}_dataloader``; its pipelines are exchanged.
        splits: 'train', 'val' or 'test'.
    """
    for split in splits:
        loader = config.get(f"{split}_dataloader")
        if not loader or "dataset" not in loader:
            continue
        classes = classes_of(config, split)
        number = len(classes.names) if classes else None
        for dataset, _ in unwrap(loader["dataset"]):
            if dataset.get("pipeline"):
                dataset["pipeline"] = _guarded(dataset["pipeline"], number)


def _guarded(
    pipeline: Sequence[Mapping[str, Any]], num_classes: int | None
) -> list[Mapping[str, Any]]:
    guarded: list[Mapping[str, Any]] = []
    for step in pipeline:
        if short_name(step) == "LoadImageFromFile":
            options = {
                k: v
                for k, v in step.items()
                if k not in ("ignore_empty", "file_client_args")
            }
            guarded.append({**options, "type": "mlp_backbones.LoadImage"})
        elif short_name(step) == "LoadAnnotations":
            check = {"type": "mlp_backbones.CheckAnnotations", "load": step}
            guarded.append({**check, "num_classes": num_classes})
        else:
            guarded.append(step)
    return guarded
