"""Feature maps and class activation maps of a backbone's stages, over the image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from numpy.typing import NDArray
from torch import Tensor, nn

from mlp_backbones.analysis.models import TensorForward
from mlp_backbones.backbones import MLPBackbone
from mlp_backbones.engine.errors import UserError

FEATURES = ("mean", "max", "channels")
CAMS = ("gradcam", "layercam", "eigencam")

_NUM_CHANNELS = 20  # that "channels" shows
_NUM_FOUND = 20  # detections that count for a class


@dataclass(frozen=True)
class Activation:
    """One picture.

    Attributes:
        stage: Number of the stage.
        file: The picture.
        target: Name of the class, or None for feature maps.
    """

    stage: int
    file: Path
    target: str | None


class ClassScores(nn.Module):
    """A model as a function of images that gives one score for each class.

    Of a classifier these are the logits; of a segmentor the share of each class, as the
    mean of its probability over all pixels; of a detector the sum of the twenty highest
    scores of the class.

    Args:
        model: Classifier, detector or segmentor.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = TensorForward(model)
        self.detector: Any = model if self.model.is_detector else None

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images, (B, 3, H, W), to (B, classes)."""
        outputs = self.model(images)
        if self.detector is None:
            scores = outputs[0] if isinstance(outputs, list | tuple) else outputs
            return scores.softmax(1).mean((2, 3)) if scores.ndim == 4 else scores
        if hasattr(self.detector, "roi_head"):
            head = self.detector.roi_head.bbox_head
            scores = next(
                part
                for part in outputs[-1]
                if part is not None and part.shape[-1] == head.num_classes + 1
            )
            scores = scores.softmax(-1)[:, :-1]  # (regions, classes)
        else:
            number = self.detector.bbox_head.cls_out_channels
            scores = torch.cat(
                [
                    # (1, A * K, H, W) -> (A * H * W, K)
                    level[0].unflatten(0, (-1, number)).movedim(1, -1).flatten(0, 2)
                    for level in outputs[0]
                ]
            ).sigmoid()
        return scores.topk(min(_NUM_FOUND, len(scores)), 0).values.sum(0)[None]


def draw_activations(
    inferencer: Any,
    image: Path,
    out_dir: Path,
    *,
    method: str = "mean",
    stages: Sequence[int] | None = None,
    target: str | None = None,
) -> list[Activation]:
    """Draw what stages of a backbone compute of one image.

    The map behind the last block of a stage is laid over the image as the network sees
    it, resized and cropped.

    Args:
        inferencer: As :func:`mlp_backbones.engine.inference.make_inferencer` gives it.
        image: The image.
        out_dir: Folder for ``{image}_stage{number}_{method}.png``, made if need be.
        method: ``mean`` or ``max`` of the channels, ``channels`` for the twenty
            strongest side by side; or a class activation map, ``gradcam``, ``layercam``
            or ``eigencam``, which needs the package grad-cam.
        stages: Numbers of the stages; None draws all that the model has.
        target: Name or number of the class whose activation is drawn; None takes the
            one of the highest score. ``eigencam`` asks for none.

    Raises:
        UserError: If the backbone is not of this package, a stage or class does not
            exist, or grad-cam is not installed.
    """
    model = inferencer.model
    backbone = model.backbone
    if not isinstance(backbone, MLPBackbone):
        raise UserError(f"{type(backbone).__name__} is no backbone of this package")
    built = range(len(backbone.stages))
    stages = list(built) if stages is None else stages
    for stage in stages:
        if stage not in built:
            raise UserError(f"stage {stage} does not exist, there are 0 to {built[-1]}")
    scope = inferencer.cfg.default_scope if hasattr(inferencer, "cfg") else "mmpretrain"
    with DefaultScope.overwrite_default_scope(scope):
        inputs, shown = _read_image(inferencer, image)
        parts: Any = backbone.stages
        layers = [parts[stage].blocks[-1] for stage in stages]
        if method in FEATURES:
            maps, name = _run(model, inputs, layers), None
        elif method in CAMS:
            maps, name = _run_cam(inferencer, inputs, layers, method, target)
        else:
            raise UserError(f"method {method!r}: choose one of {(*FEATURES, *CAMS)}")
    out_dir.mkdir(parents=True, exist_ok=True)
    drawn = []
    for stage, feature in zip(stages, maps, strict=True):
        # the input may be filled up at the right and the bottom
        feature = F.interpolate(
            feature[None], inputs.shape[-2:], mode="bilinear", align_corners=False
        )[0, :, : shown.shape[0], : shown.shape[1]]
        picture = _draw(feature, shown, method)
        file = out_dir / f"{image.stem}_stage{stage}_{method}.png"
        cv2.imwrite(str(file), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        drawn.append(Activation(stage, file, name))
    return drawn


def _read_image(inferencer: Any, image: Path) -> tuple[Tensor, NDArray[np.uint8]]:
    """Return the input of the network, and the same as a picture in RGB."""
    batch = next(iter(inferencer.preprocess([str(image)])))
    if not isinstance(batch, dict):  # mmdet's gives the images beside it
        batch = batch[1]
    preprocessor = inferencer.model.data_preprocessor
    data = preprocessor(batch, False)
    inputs = data["inputs"]
    height, width = data["data_samples"][0].metainfo["img_shape"][:2]
    mean, std = (getattr(preprocessor, name, None) for name in ("mean", "std"))
    pixels = inputs[0] if mean is None else inputs[0] * std + mean
    pixels = pixels[:, :height, :width].round().clamp(0, 255).byte()
    shown = np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())
    return inputs, shown


def _run(model: nn.Module, inputs: Tensor, layers: Sequence[nn.Module]) -> list[Tensor]:
    """Return the outputs of layers as (C, H, W)."""
    found: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            found[number] = output[0].permute(2, 0, 1).float().cpu()

        return hook

    handles = [
        layer.register_forward_hook(keep(number)) for number, layer in enumerate(layers)
    ]
    try:
        with torch.no_grad():
            model.backbone(inputs)  # type: ignore[operator]
    finally:
        for handle in handles:
            handle.remove()
    return [found[number] for number in range(len(layers))]


def _run_cam(
    inferencer: Any,
    inputs: Tensor,
    layers: Sequence[nn.Module],
    method: str,
    target: str | None,
) -> tuple[list[Tensor], str | None]:
    """Return a map from 0 to 1 for each layer, (1, H, W), and the class."""
    try:
        import pytorch_grad_cam as grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        raise UserError(
            f"{method} needs the package grad-cam: pip install grad-cam"
        ) from error
    scores = ClassScores(inferencer.model).eval()
    kind = {
        "gradcam": grad_cam.GradCAM,
        "layercam": grad_cam.LayerCAM,
        "eigencam": grad_cam.EigenCAM,
    }[method]
    name, targets = None, None
    if method != "eigencam":
        with torch.no_grad():
            index, name = _find_class(inferencer, scores(inputs)[0], target)
        targets = [ClassifierOutputTarget(index)]
    maps = []
    for layer in layers:
        with kind(
            model=scores,
            target_layers=[layer],
            reshape_transform=lambda x: x.permute(0, 3, 1, 2),  # (B, C, H, W)
        ) as cam:
            cam.compute_input_gradient = True  # stages may be frozen
            maps.append(torch.from_numpy(cam(inputs, targets)))
    return maps, name


def _find_class(inferencer: Any, scores: Tensor, target: str | None) -> tuple[int, str]:
    names = getattr(inferencer, "classes", None)
    if names is None:
        names = inferencer.model.dataset_meta.get("classes")
    names = [str(name) for name in names or range(len(scores))]
    if target is None:
        index = int(scores.argmax())
    elif target in names:
        index = names.index(target)
    elif target.isdecimal() and int(target) < len(scores):
        index = int(target)
    else:
        raise UserError(
            f"class {target!r} does not exist, there are {', '.join(names)}"
        )
    return index, names[index] if index < len(names) else str(index)


def _draw(feature: Tensor, shown: NDArray[np.uint8], method: str) -> NDArray[np.uint8]:
    if method == "channels":
        number = min(_NUM_CHANNELS, len(feature))
        return Visualizer.draw_featmap(
            feature,
            shown,
            channel_reduction=None,
            topk=number,
            arrangement=(-(-number // 5), 5),
        )
    reduction = "select_max" if method == "max" else "squeeze_mean"
    return Visualizer.draw_featmap(feature, shown, channel_reduction=reduction)
