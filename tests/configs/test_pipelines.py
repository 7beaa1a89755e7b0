"""Every pipeline turns files into what its model takes."""

import copy

import cv2
import numpy as np
import pytest
import shipped_configs
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope

from mlp_backbones.building import build_model
from mlp_backbones.config_names import TASKS, find_configs
from mlp_backbones.datasets.digit_scenes import METAINFO, SEG_METAINFO
from mlp_backbones.testing.configs import shrink_config

CONFIG_DIR = shipped_configs.CONFIG_DIR

HEIGHT, WIDTH = 90, 120
PIPELINES = ("train_dataloader", "val_dataloader", "test_dataloader", "tta_pipeline")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines")
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    mask = generator.integers(0, 11, (HEIGHT, WIDTH), dtype=np.uint8)
    cv2.imwrite(str(folder / "image.jpg"), image)
    cv2.imwrite(str(folder / "mask.png"), mask)
    return folder


def _results(files, config):
    task = TASKS[config.default_scope]
    results = {"img_path": str(files / "image.jpg"), "img_id": 0, "sample_idx": 0}
    if task == "classification":
        return {**results, "gt_label": 3}
    if task == "segmentation":
        return {
            **results,
            "seg_map_path": str(files / "mask.png"),
            "label_map": None,
            "reduce_zero_label": config.train_dataloader.dataset.type
            == "ADE20KDataset",
            "seg_fields": [],
        }
    instance = {
        "bbox": [10.0, 20.0, 60.0, 80.0],
        "bbox_label": 3,
        "ignore_flag": 0,
        "mask": [[10, 20, 60, 20, 60, 80, 10, 80]],
    }
    size = {"height": HEIGHT, "width": WIDTH}
    return {**results, **size, "instances": [instance]}


def _pipeline(config, key):
    return config.get(key) if key == "tta_pipeline" else config[key].dataset.pipeline


def _by_family(path):
    """CycleMLP's first: of the configs that share a pipeline, one of a small model."""
    return path.parent.name != "cyclemlp", path


def _distinct(keys, describe):
    """List (key, path) once for each description, but for those without one."""
    found = {}
    for path in sorted(find_configs(CONFIG_DIR), key=_by_family):
        config = shipped_configs.read(path)
        for key in keys:
            if (description := describe(config, key)) is not None:
                found.setdefault(repr((config.default_scope, description)), (key, path))
    return [
        pytest.param(key, path, id=f"{path.stem}-{key}") for key, path in found.values()
    ]


def _describe_pipeline(config, key):
    pipeline = _pipeline(config, key)
    # Of what the pipeline compares with: files, or the size that the model sees.
    kind = (key == "train_dataloader", config.train_dataloader.dataset.type)
    return pipeline and (kind, pipeline)


def _describe_augmentation(config, key):
    head = config.model.get("decode_head", {}).get("type")
    model = config.get(key)
    return model and (config.model.type, head, model, config.tta_pipeline)


@pytest.mark.parametrize(("key", "path"), _distinct(PIPELINES, _describe_pipeline))
def test_pipeline_runs(key, path, files):
    config = shipped_configs.read(path)
    task = TASKS[config.default_scope]
    results = _results(files, config)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        packed = Compose(_pipeline(config, key))(results)
    inputs = packed["inputs"]
    for tensor in inputs if isinstance(inputs, list) else [inputs]:
        assert tensor.dtype == torch.uint8 and tensor.shape[0] == 3
    samples = packed["data_samples"]
    for sample in samples if isinstance(samples, list) else [samples]:
        if task == "detection":
            assert sample.gt_instances.labels.tolist() == [3]
        elif task == "classification":
            assert sample.gt_label.tolist() == [3]
        elif key != "train_dataloader":
            # Compared at the size of the file, whatever the model sees.
            assert sample.gt_sem_seg.shape == (HEIGHT, WIDTH)
        else:
            assert sample.gt_sem_seg.shape == tuple(inputs.shape[1:])


def test_classes_of_digit_scenes_are_those_of_the_maker():
    stems = ("retinanet_cyclemlp-mini_fpn", "fpn_cyclemlp-mini")
    for stem, info in zip(stems, (METAINFO, SEG_METAINFO), strict=True):
        (path,) = CONFIG_DIR.glob(f"cyclemlp/{stem}_*_digit-scenes.py")
        config = Config.fromfile(path)
        for key in ("train_dataloader", "val_dataloader", "test_dataloader"):
            metainfo = config[key].dataset.metainfo
            assert tuple(metainfo.classes) == info["classes"]
            if "palette" in metainfo:
                assert [tuple(colour) for colour in metainfo.palette] == info["palette"]


# mmseg says at each build that its loss averages over all pixels.
@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``")
@pytest.mark.parametrize(
    ("key", "path"), _distinct(("tta_model",), _describe_augmentation)
)
def test_augmented_predictions_are_merged(key, path, files):
    config = copy.deepcopy(shipped_configs.read(path))
    if "digit-scenes" not in path.stem:
        # The pyramid of scales is for GPUs; the flips are what needs a test.
        for steps in config.tta_pipeline[-1].transforms:
            if steps[0].type == "Resize":
                del steps[1:]
                steps[0] = {"type": "Resize", "scale": (64, 64), "keep_ratio": True}
    small = shrink_config(config)
    task = TASKS[config.default_scope]
    with DefaultScope.overwrite_default_scope(config.default_scope):
        data = pseudo_collate([Compose(config.tta_pipeline)(_results(files, config))])
        settings = {**config[key], "module": build_model(small, init=True)}
        model = MODELS.build(settings).eval()
    with torch.no_grad():
        (sample,) = model.test_step(data)
    if task == "detection":
        boxes = sample.pred_instances.bboxes
        assert len(boxes) > 0
        # In the picture's own pixels again, whatever sizes the model has seen.
        assert boxes[:, 0::2].max() <= WIDTH and boxes[:, 1::2].max() <= HEIGHT
    elif task == "segmentation":
        assert sample.pred_sem_seg.shape == (HEIGHT, WIDTH)
    else:
        assert sample.pred_score.sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("stem", "root"),
    [
        ("retinanet_cyclemlp-b1_fpn_8xb2-1x_coco", "coco_mini/"),
        ("mask-rcnn_cyclemlp-b1_fpn_8xb2-1x_coco", "coco_mini/"),
        (
            "fpn_cyclemlp-b1_8xb4-40k_ade20k-512x512",
            "ade_mini/ade/ADEChallengeData2016",
        ),
        ("upernet_cyclemlp-tiny_8xb2-160k_ade20k-512x512", "ade_mini/coco_ade150"),
        ("cyclemlp-b1_8xb128_in1k", "cls_mini"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_real_data_needs_only_another_root(stem, root, split, data_dir):
    config = Config.fromfile(CONFIG_DIR / "cyclemlp" / f"{stem}.py")
    settings = config[f"{split}_dataloader"].dataset
    settings.data_root = f"{data_dir}/{root}"
    with DefaultScope.overwrite_default_scope(config.default_scope):
        dataset = DATASETS.build(settings)
    assert len(dataset) > 0
    item = dataset[0]
    assert item["inputs"].dtype == torch.uint8
    if split == "train" and "ade20k" in stem:
        labels = item["data_samples"].gt_sem_seg.data
        assert labels[labels != 255].max() < 150
    if "coco" in stem and "ade" not in stem:
        height, width = item["inputs"].shape[1:]
        assert (min(height, width), max(height, width)) <= (800, 1333)
        assert min(height, width) == 800 or max(height, width) == 1333


@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore``")
@pytest.mark.filterwarnings("ignore:Checkpoint is not loaded")
@pytest.mark.parametrize(
    "stem", ["retinanet_cyclemlp-mini", "fpn_cyclemlp-mini", "cyclemlp-mini"]
)
def test_inferencers_of_openmmlab_take_the_config(stem, files):
    (path,) = CONFIG_DIR.glob(f"cyclemlp/{stem}_*_digit-scenes.py")
    scope = Config.fromfile(path).default_scope
    image = cv2.imread(str(files / "image.jpg"))
    with DefaultScope.overwrite_default_scope(scope):
        if scope == "mmdet":
            from mmdet.apis import DetInferencer

            infer = DetInferencer(str(path), device="cpu", show_progress=False)
            (prediction,) = infer(image, no_save_vis=True)["predictions"]
            assert set(prediction) >= {"bboxes", "labels", "scores"}
        elif scope == "mmseg":
            from mmseg.apis import MMSegInferencer

            infer = MMSegInferencer(str(path), device="cpu")
            assert infer(image)["predictions"].shape == (HEIGHT, WIDTH)
        else:
            from mmpretrain import ImageClassificationInferencer

            infer = ImageClassificationInferencer(str(path), device="cpu")
            (prediction,) = infer(image)
            assert prediction["pred_scores"].shape == (10,)
