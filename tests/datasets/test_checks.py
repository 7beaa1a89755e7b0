"""Checks of data before a training: each kind of bad input, one clear line."""

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mlp_backbones.datasets.checks import (
    DataError,
    DataReport,
    DatasetReport,
    check_data,
    check_dataset_config,
    check_samples,
)

MakeConfig = Callable[..., dict]
SCOPES = ("mmdet", "mmseg", "mmpretrain")
REPOSITORY = Path(__file__).parents[2]
TOOL = REPOSITORY / "tools/misc/check_dataset.py"


def problem_of(config: dict, split: str = "train") -> str:
    """One clear line, or a failure of the test."""
    with pytest.raises(DataError) as caught:
        check_dataset_config(config, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit_coco(root: Path, edit: Callable[[dict], object], split: str = "train") -> str:
    path = root / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("scope", "numbers"),
    [("mmdet", (12, 6)), ("mmseg", (12, 6)), ("mmpretrain", (40, 20))],
)
def test_good_data_pass(
    scenes: Path,
    scope: str,
    split: str,
    numbers: tuple[int, int],
    dataset_config: MakeConfig,
) -> None:
    (summary,) = check_dataset_config(dataset_config(scenes, scope, split=split), split)
    assert isinstance(summary, DatasetReport)
    assert summary.num_images == numbers[split == "val"]
    assert summary.num_objects >= summary.num_images
    found = check_samples(dataset_config(scenes, scope, split=split), split)
    assert found.problems == ()
    assert all("classes" in one for one in {*found.warnings, *summary.warnings})


@pytest.mark.parametrize("scope", SCOPES)
def test_missing_and_empty_folders(
    own_scenes: Path, scope: str, dataset_config: MakeConfig
) -> None:
    folder = {
        "mmdet": own_scenes / "train",
        "mmseg": own_scenes / "ade" / "images" / "training",
        "mmpretrain": own_scenes / "cls" / "train",
    }[scope]
    config = dataset_config(own_scenes, scope)
    shutil.rmtree(folder)
    message = problem_of(config)
    assert str(folder) in message and "does not exist" in message
    folder.mkdir()
    message = problem_of(config)
    assert str(folder) in message and "is empty" in message


@pytest.mark.parametrize("scope", SCOPES)
def test_a_missing_root(tmp_path: Path, scope: str, dataset_config: MakeConfig) -> None:
    message = problem_of(dataset_config(tmp_path / "nowhere", scope))
    assert str(tmp_path / "nowhere") in message and "does not exist" in message


def test_class_folders_without_images(
    own_scenes: Path, dataset_config: MakeConfig
) -> None:
    for path in (own_scenes / "cls" / "train").rglob("*.jpg"):
        path.unlink()
    message = problem_of(dataset_config(own_scenes, "mmpretrain"))
    assert str(own_scenes / "cls" / "train") in message and "Found 0 files" in message


def test_images_of_another_kind_than_the_config_says(
    own_scenes: Path, dataset_config: MakeConfig
) -> None:
    config = dict(dataset_config(own_scenes, "mmseg"), img_suffix=".tif")
    assert "no image '*.tif' in folder" in problem_of(config)


def test_missing_masks(own_scenes: Path, dataset_config: MakeConfig) -> None:
    masks = own_scenes / "ade" / "annotations" / "training"
    for name in ("000003", "000007"):
        (masks / f"{name}.png").unlink()
    message = problem_of(dataset_config(own_scenes, "mmseg"))
    assert f"mask {masks / '000003.png'} (and 1 more) does not exist" in message


BROKEN_FILES = {
    "missing": (None, "does not exist"),
    "empty": ("", "is empty"),
    "no JSON": ("{'images': 3", "not a JSON file"),
    "no COCO": ("[1, 2]", "not a COCO annotation file"),
    "no images": ('{"annotations": [], "categories": []}', "no list 'images'"),
    "nothing listed": (
        '{"images": [], "annotations": [], "categories": []}',
        "lists no image",
    ),
    "no id": ('{"images": [{"file_name": "a.jpg"}]}', "has no 'id'"),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_broken_annotation_files(
    own_scenes: Path, case: str, dataset_config: MakeConfig
) -> None:
    content, message = BROKEN_FILES[case]
    path = own_scenes / "annotations" / "instances_train.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    found = problem_of(dataset_config(own_scenes, "mmdet"))
    assert str(path) in found and message in found


def test_no_matching_class(scenes: Path, dataset_config: MakeConfig) -> None:
    config = dataset_config(scenes, "mmdet")
    del config["metainfo"]  # COCO's own classes
    message = problem_of(config)
    assert str(scenes / "annotations" / "instances_train.json") in message
    assert "no class matches: the file has 0, 1, 2, 3, 4, 5, ... (10 in all)" in message
    assert "the config wants person, bicycle" in message


def test_matching_classes_without_an_annotation(
    own_scenes: Path, dataset_config: MakeConfig
) -> None:
    def edit(content: dict) -> None:
        content["annotations"] = [
            item for item in content["annotations"] if item["category_id"] != 5
        ]

    edit_coco(own_scenes, edit)
    config = dict(dataset_config(own_scenes, "mmdet"), metainfo=dict(classes=("4",)))
    assert "no annotation belongs to a class of the config (4)" in problem_of(config)


def test_seg_classes_that_are_none_of_the_data_set(
    scenes: Path, dataset_config: MakeConfig
) -> None:
    config = dict(dataset_config(scenes, "mmseg"), type="mmseg.ADE20KDataset")
    config["metainfo"] = dict(classes=("wall", "unicorn"))
    assert "unicorn" in problem_of(config)


BROKEN_ANNOTATIONS = {
    "outside": (dict(bbox=[50, 10, 90, 20]), "lies outside its image of 96x96 px"),
    "left of it": (dict(bbox=[-9, 10, 20, 20]), "lies outside its image of 96x96 px"),
    "NaN": (dict(bbox=[float("nan"), 10, 20, 20]), "is not finite"),
    "negative": (dict(bbox=[50, 10, -5, 20]), "has a negative width or height"),
    "no box": (dict(bbox=[50, 10]), "is not [x, y, width, height]"),
    "mask of another size": (
        dict(segmentation=dict(size=[50, 40], counts="d`0")),
        "mask is 40x50 px, its image 96x96 px",
    ),
    "unknown image": (dict(image_id=4711), "belongs to image 4711"),
    "unknown category": (dict(category_id=77), "has category 77"),
    "id twice": (dict(id=2), "annotation id 2 occurs 2 times"),
}


@pytest.mark.parametrize("case", BROKEN_ANNOTATIONS)
def test_broken_annotations(
    own_scenes: Path, case: str, dataset_config: MakeConfig
) -> None:
    changes, message = BROKEN_ANNOTATIONS[case]
    path = edit_coco(
        own_scenes, lambda content: content["annotations"][0].update(changes)
    )
    found = problem_of(dataset_config(own_scenes, "mmdet"))
    assert path in found and message in found
    if "bbox" in changes or "segmentation" in changes:
        assert "annotation 1 of 000000.jpg" in found


def test_rounding_and_empty_boxes_pass(
    own_scenes: Path, dataset_config: MakeConfig
) -> None:
    # Both occur in COCO itself; mmdet leaves boxes without an extent out.
    edit_coco(
        own_scenes,
        lambda content: (
            content["annotations"][0].update(bbox=[-0.6, 10, 97.2, 20]),
            content["annotations"][1].update(bbox=[5, 5, 0, 7], area=0),
        ),
    )
    check_dataset_config(dataset_config(own_scenes, "mmdet"), "train")


def test_an_image_without_size(own_scenes: Path, dataset_config: MakeConfig) -> None:
    edit_coco(own_scenes, lambda content: content["images"][2].update(width=0))
    assert "000002.jpg has size 0x96" in problem_of(dataset_config(own_scenes, "mmdet"))


def test_listed_images_exist(own_scenes: Path, dataset_config: MakeConfig) -> None:
    for name in ("000004", "000009"):
        (own_scenes / "train" / f"{name}.jpg").unlink()
    message = problem_of(dataset_config(own_scenes, "mmdet"))
    assert f"{own_scenes / 'train' / '000004.jpg'} (and 1 more) does not" in message
    assert "instances_train.json" in message


def test_a_test_file_may_lack_annotations(
    own_scenes: Path, dataset_config: MakeConfig
) -> None:
    edit_coco(own_scenes, lambda content: content.pop("annotations"), "val")
    config = dataset_config(own_scenes, "mmdet", split="val")
    (summary,) = check_dataset_config(config, "test")
    assert summary.num_objects == 0
    assert "no list 'annotations'" in problem_of(config, "val")


BROKEN_LISTS = {
    "not a label": ("0/000000.jpg zero\n", "expected '<file> <label>'"),
    "no label": ("0/000000.jpg\n", "expected '<file> <label>'"),
    "unknown class": ("0/000000.jpg 10\n", "label 10 matches no class"),
    "missing image": ("0/none.jpg 0\n", "0/none.jpg does not exist"),
}


@pytest.mark.parametrize("case", BROKEN_LISTS)
def test_broken_label_lists(
    own_scenes: Path, case: str, dataset_config: MakeConfig
) -> None:
    line, message = BROKEN_LISTS[case]
    path = own_scenes / "cls" / "train.txt"
    path.write_text("1/000001.jpg 1\n" + line)
    config = dict(
        dataset_config(own_scenes, "mmpretrain"),
        ann_file="train.txt",
        metainfo=dict(classes=tuple("0123456789")),
    )
    found = problem_of(config)
    assert str(path) in found and message in found
    path.write_text("1/000001.jpg 1\n0/000000.jpg 0\n")
    (summary,) = check_dataset_config(config, "train")
    assert summary.num_images == 2


def test_another_number_of_classes_than_folders(
    scenes: Path, dataset_config: MakeConfig
) -> None:
    config = dict(dataset_config(scenes, "mmpretrain"), metainfo=dict(classes=("a",)))
    assert "The number of subfolders (10)" in problem_of(config)


@pytest.mark.parametrize("scope", SCOPES)
def test_truncated_images_of_an_evaluation(
    own_scenes: Path, scope: str, dataset_config: MakeConfig, image_files: Callable
) -> None:
    path = image_files(own_scenes, scope, "val")[1]
    path.write_bytes(path.read_bytes()[:-700])
    config = dataset_config(own_scenes, scope, split="val")
    assert problem_of(config, "val") == (
        f"{path}: the image file is truncated (no end mark)"
    )


def test_an_end_mark_far_from_the_end_is_found(
    own_scenes: Path, dataset_config: MakeConfig
) -> None:
    path = own_scenes / "val" / "000001.jpg"
    path.write_bytes(path.read_bytes() + bytes(20_000))
    check_dataset_config(dataset_config(own_scenes, "mmdet", split="val"), "val")


@pytest.mark.parametrize("scope", SCOPES)
def test_skipping_in_an_evaluation_is_refused(
    scenes: Path, scope: str, dataset_config: MakeConfig
) -> None:
    config = dataset_config(scenes, scope, skip_bad=True, split="val")
    message = problem_of(config, "val")
    assert "skip_bad=True of mlp_backbones.LoadImage is for training only" in message


@pytest.mark.parametrize(
    "wrap",
    [
        lambda config: dict(type="RepeatDataset", times=3, dataset=config),
        lambda config: dict(type="ConcatDataset", datasets=[config, config]),
        lambda config: dict(
            type="RepeatDataset",
            times=2,
            dataset=dict(
                type="ClassBalancedDataset", oversample_thr=0.1, dataset=config
            ),
        ),
    ],
    ids=["repeat", "concat", "nested"],
)
def test_wrapped_data_sets_are_checked(
    own_scenes: Path, wrap: Callable, dataset_config: MakeConfig
) -> None:
    config = wrap(dataset_config(own_scenes, "mmdet"))
    assert {one.num_images for one in check_dataset_config(config, "train")} == {12}
    (own_scenes / "train" / "000004.jpg").unlink()
    assert "000004.jpg does not exist" in problem_of(config)


def test_a_split_that_does_not_exist(scenes: Path, dataset_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match="got 'training'"):
        check_dataset_config(dataset_config(scenes, "mmdet"), "training")


def full_config(root: Path, dataset_config: MakeConfig) -> Config:
    """A detection config with unscoped types, as configs have them."""

    def unscoped(split: str) -> dict:
        config = dataset_config(root, "mmdet", split=split)
        return dict(config, type="CocoDataset")

    val = dict(dataset=unscoped("val"))
    evaluator = dict(
        type="CocoMetric", ann_file=str(root / "annotations" / "instances_val.json")
    )
    return Config(
        dict(
            default_scope="mmdet",
            train_dataloader=dict(dataset=unscoped("train")),
            val_dataloader=val,
            test_dataloader=val,
            val_evaluator=evaluator,
            test_evaluator=[evaluator],
        )
    )


def test_a_whole_config(own_scenes: Path, dataset_config: MakeConfig) -> None:
    config = full_config(own_scenes, dataset_config)

    def splits_of(*splits: str) -> list[str]:
        return [one.split for one in check_data(config, splits).datasets]

    assert splits_of("train", "val", "test") == ["train", "val", "test"]
    assert splits_of("test") == ["test"]
    assert check_data(Config({"model": {}})) == DataReport()
    # Another pipeline on the same files: its skipping is seen.
    config.test_dataloader.dataset.pipeline = [dict(type="LoadImageFromFile")]
    assert splits_of("val", "test") == ["val", "test"]
    config.test_dataloader.dataset.pipeline[0].skip_bad = True
    with pytest.raises(DataError, match="test: skip_bad=True of LoadImageFromFile"):
        check_data(config)
    del config.test_dataloader.dataset.pipeline[0].skip_bad
    config.val_evaluator.ann_file = "data/elsewhere.json"
    with pytest.raises(DataError, match=r"data/elsewhere\.json does not exist"):
        check_data(config)


def run_tool(
    config: Config, folder: Path, capsys: pytest.CaptureFixture, *arguments: str
) -> tuple[int, list[str], list[str]]:
    """Run the tool as typed, but in this process: imports take longer than its work."""
    path = folder / "config.py"
    config.dump(str(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(TOOL), str(path), *arguments])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(TOOL), run_name="__main__")
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if "check_dataset.py: error:" in line]
    return int(caught.value.code or 0), out.splitlines(), errors


def test_the_tool(
    own_scenes: Path,
    tmp_path: Path,
    dataset_config: MakeConfig,
    capsys: pytest.CaptureFixture,
) -> None:
    config = full_config(own_scenes, dataset_config)
    code, out, errors = run_tool(config, tmp_path, capsys, "--decode")
    assert code == 0 and not errors
    train, val, test = (line for line in out if ": " in line and "images" in line)
    assert "12 images" in train and "10 classes" in train
    assert "6 images" in val and val.replace("val:", "test:") == test

    bad = [own_scenes / "train" / "000002.jpg", own_scenes / "train" / "000008.jpg"]
    bad[0].write_bytes(bad[0].read_bytes()[:2000])
    cv2.imwrite(str(bad[1]), np.zeros((30, 30, 3), np.uint8))
    some = ("--decode", "--split", "train")
    code, _, errors = run_tool(config, tmp_path, capsys, *some)
    assert code == 1
    assert errors == [
        f"check_dataset.py: error: {bad[0]}: the image file is truncated (no end mark)",
        f"check_dataset.py: error: {bad[1]}: the image is 30x30 px, its annotation "
        "file says 96x96 px",
    ]
    option = ("--cfg-options", "train_dataloader.dataset.data_root=/none")
    code, _, errors = run_tool(config, tmp_path, capsys, *option)
    assert code == 1
    assert errors == [
        "check_dataset.py: error: train: annotation file "
        "/none/annotations/instances_train.json does not exist"
    ]


def test_the_tool_compares_loader_and_evaluator(
    own_scenes: Path,
    tmp_path: Path,
    dataset_config: MakeConfig,
    capsys: pytest.CaptureFixture,
) -> None:
    """The yardstick: other annotations by option, as users exchange them."""
    config = full_config(own_scenes, dataset_config)
    val = own_scenes / "annotations" / "instances_val.json"
    other = own_scenes / "annotations" / "other.json"
    options = (
        "--cfg-options",
        "test_dataloader.dataset.ann_file=annotations/other.json",
        f"test_evaluator.0.ann_file={other}",
    )
    content = json.loads(val.read_text())

    def errors_of(change: Callable[[dict], object]) -> str:
        changed = json.loads(val.read_text())
        change(changed)
        other.write_text(json.dumps(changed))
        code, _, errors = run_tool(
            config, tmp_path, capsys, "--split", "test", *options
        )
        assert code == len(errors) and code < 2
        return "".join(errors)

    assert not errors_of(lambda content: None)
    for change, message in (
        (lambda content: content["categories"].reverse(), "stand in the order"),
        (
            lambda content: content["categories"][9].update(name="x"),
            "its categories lack '9'",
        ),
        (lambda content: content["annotations"][0].update(id=0), "0 for 'no match'"),
        (lambda content: content["annotations"][0].update(bbox=None), "bbox None"),
    ):
        message_of = errors_of(change)
        assert message in message_of and str(other) in message_of
    other.write_text(val.read_text())
    options = (*options[:-1], f"test_evaluator.0.ann_file={val}")
    assert "lists 6, not among" not in errors_of(lambda content: None)
    gone = content["images"][-1]["id"]
    found = errors_of(
        lambda content: content.update(
            images=content["images"][:-1],
            annotations=[a for a in content["annotations"] if a["image_id"] != gone],
        )
    )
    assert str(val) in found and str(other) in found and "reads 5 images" in found


def test_decoding_finds_bad_semantic_masks(
    own_scenes: Path, dataset_config: MakeConfig
) -> None:
    masks = own_scenes / "ade" / "annotations" / "training"
    cv2.imwrite(str(masks / "000001.png"), np.zeros((96, 20), np.uint8))
    cv2.imwrite(str(masks / "000006.png"), np.full((96, 96), 40, np.uint8))
    config = dataset_config(own_scenes, "mmseg")
    # The usual pipeline, of another project: checked just the same.
    config["pipeline"] = [
        dict(type="LoadImageFromFile"),
        dict(type="mmseg.LoadAnnotations"),
        dict(type="mmseg.PackSegInputs"),
    ]
    assert check_samples(config, "train").problems == (
        f"{masks / '000001.png'}: the mask is 20x96 px, its image 96x96 px",
        f"{masks / '000006.png'}: label 40 matches no class: there are 11 (0 to 10)",
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_coco_images(data_dir: Path, split: str) -> None:
    config = dict(
        type="mmdet.CocoDataset",
        data_root=str(data_dir / "coco_mini"),
        ann_file=f"annotations/instances_{split}2017.json",
        data_prefix=dict(img=f"{split}2017/"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=True),
        ],
    )
    (summary,) = check_dataset_config(config, split)
    assert summary.num_images == 80
    assert summary.num_objects == {"train": 739, "val": 815}[split]
    found = check_samples(config, split)
    assert found.problems == found.warnings == ()


@pytest.mark.parametrize("split", ["training", "validation"])
@pytest.mark.parametrize("folder", ["ade/ADEChallengeData2016", "coco_ade150"])
def test_real_ade_images(data_dir: Path, folder: str, split: str) -> None:
    config = dict(
        type="mmseg.ADE20KDataset",
        data_root=str(data_dir / "ade_mini" / folder),
        data_prefix=dict(
            img_path=f"images/{split}", seg_map_path=f"annotations/{split}"
        ),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="mmseg.LoadAnnotations"),
        ],
    )
    (summary,) = check_dataset_config(config, "train")
    assert summary.num_images == summary.num_objects > 0
    found = check_samples(config, "train")
    assert found.problems == () and found.warnings == summary.warnings
    (absent,) = found.warnings  # of 150 classes, some are in so few masks
    assert "of 150 classes are in none of the" in absent


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_classification_images(data_dir: Path, split: str) -> None:
    folders = dict(
        type="mmpretrain.CustomDataset",
        data_root=str(data_dir / "cls_mini"),
        data_prefix=split,
        pipeline=[dict(type="LoadImageFromFile")],
    )
    listed = dict(
        folders, type="mmpretrain.ImageNet", ann_file=f"meta/{split}_in1k.txt"
    )
    for config in (folders, listed):
        (summary,) = check_dataset_config(config, split)
        assert summary.num_images == {"train": 800, "val": 300}[split]
    found = check_samples(folders, split)
    assert found.problems == found.warnings == ()
