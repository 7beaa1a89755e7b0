"""What a trained model says of images, by the inferencers of OpenMMLab."""

import copy
import json
from collections.abc import Iterator, Sequence
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
from mlp_backbones.engine.config import check_checkpoint
from mlp_backbones.engine.errors import UserError
from mlp_backbones.engine.pictures import PictureFolder, draw_sample, make_visualizer

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)


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
        colours = np.random.default_rng(0).integers(0, 256, (len(names), 3))
        meta["palette"] = colours.tolist()
    inferencer.visualizer.dataset_meta = meta


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
    inferencer: Any,
    images: Sequence[Path],
    out_dir: Path,
    *,
    score_threshold: float = 0.3,
    save_predictions: bool = True,
    opacity: float = 0.5,
    with_labels: bool = False,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Predict images and draw the predictions, one image after the other.

    Pictures go to ``vis`` below the folder and predictions to ``preds``, named like
    the image; of two images of one name the second is numbered. Files of an earlier
    run are replaced.

    Args:
        inferencer: As :func:`make_inferencer` gives it.
        images: The images, as :func:`find_images` gives them.
        out_dir: The folder, made if need be.
        score_threshold: Detections below it are left out of pictures.
        save_predictions: Write JSON files, and the classes of a segmentation as PNG.
        opacity: Of the colours of a segmentation, from 0 to 1.
        with_labels: Write class names onto the regions of a segmentation.

    Yields:
        The picture and the prediction, as the inferencer has it, with names of the
        classes: of a detection all boxes whatever their score, of a segmentation each
        class's share of the image.

    Raises:
        UserError: If the folder is a file, if an image would be replaced by its own
            picture, or if a number lies outside 0 to 1.
    """
    check_outputs(images, out_dir, score_threshold, opacity)
    scope = inferencer.cfg.default_scope if hasattr(inferencer, "cfg") else "mmpretrain"
    is_classifier = scope == "mmpretrain"
    meta = (
        {"classes": inferencer.classes}
        if is_classifier
        else dict(inferencer.model.dataset_meta)
    )
    with DefaultScope.overwrite_default_scope(scope):
        visualizer = make_visualizer(meta)
    if scope == "mmseg":
        visualizer.alpha = opacity
    pictures = PictureFolder(out_dir / "vis")
    for image in images:
        picture = pictures.file_for(str(image))
        with DefaultScope.overwrite_default_scope(scope):
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
        prediction = _to_dict(inferencer, sample, meta["classes"])
        mask = prediction.pop("mask", None)
        if save_predictions:
            file = out_dir / "preds" / f"{picture.stem}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            if mask is not None:
                prediction["mask"] = f"{picture.stem}.png"
                cv2.imwrite(str(file.with_suffix(".png")), mask)
            file.write_text(json.dumps({"image": str(image), **prediction}) + "\n")
        yield picture, prediction


def check_outputs(
    images: Sequence[Path], out_dir: Path, score_threshold: float, opacity: float
) -> None:
    """Refuse what :func:`run_inference` refuses, before a model is built."""
    for name, value in (("score_threshold", score_threshold), ("opacity", opacity)):
        if not 0 <= value <= 1:
            raise UserError(f"{name} must lie between 0 and 1, got {value}")
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f"{out_dir} is no folder; choose another out_dir")
    taken = {image.resolve() for image in images}
    pictures = PictureFolder(out_dir / "vis")
    for picture in (pictures.file_for(str(image)) for image in images):
        if picture.resolve() in taken:
            raise UserError(f"{picture} is an image itself; choose another out_dir")


def _to_dict(
    inferencer: Any, sample: Any, names: Sequence[str] | None
) -> dict[str, Any]:
    """Bring a prediction into plain data; the mask of a segmentation is an array."""
    if "pred_score" in sample:
        scores = sample.pred_score
        names = list(names or map(str, range(len(scores))))
        label = int(scores.argmax())
        return {"label": label, "scores": scores.tolist(), "classes": names}
    names = list(names or ())
    if "pred_sem_seg" in sample:
        mask = sample.pred_sem_seg.data[0].numpy()  # (1, H, W) -> (H, W)
        labels, counts = np.unique(mask, return_counts=True)
        shares = dict(zip(labels.tolist(), (counts / mask.size).tolist(), strict=True))
        return {
            "shares": {names[label]: share for label, share in shares.items()},
            "classes": names,
            "mask": mask.astype(np.uint8 if len(names) <= 256 else np.uint16),
        }
    found = inferencer.pred2dict(sample)
    return {**found, "classes": [names[label] for label in found["labels"]]}


def summarise(
    prediction: dict[str, Any], score_threshold: float, num_lines: int = 20
) -> list[str]:
    """Say in a line each what was found, the most certain or largest first.

    Args:
        prediction: As :func:`run_inference` gives it.
        score_threshold: Detections below it are left out.
        num_lines: How many lines at most; one more says how many are left out.
    """
    if "shares" in prediction:
        shares = sorted(prediction["shares"].items(), key=lambda item: -item[1])
        lines = [f"{name}: {100 * share:.1f} %" for name, share in shares]
    elif "bboxes" in prediction:
        columns = (prediction[key] for key in ("scores", "classes", "bboxes"))
        lines = [
            f"{name}: {score:.3f} at {', '.join(f'{edge:.0f}' for edge in box)}"
            for score, name, box in sorted(zip(*columns, strict=True), reverse=True)
            if score > score_threshold
        ]
    else:
        likely = zip(prediction["scores"], prediction["classes"], strict=True)
        best = sorted(likely, key=lambda item: -item[0])[:5]
        lines = [f"{name}: {score:.3f}" for score, name in best]
    shown, rest = lines[:num_lines], len(lines) - num_lines
    if rest > 0:
        shown.append(f"... and {rest} more")
    return shown or ["nothing above the threshold"]
