"""mmdet's and mmseg's own models, small, on one of our backbones."""

from importlib import import_module
from typing import Any

import openmmlab_runs
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from sizes import MICRO
from torch import nn

WIDTHS = [16, 32, 48, 64]
DETECTORS = {
    "retinanet": "retinanet/retinanet_r50_fpn_1x_coco.py",
    "faster-rcnn": "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    "mask-rcnn": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "cascade-mask-rcnn": "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py",
    "atss": "atss/atss_r50_fpn_1x_coco.py",
    "atss-dyhead": "dyhead/atss_r50-caffe_fpn_dyhead_1x_coco.py",
    "fcos-dcn": "fcos/fcos_r50-dcn-caffe_fpn_gn-head-center-normbbox-centeronreg-"
    "giou_1x_coco.py",
    "tood": "tood/tood_r50_fpn_1x_coco.py",
    "point-rend": "point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py",
    "mask2former": "mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
}
SEGMENTORS = {
    "semantic-fpn": "_base_/models/fpn_r50.py",
    "upernet": "_base_/models/upernet_r50.py",
    "deeplabv3plus": "_base_/models/deeplabv3plus_r50-d8.py",
    "point-rend": "_base_/models/pointrend_r50.py",
    "mask2former": "mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py",
}


def build(scope: str, name: str) -> nn.Module:
    """Build a model from the config that its package brings along."""
    configs = openmmlab_runs.package_folder(scope) / ".mim" / "configs"
    path = configs / (DETECTORS if scope == "mmdet" else SEGMENTORS)[name]
    model = Config.fromfile(path).model
    model.backbone = {"type": "mlp_backbones.CycleMLP", "arch": MICRO["cyclemlp"]}
    model.pop("init_cfg", None)
    model.pop("pretrained", None)
    model = _shrink(model)
    if scope == "mmseg":
        model.data_preprocessor.size = (64, 64)
        model.data_preprocessor.pop("size_divisor", None)
        model.setdefault("test_cfg", {"mode": "whole"})
    # TOOD asks for the epoch
    MessageHub.get_current_instance().update_info("epoch", 0)
    DefaultScope.get_instance(f"heads-{scope}", scope_name=scope)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        import_module(f"{scope}.models")
        built = import_module(f"{scope}.registry").MODELS.build(model)
    return built


def _shrink(node: Any, key: str = "") -> Any:
    """Fit channels to the backbone; make heads narrow, shallow and one device's."""
    if isinstance(node, dict):
        for name in list(node):
            node[name] = _shrink(node[name], name)
        if node.get("type") == "SyncBN":
            node["type"] = "BN"
        return node
    if isinstance(node, (list, tuple)):
        if list(node) == [256, 512, 1024, 2048]:
            return WIDTHS
        return type(node)(_shrink(item) for item in node)
    if type(node) is not int:
        return node
    return _NARROW.get((key, node), _NARROW.get(node, node))


_NARROW = {
    ("c1_in_channels", 256): 16,
    ("in_channels", 1024): 48,
    ("in_channels", 2048): 64,
    ("max_per_img", 2000): 50,
    ("max_per_img", 1000): 50,
    ("max_per_img", 100): 20,
    ("num_layers", 6): 1,
    ("num_layers", 9): 1,
    ("num_transformer_decoder_layers", 9): 1,
    ("stacked_convs", 4): 1,
    ("stacked_convs", 6): 1,
    100: 10,
    128: 16,
    256: 32,
    512: 32,
    1024: 32,
    2048: 32,
    12544: 64,
}


def step(scope: str, model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the losses of a training step on noise; gradients stay at the model."""
    data = model.data_preprocessor(inputs(scope), True)
    losses = model.train()(**data, mode="loss")
    total, losses = model.parse_losses(losses)
    total.backward()
    return dict(losses)


def predict(scope: str, model: nn.Module) -> list[Any]:
    """Return the predictions on noise."""
    data = model.data_preprocessor(inputs(scope), False)
    with torch.no_grad():
        return model.eval()(**data, mode="predict")


def inputs(scope: str) -> dict[str, list[Any]]:
    """Return two images of noise with their annotations."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=generator).byte()
    return {"inputs": list(images), "data_samples": [_sample(scope) for _ in range(2)]}


def _sample(scope: str) -> Any:
    shape = {
        "img_shape": (64, 64),
        "ori_shape": (64, 64),
        "batch_input_shape": (64, 64),
    }
    shape = {**shape, "pad_shape": (64, 64), "scale_factor": (1.0, 1.0)}
    labels = torch.zeros(64, 64, dtype=torch.long)
    labels[10:50, 8:40], labels[30:60, 30:60] = 1, 2
    if scope == "mmseg":
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        sample = SegDataSample(metainfo={**shape, "padding_size": [0, 0, 0, 0]})
        sample.gt_sem_seg = PixelData(data=labels[None])
        return sample
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    sample = DetDataSample(metainfo=shape)
    boxes = torch.tensor([[8.0, 10.0, 40.0, 50.0], [30.0, 30.0, 60.0, 60.0]])
    masks = torch.stack([labels == 1, labels == 2]).numpy().astype("uint8")
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=torch.tensor([3, 7]), masks=BitmapMasks(masks, 64, 64)
    )
    sample.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    return sample
