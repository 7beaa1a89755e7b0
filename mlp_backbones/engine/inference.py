"""What a trained model says of images, by the inferencers of OpenMMLab."""

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.structures import BaseDataElement

from mlp_backbones.building import build_model
from mlp_backbones.checkpoints.compare import compare_state_dicts, find_state_dict
from mlp_backbones.config_names import TASKS
from mlp_backbones.engine.config import check_checkpoint
from mlp_backbones.engine.errors import UserError
from mlp_backbones.engine.pictures import draw_sample, make_visualizer

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)


@dataclass(frozen=True)
class Finding:
    """Something found in an image.

    Attributes:
        name: Name of the class.
        score: What the model gives the class, up to 1; None for a segmentation.
        box: Left, top, right and bottom edge in pixels; None where there is none.
        share: The part of the image's pixels that is of the class, up to 1; None for
            a classification and for detections without masks.
        color: The class's colour in the picture, RGB; None for a classification.
    """

    name: str
    score: float | None = None
    box: tuple[float, float, float, float] | None = None
    share: float | None = None
    color: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class ImageResult:
    """What a model says of an image, and where that can be seen.

    Attributes:
        image: The image.
        task: A value of :data:`mlp_backbones.config_names.TASKS`.
        findings: The most certain, or the largest, first. Of a classification, the
            five most likely classes.
        picture: The image with the findings drawn in.
        prediction: The JSON file, or None.
    """

    image: Path
    task: str
    findings: list[Finding]
    picture: Path
    prediction: Path | None


def find_images(paths: Sequence[Path]) -> list[Path]:
    """List images, and those that lie in folders (not in the folders of these).

    Args:
        paths: Files and folders.

    Raises:
        UserError: If a path does not exist, a file is no image that can be read, or a
            folder holds none.
    """
    from mlp_backbones.datasets.checks import DataError
    from mlp_backbones.datasets.transforms import LoadImage

    images: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(
                file
                for file in path.iterdir()
                if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
            )
            if not found:
                raise UserError(f"folder {path} holds no images")
            images += found
        elif path.is_file():
            images.append(path)
        else:
            raise UserError(f"image {path} does not exist")
    images = list(dict.fromkeys(images))
    load = LoadImage()
    for image in images:
        try:
            load({"img_path": str(image)})
        except DataError as error:
            raise UserError(error.line, exit_code=1) from error
    return images


def make_inferencer(
    config: Config,
    checkpoint: str | Path,
    device: str | None = None,
    classes: Sequence[str] | None = None,
) -> Any:
    """Make the inferencer of OpenMMLab that a config's task has.

    Made directly they load what fits of a checkpoint and leave the rest at random, name
    the classes of COCO or Cityscapes where a checkpoint has no names, and
    ``ImageClassificationInferencer`` cannot be made after one of the others in the
    same process. Here all weights must fit, names come from the config then, and any
    order will do.

    Args:
        config: A whole config with ``default_scope`` and ``test_dataloader``.
        checkpoint: The weights: a file of ``torch.save`` or the address of one.
        device: Such as ``cuda:1``; None takes CUDA where it is available.
        classes: Names of the classes in place of the checkpoint's own.

    Returns:
        A ``DetInferencer``, ``MMSegInferencer`` or ``ImageClassificationInferencer``.

    Raises:
        UserError: If the checkpoint is missing, unreadable, more than plain data, or
            does not fit; if there is no such device; if the number of names, given or
            the checkpoint's, is not the number of classes.
    """
    checkpoint = str(checkpoint)
    device = _check_device(device)
    if config.get("test_dataloader") is None:
        raise UserError(
            f"{config.filename} has no test_dataloader, whose pipeline reads the images"
        )
    check_checkpoint(checkpoint)
    if checkpoint.endswith((".safetensors", ".npz")):
        raise UserError(
            f"{checkpoint}: MMEngine's loader, which an inferencer uses, reads files "
            "of torch.save only"
        )
    config = copy.deepcopy(config)
    if config.get("data_preprocessor") is not None:
        config.model.setdefault("data_preprocessor", config.data_preprocessor)
    if config.get("visualizer") is not None:
        config.visualizer.vis_backends = None  # they would ask for a folder
        config.visualizer.pop("name", None)  # else it may be that of a training
    with DefaultScope.overwrite_default_scope(config.default_scope):
        known = _classes_of(_check_weights(config, checkpoint))
        inferencer = _build_inferencer(config, checkpoint, device)
        number = _count_classes(inferencer.model)
        if classes is not None or not known:
            _name_classes(inferencer, config, classes, number)
        elif number is not None and len(known) != number:
            raise UserError(
                f"{checkpoint} names {len(known)} classes, the model has {number}; "
                "give their names",
                exit_code=1,
            )
    return inferencer


def _check_device(device: str | None) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise UserError(f"device {device!r} cannot be used: {reason}") from error
    return device


def _check_weights(config: Config, checkpoint: str) -> dict[str, Any]:
    """Refuse weights that do not fit; return what the file says of itself."""
    loaded = CheckpointLoader.load_checkpoint(checkpoint, "cpu")
    mismatches = compare_state_dicts(build_model(config, device="meta"), loaded)
    if mismatches:
        message = mismatches.describe(checkpoint)
        if not any(name.startswith("backbone.") for name in find_state_dict(loaded)):
            message += "; it holds no whole model, as tools/train.py writes it"
        raise UserError(message, exit_code=1)
    return loaded.get("meta", {})


def _classes_of(meta: dict[str, Any]) -> Sequence[str]:
    """Return the names that a checkpoint gives the classes, new or old."""
    names = meta.get("dataset_meta", meta)
    return names.get("classes") or names.get("CLASSES") or ()


def _build_inferencer(config: Config, checkpoint: str, device: str) -> Any:
    if config.default_scope == "mmdet":
        from mmdet.apis import DetInferencer

        return DetInferencer(config, checkpoint, device)
    if config.default_scope == "mmseg":
        from mmseg.apis import MMSegInferencer

        return MMSegInferencer(config, checkpoint, device=device)
    from mmpretrain.apis import ImageClassificationInferencer

    return ImageClassificationInferencer(config, checkpoint, device=device)


def _count_classes(model: Any) -> int | None:
    for head in ("roi_head.bbox_head", "bbox_head", "decode_head", "head"):
        try:
            return attrgetter(f"{head}.num_classes")(model)
        except AttributeError:
            continue
    return None


def _name_classes(
    inferencer: Any,
    config: Config,
    classes: Sequence[str] | None,
    number: int | None,
) -> None:
    """Give an inferencer the names asked for, or else those that the config has."""
    if classes is None:
        dataset = config.test_dataloader.dataset
        of_type = getattr(DATASETS.get(dataset.type), "METAINFO", {})
        classes = dataset.get("metainfo", {}).get("classes") or of_type.get("classes")
        if number is not None and (classes is None or len(classes) != number):
            classes = [str(index) for index in range(number)]
    if number is not None and classes is not None and len(classes) != number:
        raise UserError(
            f"{len(classes)} names of classes are given, the model has {number} classes"
        )
    names = tuple(classes or ())
    if config.default_scope == "mmpretrain":
        inferencer.classes = names
        return
    meta = inferencer.model.dataset_meta
    meta["classes"] = names
    palette = meta.get("palette")
    if config.default_scope == "mmseg" and len(palette or ()) != len(names):
        colors = np.random.default_rng(0).integers(0, 256, (len(names), 3))
        meta["palette"] = colors.tolist()
    inferencer.visualizer.dataset_meta = meta


def _dataset_meta(inferencer: Any) -> dict[str, Any]:
    if hasattr(inferencer, "classes"):  # mmpretrain's
        return {"classes": inferencer.classes}
    return dict(inferencer.model.dataset_meta)


def predict(inferencer: Any, image: str | Path) -> BaseDataElement:
    """Let an inferencer look at one image.

    Args:
        inferencer: As :func:`make_inferencer` gives it.
        image: The image.

    Returns:
        The data sample with the predictions.
    """
    batch = next(iter(inferencer.preprocess([str(image)])))
    if not isinstance(batch, dict):  # mmdet's gives the images beside it
        batch = batch[1]
    return inferencer.forward(batch)[0]


def run_inference(
    images: Sequence[Path],
    config: Config,
    checkpoint: str | Path,
    out_dir: Path,
    *,
    device: str | None = None,
    score_threshold: float = 0.3,
    classes: Sequence[str] | None = None,
    save_predictions: bool = True,
    opacity: float = 0.5,
    with_labels: bool = False,
) -> Iterator[ImageResult]:
    """Say what is in images and draw it, one image after the other.

    Pictures go to ``vis`` below the folder and predictions to ``preds``, named like
    the image; of two images of one name the second is numbered. Files of an earlier
    run are replaced.

    Args:
        images: The images, as :func:`find_images` gives them.
        config: A whole config.
        checkpoint: Its weights.
        out_dir: The folder, made if need be.
        device: Such as ``cuda:1``; None takes CUDA where it is available.
        score_threshold: Detections below it are left out of findings and pictures;
            the prediction files hold all.
        classes: Names of the classes in place of the checkpoint's own.
        save_predictions: Write JSON files, and masks of class numbers as PNG.
        opacity: Of the colours of a segmentation, from 0 to 1.
        with_labels: Write class names onto the regions of a segmentation.

    Yields:
        What was found, when the files of the image are written.

    Raises:
        UserError: On what :func:`make_inferencer` refuses, if the folder is a file,
            and if an image would be replaced by its own picture.
    """
    for name, value in (("score_threshold", score_threshold), ("opacity", opacity)):
        if not 0 <= value <= 1:
            raise UserError(f"{name} must lie between 0 and 1, got {value}")
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f"{out_dir} is no folder; choose another out_dir")
    pictures = {image: out_dir / "vis" / name for image, name in _names(images).items()}
    taken = {image.resolve() for image in images}
    for picture in pictures.values():
        if picture.resolve() in taken:
            raise UserError(f"{picture} is an image itself; choose another out_dir")
    inferencer = make_inferencer(config, checkpoint, device, classes)
    task = TASKS[config.default_scope]
    meta = _dataset_meta(inferencer)
    visualizer = inferencer.visualizer
    if visualizer is None:  # mmpretrain's makes it late
        with DefaultScope.overwrite_default_scope(config.default_scope):
            visualizer = make_visualizer(meta)
    visualizer.dataset_meta = meta
    if task == "segmentation":
        visualizer.alpha = opacity
    for image, picture in pictures.items():
        with DefaultScope.overwrite_default_scope(config.default_scope):
            sample = predict(inferencer, image).cpu()
            draw_sample(
                visualizer,
                mmcv.imread(str(image), channel_order="rgb"),
                sample,
                picture,
                prediction=True,
                score_threshold=score_threshold,
                with_labels=with_labels,
            )
        prediction = None
        if save_predictions:
            prediction = out_dir / "preds" / f"{picture.stem}.json"
            _save_prediction(inferencer, sample, task, meta, image, prediction)
        findings = _find(sample, task, meta, score_threshold)
        yield ImageResult(image, task, findings, picture, prediction)


def _names(images: Sequence[Path]) -> dict[Path, str]:
    """Give each image a name of its own for its picture."""
    names: dict[Path, str] = {}
    for image in images:
        name, number = f"{image.stem}.png", 2
        while name in names.values():
            name, number = f"{image.stem}_{number}.png", number + 1
        names[image] = name
    return names


def _find(
    sample: Any, task: str, meta: dict[str, Any], score_threshold: float
) -> list[Finding]:
    names = meta["classes"]
    if task == "classification":
        scores, labels = sample.pred_score.topk(min(5, len(sample.pred_score)))
        return [
            Finding(names[label] if names else str(label), score)
            for score, label in zip(scores.tolist(), labels.tolist(), strict=True)
        ]
    colors = _colors(meta.get("palette"), len(names))
    if task == "segmentation":
        labels, counts = sample.pred_sem_seg.data.unique(return_counts=True)
        shares = (counts / counts.sum()).tolist()
        found = [
            Finding(names[label], share=share, color=colors[label])
            for label, share in zip(labels.tolist(), shares, strict=True)
        ]
        return sorted(found, key=lambda finding: -(finding.share or 0))
    instances = sample.pred_instances
    found = []
    for index in instances.scores.argsort(descending=True).tolist():
        score, label = float(instances.scores[index]), int(instances.labels[index])
        if score <= score_threshold:
            break
        share = None
        if "masks" in instances:
            share = float(torch.as_tensor(instances.masks[index]).float().mean())
        left, top, right, bottom = instances.bboxes[index].tolist()
        box = (left, top, right, bottom)
        found.append(Finding(names[label], score, box, share, colors[label]))
    return found


def _colors(palette: Any, number: int) -> list[Any]:
    if isinstance(palette, (list, tuple)) and len(palette) >= number:
        return [tuple(color) for color in palette]
    return [None] * number


def _save_prediction(
    inferencer: Any,
    sample: Any,
    task: str,
    meta: dict[str, Any],
    image: Path,
    file: Path,
) -> None:
    """Write what a model says of an image, whatever the score."""
    file.parent.mkdir(parents=True, exist_ok=True)
    names = meta["classes"]
    record: dict[str, Any] = {"image": str(image), "task": task}
    if task == "detection":
        record |= inferencer.pred2dict(sample)
        record["classes"] = [names[label] for label in record["labels"]]
    elif task == "segmentation":
        mask = sample.pred_sem_seg.data[0].numpy()  # (1, H, W) -> (H, W)
        mask_file = file.with_suffix(".png")
        kind = np.uint8 if len(names) <= 256 else np.uint16
        cv2.imwrite(str(mask_file), mask.astype(kind))
        shares = _find(sample, task, meta, 0.0)
        record["mask"] = mask_file.name
        record["classes"] = list(names)
        record["shares"] = {finding.name: finding.share for finding in shares}
    else:
        scores = sample.pred_score
        record["label"] = int(scores.argmax())
        record["classes"] = list(names or map(str, range(len(scores))))
        record["scores"] = scores.tolist()
    file.write_text(json.dumps(record, indent=2) + "\n")


def print_result(result: ImageResult, num_rows: int = 20) -> None:
    """Print what was found in an image, and where its picture is.

    Args:
        result: The result.
        num_rows: How many findings are shown at most.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = result.findings[:num_rows]
    table = Table(title=Text(str(result.image)), title_justify="left")
    table.add_column("class")
    columns = {
        "score": [f.score is not None for f in shown],
        "left, top, right, bottom": [f.box is not None for f in shown],
        "of the image": [f.share is not None for f in shown],
    }
    present = [name for name, has in columns.items() if any(has)]
    for name in present:
        table.add_column(name, justify="right")
    for finding in shown:
        label = Text(finding.name)
        if finding.color is not None:
            style = "rgb({},{},{})".format(*finding.color)
            label = Text.assemble(("■ ", style), finding.name)
        cells = {
            "score": f"{finding.score or 0:.3f}",
            "left, top, right, bottom": ", ".join(
                f"{x:.0f}" for x in finding.box or ()
            ),
            "of the image": f"{100 * (finding.share or 0):.1f} %",
        }
        table.add_row(label, *(cells[name] for name in present))
    console = Console(soft_wrap=True)
    if shown:
        console.print(table)
    else:
        console.print(f"{result.image}: nothing above the threshold", markup=False)
    if len(result.findings) > num_rows:
        console.print(f"... and {len(result.findings) - num_rows} more")
    console.print(f"Picture:    {result.picture}", markup=False, highlight=False)
    if result.prediction is not None:
        console.print(f"Prediction: {result.prediction}", markup=False, highlight=False)
