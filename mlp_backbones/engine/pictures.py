"""Images and pictures: what is drawn on them, and the files that they lie in."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.registry import VISUALIZERS, DefaultScope
from mmengine.structures import BaseDataElement, PixelData
from mmengine.visualization import Visualizer
from numpy.typing import NDArray

from mlp_backbones.engine.errors import UserError

VISUALIZER_TYPES = {
    "mmdet": "mmdet.DetLocalVisualizer",
    "mmseg": "mmseg.SegLocalVisualizer",
    "mmpretrain": "mmpretrain.UniversalVisualizer",
}

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)

# Text on smaller pictures cannot be read.
MIN_SIDE = 640
# Long and thin images would grow without end.
MAX_SIDE = 4 * MIN_SIDE


def make_visualizer(dataset_meta: dict | None) -> Visualizer:
    """Make the visualizer of the current default scope.

    Args:
        dataset_meta: ``metainfo`` of the data set: ``classes`` and perhaps ``palette``.
    """
    scope = DefaultScope.get_current_instance().scope_name
    settings: dict[str, Any] = {
        "type": VISUALIZER_TYPES[scope],
        "name": f"pictures_{scope}",
    }
    if scope == "mmseg":
        settings["alpha"] = 0.6
    visualizer = VISUALIZERS.build(settings)
    visualizer.dataset_meta = dict(dataset_meta or {})
    return visualizer


def draw_prediction(
    visualizer: Visualizer,
    data_sample: BaseDataElement,
    file: Path | None,
    score_threshold: float = 0.3,
    show: bool = False,
    wait_time: float = 0.0,
) -> None:
    """Draw what a model says of an image: ground truth left, prediction right.

    A classification is written onto the image, beside the true class.

    Args:
        visualizer: From ``make_visualizer``.
        data_sample: With ``img_path`` and predictions, as ``model.test_step`` gives it.
        file: The picture; None shows it only.
        score_threshold: Detections below it are left out.
        show: Show the picture in a window as well.
        wait_time: Seconds that it is shown.

    Raises:
        FileNotFoundError: If the image of the sample cannot be read.
    """
    image = cv2.imread(str(data_sample.img_path))
    if image is None:
        raise FileNotFoundError(f"image {data_sample.img_path} cannot be read")
    draw_sample(
        visualizer,
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
        data_sample,
        file,
        ground_truth=True,
        prediction=True,
        score_threshold=score_threshold,
        show=show,
        wait_time=wait_time,
    )


def draw_sample(
    visualizer: Visualizer,
    image: NDArray[np.uint8],
    data_sample: BaseDataElement,
    file: Path | None,
    *,
    ground_truth: bool = False,
    prediction: bool = False,
    score_threshold: float = 0.3,
    with_labels: bool = False,
    show: bool = False,
    wait_time: float = 0.0,
) -> None:
    """Draw one sample onto its image; both kinds make two halves of the picture.

    Small images are enlarged, since text on them cannot be read.

    Args:
        visualizer: From ``make_visualizer``.
        image: What the sample belongs to, (H, W, 3) in RGB.
        data_sample: With annotations, predictions or both.
        file: The picture; its folder is made if need be. None shows it only.
        ground_truth: Draw the annotations.
        prediction: Draw the predictions.
        score_threshold: Detections below it are left out.
        with_labels: Write class names onto the regions of a segmentation. mmseg looks
            for their centres pixel by pixel: seconds for each image.
        show: Show the picture in a window as well.
        wait_time: Seconds that it is shown.
    """
    height, width = image.shape[:2]
    factor = math.ceil(MIN_SIDE / min(height, width))
    factor = max(1, min(factor, MAX_SIDE // max(height, width)))
    image = image.repeat(factor, axis=0).repeat(factor, axis=1)
    options: dict[str, Any] = {
        "draw_gt": ground_truth,
        "draw_pred": prediction,
        "out_file": None if file is None else str(file),
        "show": show,
        "wait_time": wait_time,
    }
    if hasattr(visualizer, "visualize_cls"):
        visualizer.visualize_cls(image, data_sample, **options)
        return
    data_sample = _enlarged(data_sample.cpu(), factor, image.shape[:2])
    if "pred_instances" in data_sample or "gt_instances" in data_sample:
        options["pred_score_thr"] = score_threshold
    else:
        options["with_labels"] = with_labels
    visualizer.add_datasample("sample", image, data_sample, **options)


def _enlarged(
    sample: BaseDataElement, factor: int, size: Sequence[int]
) -> BaseDataElement:
    """Copy a sample and scale its boxes and masks to an enlarged image."""
    sample = sample.clone()
    for name in ("gt_instances", "pred_instances"):
        if name not in sample:
            continue
        instances = sample.get(name)
        boxes = instances.bboxes
        boxes = boxes.tensor if hasattr(boxes, "tensor") else boxes
        instances.bboxes = torch.as_tensor(boxes) * factor
        if "masks" in instances:
            masks = instances.masks
            array = masks.to_ndarray() if hasattr(masks, "to_ndarray") else masks
            array = np.asarray(array).repeat(factor, axis=1).repeat(factor, axis=2)
            instances.masks = torch.from_numpy(_cropped(array, size)).bool()
    for name in ("gt_sem_seg", "pred_sem_seg"):
        if name in sample:
            labels = sample.get(name).data
            labels = labels.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
            sample.set_field(PixelData(data=labels), name)
    return sample


def _cropped(masks: NDArray, size: Sequence[int]) -> NDArray:
    """Cut masks, (N, H, W), to a size or fill them up with zeros."""
    out = np.zeros((len(masks), *size), dtype=masks.dtype)
    height, width = (min(a, b) for a, b in zip(masks.shape[1:], size, strict=True))
    out[:, :height, :width] = masks[:, :height, :width]
    return out


def find_images(paths: Sequence[Path]) -> list[Path]:
    """List images, and those that lie in folders (not in the folders of these).

    Raises:
        UserError: If a path does not exist, a file is no image that can be read, or a
            folder holds none.
    """
    from mlp_backbones.datasets.checks import DataError
    from mlp_backbones.datasets.transforms import LoadImage  # needs mmcv

    images: dict[Path, None] = {}
    for path in paths:
        found = [path]
        if path.is_dir():
            found = sorted(
                f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES
            )
        elif not path.is_file():
            raise UserError(f"image {path} does not exist")
        found = [file for file in found if file.is_file()]
        if not found:
            raise UserError(f"folder {path} holds no images")
        images.update(dict.fromkeys(found))
    load = LoadImage()
    for image in images:
        try:
            load({"img_path": str(image)})
        except DataError as error:
            raise UserError(error.line, exit_code=1) from error
    return list(images)


class PictureFolder:
    """Gives each image a file name of its own in one folder.

    Args:
        folder: Made when the first picture is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, str] = {}

    def file_for(self, img_path: str) -> Path:
        """Name of the picture of an image: its stem, numbered where two meet."""
        if img_path not in self._names:
            name, number = Path(img_path).stem, 2
            while name in self._names.values():
                name = f"{Path(img_path).stem}_{number}"
                number += 1
            self._names[img_path] = name
        return self.folder / f"{self._names[img_path]}.png"
