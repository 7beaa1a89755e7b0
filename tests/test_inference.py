"""Inference as users have it: OpenMMLab's inferencers, and tools/demo.py on them."""

import importlib.util
import json
import sys
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from pycocotools import mask as coco_mask

from mlp_backbones.building import build_model
from mlp_backbones.checkpoints import CheckpointError
from mlp_backbones.config_names import config_dir
from mlp_backbones.datasets.digit_scenes import DigitScenesOptions, make_digit_scenes
from mlp_backbones.engine import launch
from mlp_backbones.engine import options as engine_options
from mlp_backbones.engine.errors import UserError
from mlp_backbones.engine.inference import make_inferencer, predict, run_inference
from mlp_backbones.engine.pictures import find_images

CONFIG_DIR = config_dir() / "cyclemlp"
CONFIGS = {
    "retinanet": "retinanet_cyclemlp-mini_fpn_1xb8-8e_digit-scenes.py",
    "mask-rcnn": "mask-rcnn_cyclemlp-mini_fpn_1xb8-6e_digit-scenes.py",
    "semantic-fpn": "fpn_cyclemlp-mini_1xb32-3k_digit-scenes.py",
    "upernet": "upernet_cyclemlp-mini_1xb32-3k_digit-scenes.py",
    "classification": "cyclemlp-mini_1xb32-10e_digit-scenes.py",
}
DIGITS = tuple("0123456789")
# One model of each inferencer.
THREE = ("retinanet", "semantic-fpn", "classification")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    options = DigitScenesOptions(num_train=4, num_val=2, num_train_cls=20)
    return make_digit_scenes(tmp_path_factory.mktemp("scenes"), options)


@pytest.fixture(scope="module")
def image_of(scenes):
    """Give the image that a task is tried on."""
    (scene, _) = sorted((scenes / "val").glob("*.jpg"))
    picture = min((scenes / "cls" / "val").glob("*/*.jpg"))
    return lambda task: picture if task == "classification" else scene


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    """Train a task for two iterations when it is first asked for."""
    done = {}

    def train(task):
        """Return the work folder's config and the checkpoint in it."""
        if task not in done:
            work_dir = tmp_path_factory.mktemp(task)
            name = CONFIGS[task]
            part = {"classification": "cls", "semantic-fpn": "ade", "upernet": "ade"}
            options = [
                f"data_root={scenes / part.get(task, '')}",
                "train_dataloader.num_workers=0",
                f"train_dataloader.batch_size={10 if task == 'classification' else 2}",
                "default_hooks.checkpoint.interval=2",
                "default_hooks.checkpoint.by_epoch=False",
            ]
            by_epoch = task in ("retinanet", "mask-rcnn", "classification")
            options.append(f"train_cfg.max_{'epochs=1' if by_epoch else 'iters=2'}")
            arguments = [str(CONFIG_DIR / name), "--work-dir", str(work_dir)]
            arguments += ["--no-validate", "--cfg-options", *options]
            config = launch.prepare_training(
                engine_options.train_parser().parse_args(arguments)
            )
            launch.build_runner(config).train()
            checkpoint = work_dir / "iter_2.pth"
            if task == "retinanet":
                make_confident(checkpoint)
            done[task] = work_dir / name, checkpoint
        return done[task]

    return train


def make_confident(checkpoint):
    """Raise all scores of a detector, which sees nothing after two iterations."""
    content = torch.load(checkpoint, weights_only=False)
    content["state_dict"]["bbox_head.retina_cls.bias"] += 4
    torch.save(content, checkpoint)


def inferencer_of(task, config, checkpoint):
    """Make the inferencer as OpenMMLab's documents have it."""
    if task in ("retinanet", "mask-rcnn"):
        from mmdet.apis import DetInferencer

        return DetInferencer(str(config), str(checkpoint), device="cpu")
    if task in ("semantic-fpn", "upernet"):
        from mmseg.apis import MMSegInferencer

        return MMSegInferencer(str(config), str(checkpoint), device="cpu")
    from mmpretrain import ImageClassificationInferencer

    return ImageClassificationInferencer(str(config), str(checkpoint), device="cpu")


def say(inferencer, image):
    """Bring what an inferencer says into tensors by name."""
    result = inferencer(str(image))
    if isinstance(result, list):  # mmpretrain's
        return {"scores": torch.as_tensor(result[0]["pred_scores"])}
    found = result["predictions"]
    if isinstance(found, np.ndarray):  # mmseg's
        return {"classes": torch.as_tensor(found)}
    (found,) = found
    said = {key: torch.tensor(found[key]) for key in ("bboxes", "scores", "labels")}
    if "masks" in found:
        said["masks"] = torch.as_tensor(coco_mask.decode(found["masks"]))
    return said


def say_by_hand(task, config, checkpoint, image):
    """Compute the same without pipeline, preprocessor and inferencer."""
    config = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = build_model(config, checkpoint=str(checkpoint)).eval()
    pixels = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    inputs = (torch.from_numpy(pixels).permute(2, 0, 1).float() - mean) / std
    size = pixels.shape[:2]
    meta = {
        "ori_shape": size,
        "img_shape": size,
        "pad_shape": size,
        "batch_input_shape": size,
        "scale_factor": (1.0, 1.0),
    }
    with torch.no_grad():
        if task == "classification":
            return {"scores": model(inputs[None]).softmax(dim=1)[0]}
        if task in ("semantic-fpn", "upernet"):
            logits = model.encode_decode(
                inputs[None], [{**meta, "padding_size": [0] * 4}]
            )
            return {"classes": logits[0].argmax(dim=0)}
        from mmdet.structures import DetDataSample

        sample = DetDataSample(metainfo=meta)
        (sample,) = model(inputs[None], [sample], mode="predict")
    found = sample.pred_instances
    said = {"bboxes": found.bboxes, "scores": found.scores, "labels": found.labels}
    if "masks" in found:
        said["masks"] = found.masks.permute(1, 2, 0)  # (N, H, W) -> (H, W, N)
    return said


def assert_same(said, expected):
    assert said.keys() == expected.keys()
    for name, value in expected.items():
        assert value.numel() > 0
        torch.testing.assert_close(
            said[name], value, rtol=1e-4, atol=1e-4, check_dtype=False
        )


@pytest.mark.parametrize("place", ["package", "work folder"])
@pytest.mark.parametrize("task", CONFIGS)
def test_the_inferencers_of_openmmlab(trained, image_of, task, place):
    dumped, checkpoint = trained(task)
    config = CONFIG_DIR / CONFIGS[task] if place == "package" else dumped
    said = say(inferencer_of(task, config, checkpoint), image_of(task))
    assert_same(said, say_by_hand(task, config, checkpoint, image_of(task)))


@pytest.mark.parametrize("task", CONFIGS)
def test_names_and_colours_come_with_the_checkpoint(trained, task):
    inferencer = inferencer_of(task, *trained(task))
    if task == "classification":
        assert tuple(inferencer.classes) == DIGITS
        return
    meta = inferencer.model.dataset_meta
    background = () if task in ("retinanet", "mask-rcnn") else ("background",)
    assert tuple(meta["classes"]) == (*background, *DIGITS)
    assert len(meta["palette"]) >= len(meta["classes"])


def test_no_checkpoint_of_ours_needs_code(trained, monkeypatch):
    """Plain torch reads them as data, and no inferencer asks torch to load one."""
    files = [trained(task) for task in THREE]
    for _, checkpoint in files:
        assert "message_hub" in torch.load(checkpoint, weights_only=True)
    monkeypatch.delattr(torch, "load")
    for task, (config, checkpoint) in zip(THREE, files, strict=True):
        inferencer_of(task, config, checkpoint)


def test_official_weights_are_not_fetched(trained, image_of, tmp_path):
    _, checkpoint = trained("retinanet")
    config = tmp_path / "official.py"
    config.write_text(
        f"_base_ = {str(CONFIG_DIR / CONFIGS['retinanet'])!r}\n"
        "model = dict(backbone=dict(\n"
        "    init_cfg=dict(type='Pretrained', checkpoint='official')))\n"
    )
    inferencer = inferencer_of("retinanet", config, checkpoint)
    assert say(inferencer, image_of("retinanet"))["scores"].max() > 0.3
    # A training would ask for them, and hears that this size has none.
    with pytest.raises(CheckpointError, match="no official weights"):
        inferencer.model.backbone.init_weights()


def test_the_three_in_one_process(trained, image_of):
    made = {task: inferencer_of(task, *trained(task)) for task in THREE}
    for task in (*THREE, *reversed(THREE)):
        expected = say_by_hand(task, *trained(task), image_of(task))
        assert_same(say(made[task], image_of(task)), expected)


@pytest.mark.parametrize("first", range(3))
def test_ours_are_made_in_any_order(trained, image_of, first):
    order = THREE[first:] + THREE[:first]
    made = {}
    for task in order:
        config, checkpoint = trained(task)
        made[task] = make_inferencer(Config.fromfile(config), checkpoint, "cpu")
    for task in THREE:
        expected = say_by_hand(task, *trained(task), image_of(task))
        assert_same(say(made[task], image_of(task)), expected)


def without_names(checkpoint, target):
    content = torch.load(checkpoint, weights_only=False)
    torch.save({"state_dict": content["state_dict"]}, target)
    return target


@pytest.mark.parametrize("task", CONFIGS)
def test_names_of_a_checkpoint_without_any(trained, image_of, tmp_path, task):
    config, checkpoint = trained(task)
    config = Config.fromfile(config)
    bare = without_names(checkpoint, tmp_path / "bare.pth")
    background = ["background"] if task in ("semantic-fpn", "upernet") else []
    for classes in (None, background + [f"digit {digit}" for digit in DIGITS]):
        inferencer = make_inferencer(config, bare, "cpu", classes)
        if task == "classification":
            names = inferencer.classes
            assert inferencer(str(image_of(task)))[0]["pred_class"] in names
        else:
            names = inferencer.model.dataset_meta["classes"]
            inferencer(str(image_of(task)), return_vis=True)
        assert list(names) == (classes or [*background, *DIGITS])
    with pytest.raises(UserError, match="names 2 classes, the model has 1"):
        make_inferencer(config, bare, "cpu", ["a", "b"])


@pytest.mark.parametrize("task", THREE)
def test_a_checkpoint_that_names_too_few_classes(trained, tmp_path, task):
    config, checkpoint = trained(task)
    config, content = (
        Config.fromfile(config),
        torch.load(checkpoint, weights_only=False),
    )
    target = tmp_path / "checkpoint.pth"
    content["meta"]["dataset_meta"] = {"classes": ("a", "b")}
    torch.save(content, target)
    with pytest.raises(UserError, match="names 2 classes, the model has 1"):
        make_inferencer(config, target, "cpu")
    content["meta"]["dataset_meta"] = {}  # none at all: those of the config
    torch.save(content, target)
    inferencer = make_inferencer(config, target, "cpu")
    if task == "classification":
        assert tuple(inferencer.classes) == DIGITS
    else:
        assert tuple(inferencer.model.dataset_meta["classes"])[-10:] == DIGITS


# ------------------------------------------------------------------------- refusals


def test_a_checkpoint_of_a_plain_backbone(trained, tmp_path):
    config, checkpoint = trained("retinanet")
    content = torch.load(checkpoint, weights_only=False)
    weights = OrderedDict(
        (name.removeprefix("backbone."), value)
        for name, value in content["state_dict"].items()
        if name.startswith("backbone.")
    )
    torch.save(weights, tmp_path / "backbone.pth")
    with pytest.raises(UserError, match="no whole model") as error:
        make_inferencer(Config.fromfile(config), tmp_path / "backbone.pth", "cpu")
    assert "backbone.stem.proj.weight is missing in the file" in str(error.value)


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('code in a checkpoint was run')",)


def test_a_checkpoint_with_code_is_refused(trained, tmp_path):
    config, checkpoint = trained("retinanet")
    content = torch.load(checkpoint, weights_only=False)
    torch.save({**content, "trap": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UserError, match="it asks for exec"):
        make_inferencer(Config.fromfile(config), tmp_path / "trap.pth", "cpu")


@pytest.mark.parametrize(
    ("device", "word"), [("abacus", "abacus"), ("cuda:99", "cannot be used")]
)
def test_devices_that_are_not_there(trained, device, word):
    config, checkpoint = trained("retinanet")
    with pytest.raises(UserError, match=word):
        make_inferencer(Config.fromfile(config), checkpoint, device)


def test_images_of_folders(tmp_path):
    picture = np.zeros((40, 40, 3), dtype=np.uint8)
    for name in ("b.png", "a.JPG", "deeper/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), picture)
    (tmp_path / "notes.txt").write_text("no image")
    found = find_images([tmp_path, tmp_path / "b.png"])
    assert [file.name for file in found] == ["a.JPG", "b.png"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.png").write_bytes((tmp_path / "b.png").read_bytes()[:60])
    for path, word in (
        (tmp_path / "no.png", "no.png does not exist"),
        (tmp_path / "empty", "holds no images"),
        (tmp_path / "notes.txt", "notes.txt"),
        (tmp_path / "half.png", "half.png"),
    ):
        with pytest.raises(UserError, match=word):
            find_images([path])


# ----------------------------------------------------------------------------- demo


@pytest.fixture(scope="module")
def tool():
    """Import tools/demo.py."""
    file = Path(__file__).parents[1] / "tools" / "demo.py"
    spec = importlib.util.spec_from_file_location("demo_tool", file)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


@pytest.fixture
def demo(monkeypatch, tmp_path, capfd, tool):
    """Run tools/demo.py in this process, from an empty folder."""
    # It makes its own logger the current one, which writes to this test's stderr.
    monkeypatch.setattr(MMLogger, "_instance_dict", OrderedDict())
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["demo.py", *map(str, arguments)])
        code = tool.main()
        assert not list(empty.iterdir())
        return code, *capfd.readouterr()

    return call


def enlarged(image, picture):
    """Repeat an image's pixels to the size of its picture."""
    factor = picture.shape[0] // image.shape[0]
    return image.repeat(factor, axis=0).repeat(factor, axis=1).astype(int)


@pytest.mark.parametrize("task", CONFIGS)
def test_the_demo(trained, image_of, demo, tmp_path, task):
    (config, checkpoint), image = trained(task), image_of(task)
    out_dir = tmp_path / "out"
    # Few of the scores of two iterations pass the usual threshold.
    options = ["--score-thr", "0.08"] if task == "mask-rcnn" else []
    code, out, err = demo(image, config, checkpoint, "--out", out_dir, *options)
    assert code == 0, err
    picture = cv2.imread(str(out_dir / "vis" / f"{image.stem}.png"))
    assert str(out_dir / "vis" / f"{image.stem}.png") in out
    record = json.loads((out_dir / "preds" / f"{image.stem}.json").read_text())
    expected = say_by_hand(task, config, checkpoint, image)
    pixels = cv2.imread(str(image))
    changed = (picture != enlarged(pixels, picture)).any(axis=-1)
    if task in ("retinanet", "mask-rcnn"):
        assert record["labels"] == expected["labels"].tolist()
        assert record["scores"] == pytest.approx(expected["scores"].tolist(), abs=1e-4)
        assert record["classes"] == [DIGITS[label] for label in record["labels"]]
        threshold = 0.08 if options else 0.3
        shown = [score for score in record["scores"] if score > threshold]
        assert f"{max(shown):.3f}" in out
        assert changed.any()
    elif task == "classification":
        assert record["scores"] == pytest.approx(expected["scores"].tolist(), abs=1e-4)
        assert record["label"] == int(expected["scores"].argmax())
        assert f"{max(record['scores']):.3f}" in out
        assert changed.any()
    else:
        mask = cv2.imread(str(out_dir / "preds" / record["mask"]), cv2.IMREAD_UNCHANGED)
        assert (torch.as_tensor(mask) == expected["classes"]).all()
        assert sum(record["shares"].values()) == pytest.approx(1)
        for name, share in record["shares"].items():
            label = record["classes"].index(name)
            assert share == pytest.approx(float((mask == label).mean()), abs=1e-6)
            assert f"{100 * share:.1f} %" in out
        palette = np.array(Config.fromfile(config).metainfo.palette)
        drawn = enlarged(palette[mask][..., ::-1], picture)  # RGB to BGR
        blend = (drawn + enlarged(pixels, picture)) / 2
        assert np.abs(picture - blend).max() <= 1


def test_the_demo_on_several_images(trained, scenes, demo, tmp_path):
    config, checkpoint = trained("retinanet")
    first, second = sorted((scenes / "val").glob("*.jpg"))
    twin = tmp_path / "twin" / first.name
    twin.parent.mkdir()
    twin.write_bytes(second.read_bytes())
    out_dir = tmp_path / "out"
    (out_dir / "vis").mkdir(parents=True)
    (out_dir / "vis" / f"{first.stem}.png").write_text("of an earlier run")
    arguments = [config, checkpoint, "--out", out_dir, "--no-save-pred"]
    code, out, err = demo(scenes / "val", twin, *arguments)
    assert code == 0, err
    pictures = sorted(file.name for file in (out_dir / "vis").iterdir())
    assert pictures == [
        f"{first.stem}.png",
        f"{first.stem}_2.png",
        f"{second.stem}.png",
    ]
    assert not (out_dir / "preds").exists()
    one, other, third = (cv2.imread(str(out_dir / "vis" / name)) for name in pictures)
    assert (other == third).all()  # the same image under two names
    assert (one != other).any()


def test_the_demo_on_a_long_thin_image(trained, demo, tmp_path):
    """It is not enlarged until its short side can be read."""
    image = tmp_path / "thin [b].png"
    cv2.imwrite(str(image), np.full((3, 900, 3), 128, dtype=np.uint8))
    code, out, err = demo(image, *trained("retinanet"), "--out", tmp_path / "out")
    assert code == 0, err
    picture = cv2.imread(str(tmp_path / "out" / "vis" / "thin [b].png"))
    assert picture.shape == (6, 1800, 3)
    assert str(image) in out  # brackets are no markup


def test_the_demo_never_replaces_an_image(trained, image_of, demo, tmp_path):
    config, checkpoint = trained("retinanet")
    image = tmp_path / "vis" / "scene.png"
    image.parent.mkdir()
    cv2.imwrite(str(image), cv2.imread(str(image_of("retinanet"))))
    before = image.read_bytes()
    code, _, err = demo(image, config, checkpoint, "--out", tmp_path)
    assert code == 2
    assert "choose another" in err
    assert image.read_bytes() == before
    code, _, err = demo(image, config, checkpoint, "--out", image)
    assert code == 2
    assert f"{image} is no folder" in err
    assert image.read_bytes() == before


def test_the_options_of_the_demo(trained, image_of, demo, tmp_path):
    (config, checkpoint), image = trained("semantic-fpn"), image_of("semantic-fpn")
    names = [f"name{index}" for index in range(11)]
    options = ["--opacity", "0", "--classes", *names, "--device", "cpu"]
    code, out, err = demo(image, config, checkpoint, "--out", tmp_path / "a", *options)
    assert code == 0, err
    assert "name" in out
    picture = cv2.imread(str(tmp_path / "a" / "vis" / f"{image.stem}.png"))
    assert (picture == enlarged(cv2.imread(str(image)), picture)).all()
    (config, checkpoint), image = trained("retinanet"), image_of("retinanet")
    options = ["--score-thr", "1", "--cfg-options", "model.test_cfg.max_per_img=3"]
    code, out, err = demo(image, config, checkpoint, "--out", tmp_path / "b", *options)
    assert code == 0, err
    assert "nothing above the threshold" in out
    record = json.loads((tmp_path / "b" / "preds" / f"{image.stem}.json").read_text())
    assert len(record["scores"]) == 3


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ("image", "does not exist"),
        ("text", "notes.txt"),
        ("config", "config file"),
        ("checkpoint", "does not exist"),
        ("architecture", "head.fc.weight is not in the model"),
        ("score", "score_threshold must lie between 0 and 1"),
        ("safetensors", "files of torch.save only"),
    ],
)
def test_the_demo_refuses_in_one_line(trained, image_of, demo, tmp_path, wrong, word):
    config, checkpoint = trained("retinanet")
    image, options = image_of("retinanet"), []
    if wrong == "image":
        image = tmp_path / "no.jpg"
    elif wrong == "text":
        image = tmp_path / "notes.txt"
        image.write_text("no image")
    elif wrong == "config":
        config = tmp_path / "no.py"
    elif wrong == "checkpoint":
        checkpoint = tmp_path / "no.pth"
    elif wrong == "architecture":
        _, checkpoint = trained("classification")
    elif wrong == "score":
        options = ["--score-thr", "30"]
    else:
        from safetensors.torch import save_file

        content = torch.load(checkpoint, weights_only=False)
        checkpoint = tmp_path / "weights.safetensors"
        save_file(dict(content["state_dict"]), checkpoint)
    code, _, err = demo(image, config, checkpoint, "--out", tmp_path / "out", *options)
    lines = [line for line in err.splitlines() if line.startswith("demo.py: error: ")]
    assert code in (1, 2)
    assert len(lines) == 1
    assert word in lines[0]
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_predictions_do_not_depend_on_the_company(trained, scenes, tmp_path):
    """What is said of an image is the same alone and among others."""
    config, checkpoint = trained("mask-rcnn")
    images = sorted((scenes / "val").glob("*.jpg"))
    inferencer = make_inferencer(Config.fromfile(config), checkpoint, "cpu")
    together = list(run_inference(inferencer, images, tmp_path))
    (alone,) = run_inference(inferencer, images[1:], tmp_path)
    assert alone == together[1]
    scores = predict(inferencer, images[1]).pred_instances.scores
    assert alone[1]["scores"] == pytest.approx(scores.tolist())
    assert len(scores) > 0


def test_a_summary_is_short_and_says_what_it_leaves_out(tool):
    boxes = [[0.0, 1.0, 2.0, 3.4]] * 30
    found = {"scores": [0.5] * 29 + [0.9], "classes": ["a"] * 29 + ["b"]}
    lines = tool.summarise({**found, "bboxes": boxes}, 0.3).splitlines()
    assert lines[0] == "b: 0.900 at 0, 1, 2, 3"
    assert lines[-1].strip() == "... and 10 more"
    assert len(lines) == 21
    none = tool.summarise({**found, "bboxes": boxes}, 0.95)
    assert none == "nothing above the threshold"
