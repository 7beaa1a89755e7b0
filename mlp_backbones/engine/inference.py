"""What a trained model says of images, by the inferencers of OpenMMLab."""

import copy
import json
import logging
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.structures import BaseDataElement

from mlp_backbones.building import build_model
from mlp_backbones.checkpoints.compare import compare_state_dicts, find_state_dict
from mlp_backbones.checkpoints.plain import check_finite
from mlp_backbones.engine.config import check_checkpoint
from mlp_backbones.engine.errors import UserError
from mlp_backbones.engine.pictures import PictureFolder, draw_sample, make_visualizer
from mlp_backbones.preprocessing import check_preprocessing

HEADS = ("roi_head.bbox_head", "bbox_head", "decode_head", "head")


def make_inferencer(
    config: Config,
    checkpoint: str | Path,
    device: str | None = None,
    classes: Sequence[str] | None = None,
) -> Any:
    """Make the inferencer of OpenMMLab that a config's task has.

    Made directly they load what fits of a checkpoint and leave the rest at random, and
    name the classes of COCO or Cityscapes where a checkpoint has no names. Here all
    weights must fit, and names come from the config then.

    Args:
        config: A whole config with ``default_scope`` and ``test_dataloader``.
        checkpoint: The weights: a file of ``torch.save`` or the address of one.
        device: Such as ``cuda:1``; None takes CUDA where it is available.
        classes: Names of the classes in place of the checkpoint's own.

    Returns:
        A ``DetInferencer``, ``MMSegInferencer`` or ``ImageClassificationInferencer``.

    Raises:
        UserError: If the checkpoint is missing, unreadable, more than plain data, or
            does not fit; if a weight is NaN or infinite (a ``CheckpointError``); if
            there is no such device; if the number of names, given or
            the checkpoint's, is not the number of classes.
    """
    if config.get("test_dataloader") is None:
        raise UserError(
            f"{config.filename} has no test_dataloader, whose pipeline reads the images"
        )
    checkpoint, device = str(checkpoint), _check_device(device)
    check_checkpoint(checkpoint)
    config = copy.deepcopy(config)
    if config.get("data_preprocessor") is not None:
        config.model.setdefault("data_preprocessor", config.data_preprocessor)
    if config.get("visualizer") is not None:
        config.visualizer.vis_backends = None  # they would ask for a folder
        config.visualizer.pop("name", None)  # else it may be that of a training
    with DefaultScope.overwrite_default_scope(config.default_scope):
        meta = _check_weights(config, checkpoint)
        _check_normalisation(config, checkpoint)
        inferencer = _build_inferencer(config, checkpoint, device)
        number = _count_classes(inferencer.model)
        meta = meta.get("dataset_meta", meta)  # new checkpoints, and old ones
        known = meta.get("classes") or meta.get("CLASSES")
        if classes is None and not known:
            classes = _configured_classes(config, number)
        names: Sequence[str] = known if classes is None else classes
        if number is not None and len(names) != number:
            source = "the argument classes" if names is classes else checkpoint
            raise UserError(
                f"{source} names {len(names)} classes, the model has {number}",
                exit_code=2 if names is classes else 1,
            )
        if names is classes:
            _name_classes(inferencer, config.default_scope, tuple(names))
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
    check_finite(find_state_dict(loaded), checkpoint)
    return loaded.get("meta", {})


def _check_normalisation(config: Config, checkpoint: str) -> None:
    try:
        warning = check_preprocessing(config, checkpoint)
    except ValueError as error:
        raise UserError(str(error), exit_code=1) from error
    if warning is not None:
        print_log(warning, level=logging.WARNING)


def _build_inferencer(config: Config, checkpoint: str, device: str) -> Any:
    if config.default_scope == "mmdet":
        from mmdet.apis import DetInferencer as Inferencer
    elif config.default_scope == "mmseg":
        from mmseg.apis import MMSegInferencer as Inferencer
    else:
        from mmpretrain.apis import ImageClassificationInferencer as Inferencer
    return Inferencer(config, checkpoint, device=device)


def _count_classes(model: Any) -> int | None:
    for head in HEADS:
        try:
            return attrgetter(f"{head}.num_classes")(model)
        except AttributeError:
            continue
    return None


def _configured_classes(config: Config, number: int | None) -> Sequence[str]:
    """Return the names that a config's data set has, or numbers if they do not fit."""
    dataset = config.test_dataloader.dataset
    of_type = getattr(DATASETS.get(dataset.type), "METAINFO", {})
    names = dataset.get("metainfo", {}).get("classes") or of_type.get("classes") or ()
    fits = number is None or len(names) == number
    return names if fits else [str(index) for index in range(number or 0)]


def _name_classes(inferencer: Any, scope: str, names: tuple[str, ...]) -> None:
    if scope == "mmpretrain":
        inferencer.classes = names
        return
    meta = inferencer.model.dataset_meta
    meta["classes"] = names
    if scope == "mmseg" and len(meta.get("palette") or ()) != len(names):
        colours = np.random.default_rng(0).integers(0, 256, (len(names), 3))
        meta["palette"] = colours.tolist()
    inferencer.visualizer.dataset_meta = meta


def predict(inferencer: Any, image: str | Path) -> BaseDataElement:
    """Return the data sample with what an inferencer says of one image."""
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
        UserError: As :func:`check_outputs` does.
    """
    check_outputs(images, out_dir, score_threshold, opacity)
    scope = inferencer.cfg.default_scope if hasattr(inferencer, "cfg") else "mmpretrain"
    meta = getattr(inferencer.model, "dataset_meta", None)
    meta = dict(meta or {"classes": inferencer.classes})
    pictures, predictions = PictureFolder(out_dir / "vis"), out_dir / "preds"
    with DefaultScope.overwrite_default_scope(scope):
        visualizer = make_visualizer(meta)
    if scope == "mmseg":
        visualizer.alpha = opacity
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
            predictions.mkdir(parents=True, exist_ok=True)
            if mask is not None:
                prediction["mask"] = f"{picture.stem}.png"
                cv2.imwrite(str(predictions / prediction["mask"]), mask)
            record = json.dumps({"image": str(image), **prediction})
            (predictions / f"{picture.stem}.json").write_text(f"{record}\n")
        yield picture, prediction


def check_outputs(
    images: Sequence[Path], out_dir: Path, score_threshold: float, opacity: float
) -> None:
    """Refuse a folder that is a file, a picture that replaces an image, bad numbers."""
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
    inferencer: Any, sample: Any, classes: Sequence[str] | None
) -> dict[str, Any]:
    """Bring a prediction into plain data; the mask of a segmentation is an array."""
    if "pred_score" in sample:
        scores = sample.pred_score.tolist()
        label = int(sample.pred_score.argmax())
        names = list(classes or map(str, range(len(scores))))
        return {"label": label, "scores": scores, "classes": names}
    names = list(classes or ())
    if "pred_sem_seg" in sample:
        mask = sample.pred_sem_seg.data[0].numpy()  # (1, H, W) -> (H, W)
        labels, counts = np.unique(mask, return_counts=True)
        shares = dict(
            zip([names[i] for i in labels], (counts / mask.size).tolist(), strict=True)
        )
        mask = mask.astype(np.uint8 if len(names) <= 256 else np.uint16)
        return {"shares": shares, "classes": names, "mask": mask}
    found = inferencer.pred2dict(sample)
    return {**found, "classes": [names[label] for label in found["labels"]]}
