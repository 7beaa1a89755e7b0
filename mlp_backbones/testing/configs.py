"""Take any training config, make it small, and run one step and one prediction.

For tests of config folders, this package's own and users': a config is built without
downloads, fed with synthetic samples of its task, and stepped with its own optimizer
wrapper.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmengine.utils import digit_version
from torch import Tensor

from mlp_backbones.config_names import TASKS

__all__ = [
    "StepReport",
    "build_optimizer",
    "make_batch",
    "shrink_config",
    "take_step",
]


def shrink_config(config: Config, image_size: int = 64) -> Config:
    """Copy a config without pretrained weights, chance and long lists of proposals.

    Architecture and losses stay as they are. Stochastic depth and dropout are switched
    off, so that in one step every parameter in use gets a gradient.

    Args:
        config: Any detection, segmentation or classification config.
        image_size: Side of the images it will see, in pixels.
    """
    config = Config(config.to_dict())
    model = config.model
    _drop_pretrained(model)
    if "drop_path_rate" in model.backbone:
        model.backbone.drop_path_rate = 0.0
    for head in ("decode_head", "auxiliary_head"):
        if head in model:
            model[head].dropout_ratio = 0.0
    task = TASKS[config.default_scope]
    if task == "segmentation" and "size" in model.data_preprocessor:
        model.data_preprocessor.size = (image_size, image_size)
    if task == "detection":
        _shrink_proposals(model)
    return config


def _drop_pretrained(node: Any) -> None:
    if isinstance(node, Mapping):
        init = node.get("init_cfg")
        if isinstance(init, Mapping) and init.get("type") == "Pretrained":
            node["init_cfg"] = None  # type: ignore[index]
        for child in node.values():
            _drop_pretrained(child)
    elif isinstance(node, (list, tuple)):
        for child in node:
            _drop_pretrained(child)


def _shrink_proposals(model: ConfigDict) -> None:
    limits = {"nms_pre": 100, "max_per_img": 20, "score_thr": 0.0}
    train, test = model.get("train_cfg") or {}, model.get("test_cfg") or {}
    for section in (train.get("rpn_proposal"), test, test.get("rpn"), test.get("rcnn")):
        if section is not None:
            section.update({k: v for k, v in limits.items() if k in section})
    if "rpn" in train:
        train["rpn"]["sampler"]["num"] = 10_000  # all anchors, so that no level is out
    if "rcnn" in train:
        train["rcnn"]["sampler"]["num"] = 32


def build_optimizer(config: Config, model: BaseModel) -> OptimWrapper:
    """Build the config's own optimizer wrapper, with its rules for single parameters.

    Args:
        config: The config that the model comes from.
        model: The model to optimise.
    """
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return build_optim_wrapper(model, config.optim_wrapper)


def make_batch(
    config: Config, batch_size: int = 2, image_size: int = 64, seed: int = 0
) -> dict[str, list]:
    """Make images of noise with annotations of the config's task.

    Each image has two objects, or two regions, or one label.

    Args:
        config: The config; number of classes and task are read from it.
        batch_size: Number of images.
        image_size: Side of the images, in pixels.
        seed: Of the noise.

    Returns:
        ``inputs``, uint8 tensors (3, H, W), and ``data_samples``, as the config's data
        loader would give them.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (3, image_size, image_size)
    images = [
        torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        for _ in range(batch_size)
    ]
    make_sample = {
        "detection": _detection_sample,
        "segmentation": _segmentation_sample,
        "classification": _classification_sample,
    }[TASKS[config.default_scope]]
    samples = []
    for index in range(batch_size):
        sample = make_sample(config.model, index, image_size)
        sample.set_metainfo(
            {
                "img_id": index,
                "img_path": f"{index}.jpg",
                "img_shape": (image_size, image_size),
                "ori_shape": (image_size, image_size),
                "pad_shape": (image_size, image_size),
                "batch_input_shape": (image_size, image_size),
                "scale_factor": (1.0, 1.0),
            }
        )
        samples.append(sample)
    return {"inputs": images, "data_samples": samples}


def _detection_sample(model: ConfigDict, index: int, size: int) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    with_mask = "mask_head" in (model.get("roi_head") or {})
    head = model.roi_head.bbox_head if "roi_head" in model else model.bbox_head
    boxes = torch.tensor([[1, 2, 13, 15], [12, 10, 60, 62]]) * size // 64
    instances = InstanceData(
        bboxes=boxes.float(),
        labels=torch.tensor([index % head.num_classes, head.num_classes - 1]),
    )
    if with_mask:
        masks = torch.zeros(2, size, size, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
            mask[top:bottom, left:right] = 1
        instances.masks = BitmapMasks(masks.numpy(), size, size)
    sample = DetDataSample(gt_instances=instances)
    sample.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    return sample


def _segmentation_sample(model: ConfigDict, index: int, size: int) -> Any:
    import mmseg
    from mmseg.structures import SegDataSample

    classes = torch.full((1, size, size), model.decode_head.num_classes - 1)
    classes[:, : size // 2] = index % model.decode_head.num_classes
    weighted = model.decode_head.get("loss_decode", {}).get("class_weight")
    # Before 1.4, mmseg looks up the weight of the class 255 and fails.
    if weighted is None or digit_version(mmseg.__version__) >= digit_version("1.4"):
        classes[:, :2] = 255  # not labelled
    return SegDataSample(gt_sem_seg=PixelData(data=classes))


def _classification_sample(model: ConfigDict, index: int, size: int) -> Any:
    from mmpretrain.structures import DataSample

    return DataSample().set_gt_label(model.head.num_classes - 1 - index)


@dataclass
class StepReport:
    """What one optimisation step did.

    Attributes:
        losses: The loss terms by name.
        without_gradient: Trainable parameters that got no gradient.
        zero_gradient: Trainable parameters whose gradient is zero everywhere.
        unchanged: Parameters with a gradient that the step left as they were.
    """

    losses: dict[str, float]
    without_gradient: list[str] = field(default_factory=list)
    zero_gradient: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)


def take_step(
    model: BaseModel, batch: Mapping[str, Any], optimizer: OptimWrapper
) -> StepReport:
    """Compute the loss of a batch, its gradients, and one step of the optimizer.

    Args:
        model: The model; it is put in training mode.
        batch: As :func:`make_batch` gives it.
        optimizer: As :func:`build_optimizer` gives it.
    """
    model.train()
    with optimizer.optim_context(model):
        data = model.data_preprocessor(dict(batch), training=True)
        loss, log = model.parse_losses(model(**data, mode="loss"))
    optimizer.backward(loss)
    report = StepReport(
        losses={k: float(v.detach()) for k, v in log.items() if "loss" in k}
    )
    before: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            report.without_gradient.append(name)
        elif not parameter.grad.any():
            report.zero_gradient.append(name)
        else:
            before[name] = parameter.detach().clone()
    optimizer.step()
    after = dict(model.named_parameters())
    report.unchanged = [
        name for name, value in before.items() if torch.equal(value, after[name])
    ]
    return report
