"""Loading transforms that name the file when it is bad."""

import logging
from collections.abc import Mapping
from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine import fileio
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

from mlp_backbones.datasets.checks import (
    DataError,
    box_problem,
    check_image_bytes,
    mask_problem,
)
from mlp_backbones.registry import TRANSFORMS

__all__ = ["CheckAnnotations", "LoadImage"]


class _SkipCounter:
    """Counts the bad images of this process and warns of each once."""

    def __init__(self) -> None:
        self.paths: set[str] = set()

    def skip(self, path: str, error: DataError) -> None:
        if path in self.paths:
            return
        self.paths.add(path)
        worker = get_worker_info()
        # Workers share nothing, so each counts its own.
        who = f"data worker {worker.id}" if worker else "this process"
        print_log(
            f"skipped bad image, number {len(self.paths)} of {who}: {error.line}",
            "current",
            level=logging.WARNING,
        )


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """Load an image, or say which file cannot be loaded and why.

    Takes the place of ``LoadImageFromFile`` in mmdet, mmseg and mmpretrain pipelines:
    same keys, same pixels. In addition a truncated file is an error; the decoders
    return it with a grey rest.

    Args:
        to_float32: Return float32 instead of uint8.
        color_type: Flag of ``mmcv.imfrombytes``.
        imdecode_backend: Backend of ``mmcv.imfrombytes``.
        backend_args: File backend; inferred from the path if None.
        skip_bad: Warn and return None, upon which the data set draws another image,
            instead of raising. For training only.

    Raises:
        DataError: (when called) the file is missing, empty, truncated or undecodable.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = "color",
        imdecode_backend: str = "cv2",
        *,
        backend_args: dict | None = None,
        skip_bad: bool = False,
    ) -> None:
        super().__init__(
            to_float32=to_float32,
            color_type=color_type,
            imdecode_backend=imdecode_backend,
            backend_args=backend_args,
        )
        self.skip_bad = skip_bad
        self._skipped = _SkipCounter()

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
            self._skipped.skip(path, error)
            return None
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
        return image


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

    Raises:
        DataError: (when called) annotations do not fit the image.
    """

    def __init__(
        self,
        load: dict | None = None,
        num_classes: int | None = None,
        skip_bad: bool = False,
    ) -> None:
        self.load = TRANSFORMS.build(load) if load is not None else None
        self.num_classes = num_classes
        self.skip_bad = skip_bad
        self._skipped = _SkipCounter()

    def transform(self, results: dict) -> dict | None:
        """Return ``results``, with what ``load`` adds.

        Args:
            results: With ``img_path`` and ``ori_shape`` from the image loader.
        """
        path = results.get("img_path", "image without a path")
        try:
            self._check_instances(results, path)
            loaded = self._run_loader(results, path)
            self._check_semantic(loaded, path)
            self._check_label(loaded, path)
        except DataError as error:
            if not self.skip_bad:
                raise
            self._skipped.skip(path, error)
            return None
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
        height, width = results["ori_shape"]
        size = (width, height)
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
            problem = mask_problem(mask, size) if mask is not None else None
            if problem:
                raise DataError(f"{where}: mask {problem}")
            if getattr(self.load, "with_mask", False) and mask is None:
                raise DataError(f"{where}: has no mask ('segmentation')")
            self._check_range(instance.get("bbox_label"), where)

    def _check_semantic(self, results: Mapping[str, Any], path: str) -> None:
        semantic = results.get("gt_seg_map")
        if semantic is None:
            return
        source = results.get("seg_map_path") or path
        height, width = results["img_shape"][:2]
        if semantic.ndim != 2:
            raise DataError(
                f"{source}: the mask has shape {semantic.shape}, expected one channel"
            )
        if semantic.shape != (height, width):
            raise DataError(
                f"{source}: the mask is {semantic.shape[1]}x{semantic.shape[0]} px, "
                f"its image {width}x{height} px"
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
            f"skip_bad={self.skip_bad})"
        )
