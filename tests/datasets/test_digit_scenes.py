"""The digit scenes, judged by pycocotools and by brute force."""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mlp_backbones.datasets import digit_scenes
from mlp_backbones.datasets.digit_scenes import (
    CLASSES,
    MARKER_FILE,
    SEG_CLASSES,
    DigitScenesOptions,
    digit_pool,
    make_digit_scenes,
    render_scene,
)

TOOL = Path(__file__).parents[2] / "tools/dataset_converters/make_digit_scenes.py"
ADE_SPLIT = {"train": "training", "val": "validation"}


def digest(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def read_coco(root: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(root / "annotations" / f"instances_{split}.json"))


def run_tool(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": str(TOOL.parents[2]),
        },
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_ground_truth_as_detections_is_perfect(scenes: Path, split: str) -> None:
    truth = read_coco(scenes, split)
    detections = [
        {
            **{
                key: item[key]
                for key in ("image_id", "category_id", "bbox", "segmentation")
            },
            "score": 1.0,
        }
        for item in truth.dataset["annotations"]
    ]
    for kind in ("bbox", "segm"):
        with contextlib.redirect_stdout(io.StringIO()):
            found = truth.loadRes(
                [
                    {
                        key: value
                        for key, value in item.items()
                        if not (kind == "segm" and key == "bbox")
                    }
                    for item in detections
                ]
            )
            evaluation = COCOeval(truth, found, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        assert evaluation.stats[0] == 1.0


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_boxes_areas_and_masks(scenes: Path, split: str) -> None:
    coco = read_coco(scenes, split)
    annotations = coco.dataset["annotations"]
    assert [item["id"] for item in annotations] == list(range(1, len(annotations) + 1))
    assert [item["name"] for item in coco.dataset["categories"]] == list(CLASSES)
    files = {item["file_name"] for item in coco.dataset["images"]}
    assert files == {path.name for path in (scenes / split).iterdir()}
    for image in coco.dataset["images"]:
        pixels = cv2.imread(str(scenes / split / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3)
        items = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert 1 <= len(items) <= 6
        painted = np.zeros(pixels.shape[:2], int)
        for item in items:
            mask = coco.annToMask(item)
            painted += mask
            assert item["iscrowd"] == 0
            assert item["area"] == mask.sum() > 0
            inside = [
                (x, y)
                for y in range(mask.shape[0])
                for x in range(mask.shape[1])
                if mask[y, x]
            ]
            left, right = min(x for x, _ in inside), max(x for x, _ in inside)
            top, bottom = min(y for _, y in inside), max(y for _, y in inside)
            assert item["bbox"] == [left, top, right - left + 1, bottom - top + 1]
        assert painted.max() == 1  # visible masks do not overlap


@pytest.mark.parametrize("split", ["train", "val"])
def test_semantic_masks_agree_with_the_instances(scenes: Path, split: str) -> None:
    coco = read_coco(scenes, split)
    folder = ADE_SPLIT[split]
    assert len(SEG_CLASSES) == 11
    for image in coco.dataset["images"]:
        name = image["file_name"]
        same = scenes / "ade" / "images" / folder / name
        assert same.read_bytes() == (scenes / split / name).read_bytes()
        mask = cv2.imread(
            str((scenes / "ade" / "annotations" / folder / name).with_suffix(".png")),
            cv2.IMREAD_UNCHANGED,
        )
        assert mask.dtype == np.uint8 and mask.ndim == 2
        expected = np.zeros_like(mask)
        for item in coco.loadAnns(coco.getAnnIds(image["id"])):
            name = coco.cats[item["category_id"]]["name"]
            expected[coco.annToMask(item) == 1] = SEG_CLASSES.index(name)
        np.testing.assert_array_equal(mask, expected)


def test_classification_folders(scenes: Path) -> None:
    for split, number in (("train", 4), ("val", 2)):
        folders = sorted((scenes / "cls" / split).iterdir())
        assert [folder.name for folder in folders] == list(CLASSES)
        for folder in folders:
            files = list(folder.iterdir())
            assert len(files) == number
            assert cv2.imread(str(files[0])).shape == (64, 64, 3)


def test_digits_stand_out_and_are_partly_visible() -> None:
    shares, contrasts = [], []
    for index in range(40):
        scene = render_scene(0, "train", index, 128)
        grey = cv2.cvtColor(scene.image, cv2.COLOR_BGR2GRAY).astype(float)
        for item in scene.objects:
            shares.append(item.mask.sum() / item.full_area)
            extent = max(np.ptp(axis) + 1 for axis in np.nonzero(item.mask))
            # 1/2.5 upright, and up to 1.33 of it for a square one at 25 degrees.
            assert extent <= 128 / 2.5 * 1.35
            ink = cv2.erode(item.mask.astype(np.uint8), np.ones((3, 3))) > 0
            ring = cv2.dilate(item.mask.astype(np.uint8), np.ones((7, 7))) > 0
            for other in scene.objects:
                ring &= ~cv2.dilate(
                    other.mask.astype(np.uint8), np.ones((3, 3))
                ).astype(bool)
            if ink.sum() and ring.sum() > 20:
                contrasts.append(abs(np.median(grey[ink]) - np.median(grey[ring])))
    assert min(shares) >= 0.6
    assert max(shares) == 1
    assert min(shares) < 1  # some do overlap
    # Most, not all: a picture may hold light and dark ground under one digit.
    assert np.quantile(contrasts, 0.1) > 40


def test_splits_share_neither_handwriting_nor_ground(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, val = set(digit_pool("train")), set(digit_pool("val"))
    assert not train & val
    assert len(train | val) == 1797
    used = {
        split: {
            item.sample
            for index in range(60)
            for item in render_scene(5, split, index, 64).objects
        }
        for split in ("train", "val")
    }
    assert used["train"] <= train and used["val"] <= val

    # Photographs that hold their own column number: it survives the crop as a colour.
    digits, labels, photos = digit_scenes._load_sources()
    columns = [
        np.broadcast_to(
            np.linspace(0, 255, photo.shape[1])[None, :, None].astype(np.uint8),
            photo.shape,
        ).copy()
        for photo in photos
    ]
    monkeypatch.setattr(
        digit_scenes, "_load_sources", lambda: (digits, labels, columns)
    )
    cut = 255 * digit_scenes._TRAIN_SHARE_PHOTO
    for regions, seen_in in (
        (digit_scenes._photo_regions("train"), "train"),
        (digit_scenes._photo_regions("val"), "val"),
    ):
        for region in regions:
            assert (
                (region <= cut).all()
                if seen_in == "train"
                else (region >= cut - 1).all()
            )


def test_pools_hold_every_digit() -> None:
    labels = digit_scenes._load_sources()[1]
    for split in ("train", "val"):
        assert set(labels[digit_pool(split)]) == set(range(10))


def test_same_bytes_in_another_process(scenes: Path, tmp_path: Path) -> None:
    result = run_tool(
        "--out",
        str(tmp_path / "again"),
        "--num-train",
        "12",
        "--num-val",
        "6",
        "--num-train-cls",
        "40",
        "--num-val-cls",
        "20",
        "--size",
        "96",
        "--seed",
        "3",
        hash_seed="77",
    )
    assert result.returncode == 0, result.stderr
    assert digest(tmp_path / "again") == digest(scenes)


def test_another_seed_gives_other_scenes(
    scenes: Path, tmp_path: Path, scene_options: DigitScenesOptions
) -> None:
    other = make_digit_scenes(tmp_path / "other", replace(scene_options, seed=4))
    first, second = digest(scenes), digest(other)
    assert first.keys() == second.keys()
    assert first["train/000000.jpg"] != second["train/000000.jpg"]


def test_more_pictures_leave_the_first_ones_as_they_are(
    scenes: Path, tmp_path: Path, scene_options: DigitScenesOptions
) -> None:
    fewer = make_digit_scenes(
        tmp_path / "fewer", replace(scene_options, num_train=5, formats=("coco",))
    )
    assert sorted(path.name for path in fewer.iterdir()) == sorted(
        ["annotations", MARKER_FILE, "train", "val"]
    )
    full = digest(scenes)
    for name, value in digest(fewer).items():
        if name.startswith("train/"):
            assert full[name] == value


def test_refuses_to_overwrite(scenes: Path) -> None:
    before = digest(scenes)
    result = run_tool("--out", str(scenes), "--num-train", "1")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert str(scenes) in result.stderr and "--overwrite" in result.stderr
    assert digest(scenes) == before


def test_overwrites_only_its_own(own_scenes: Path, tmp_path: Path) -> None:
    small = DigitScenesOptions(num_train=1, num_val=1, size=64, formats=("coco",))
    make_digit_scenes(own_scenes, small, overwrite=True)
    assert len(list((own_scenes / "train").iterdir())) == 1
    assert not (own_scenes / "cls").exists()

    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="thesis is not empty"):
        make_digit_scenes(foreign, small, overwrite=True)
    assert (foreign / "chapter.txt").read_text() == "years of work"


def test_a_failed_run_keeps_the_old_set(
    own_scenes: Path, monkeypatch: pytest.MonkeyPatch, scene_options: DigitScenesOptions
) -> None:
    before = digest(own_scenes)

    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(digit_scenes, "_write_classification", fail)
    with pytest.raises(KeyboardInterrupt):
        make_digit_scenes(own_scenes, scene_options, overwrite=True)
    assert digest(own_scenes) == before
    assert [path.name for path in own_scenes.parent.iterdir()] == ["scenes"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_train=0), "num_train must be at least 1, got 0"),
        (dict(num_val_cls=-3), "num_val_cls must be at least 1, got -3"),
        (dict(size=16), "size must be 32 to 4096 px, got 16"),
        (dict(seed=-1), "seed must not be negative, got -1"),
        (dict(formats=("voc",)), "voc"),
        (dict(formats=()), "formats must be some of"),
    ],
)
def test_impossible_options(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitScenesOptions(**changes)


def test_the_tool_reports_impossible_options_in_one_line(tmp_path: Path) -> None:
    result = run_tool("--out", str(tmp_path / "new"), "--size", "5")
    assert result.returncode == 1
    assert (
        result.stderr.strip()
        == "make_digit_scenes.py: error: size must be 32 to 4096 px, got 5"
    )
    assert not (tmp_path / "new").exists()


def test_marker_says_how_the_set_was_made(scenes: Path) -> None:
    content = json.loads((scenes / MARKER_FILE).read_text())
    assert content["seed"] == 3 and content["size"] == 96
    assert content["formats"] == ["coco", "ade", "cls"]
