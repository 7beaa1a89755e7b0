"""Test-time augmentation by one option, for all three tasks."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from mmengine.config import Config, ConfigDict

from mlp_backbones.engine.errors import UserError


def set_test_time_augmentation(config: Config) -> None:
    """Wrap model and test pipeline for test-time augmentation, in place.

    Raises:
        UserError: If the model is one whose predictions mmdet cannot merge (masks).
    """
    scope = config.default_scope
    if scope == "mmdet" and _has_key(config.model, "mask_head"):
        raise UserError("--tta: mmdet cannot merge the masks of instance segmentation")
    if "tta_model" not in config:
        config.tta_model = ConfigDict(
            mmdet={
                "type": "DetTTAModel",
                "tta_cfg": {
                    "nms": {"type": "nms", "iou_threshold": 0.5},
                    "max_per_img": 100,
                },
            },
            mmseg={"type": "mmseg.SegTTAModel"},
            mmpretrain={"type": "mmpretrain.AverageClsScoreTTA"},
        )[scope]
    own = config.get("tta_pipeline")
    for dataset in _innermost(config.test_dataloader.dataset):
        dataset.pipeline = own or _flip_pipeline(dataset.pipeline, scope)
        config.setdefault("tta_pipeline", dataset.pipeline)
    config.model = ConfigDict(**config.tta_model, module=config.model)


def _innermost(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """The data sets inside wrappers and concatenations, which have the pipelines."""
    if "dataset" in dataset:
        yield from _innermost(dataset.dataset)
    elif "datasets" in dataset:
        for one in dataset.datasets:
            yield from _innermost(one)
    else:
        yield dataset


def _flip_pipeline(pipeline: list[dict], scope: str) -> list[dict]:
    """The test pipeline with its last steps run twice, plain and flipped."""
    pipeline = deepcopy(pipeline)
    pack = pipeline.pop()
    if scope == "mmdet":
        # Boxes are flipped back by these entries, which mmdet does not pack by itself.
        keys = (
            *("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
            *("flip", "flip_direction"),
        )
        pack = {"type": "PackDetInputs", "meta_keys": keys}
    # What is read after the flip stays as it is in the file, as the metric wants it.
    annotations = [step for step in pipeline if step["type"] == "LoadAnnotations"]
    pipeline = [step for step in pipeline if step["type"] != "LoadAnnotations"]
    flips = [{"type": "RandomFlip", "prob": 0.0}, {"type": "RandomFlip", "prob": 1.0}]
    transforms = [flips, *([step] for step in annotations), [pack]]
    return [*pipeline, {"type": "TestTimeAug", "transforms": transforms}]


def _has_key(node: Any, key: str) -> bool:
    """Whether a nested config holds a key anywhere."""
    if isinstance(node, dict):
        return node.get(key) is not None or any(
            _has_key(value, key) for value in node.values()
        )
    return isinstance(node, (list, tuple)) and any(
        _has_key(value, key) for value in node
    )
