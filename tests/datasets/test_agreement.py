"""Splits, evaluator, loader and checkpoint agree about classes and images."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_configs import edit, problem_of
from mmengine.config import Config

from mlp_backbones.datasets.checks import (
    Classes,
    DataError,
    DataReport,
    check_data,
    classes_of,
    compare_with_checkpoint,
)

MakeConfig = Callable[..., dict]
NAMES = tuple("0123456789")


def first(**changes: Any) -> Callable[[dict], None]:
    return lambda content: content["annotations"][0].update(changes)


def each(**changes: Any) -> Callable[[dict], None]:
    return lambda content: [one.update(changes) for one in content["annotations"]]


def without(key: str, entries: str = "annotations") -> Callable[[dict], None]:
    return lambda content: content[entries][0].pop(key)


def relative(content: dict) -> None:
    for one in content["annotations"]:
        one["bbox"] = [value / 96 for value in one["bbox"]]


def unused_category(content: dict) -> None:
    gone = content["categories"].pop(4)["id"]
    content["annotations"] = [
        one for one in content["annotations"] if one["category_id"] != gone
    ]


def double_name(content: dict) -> None:
    content["categories"].append({"id": 99, "name": "3"})


def numbered_from_zero(content: dict) -> None:
    for number, one in enumerate(content["annotations"]):
        one["id"] = number


def double_image(content: dict) -> None:
    content["images"].append(content["images"][0])


def fewer_images(content: dict) -> None:
    gone = content["images"].pop()["id"]
    content["annotations"] = [
        one for one in content["annotations"] if one["image_id"] != gone
    ]


# What is done to the file that loader and evaluator of val read, and what is said.
FAULTS: dict[str, tuple[Callable[[dict], object], str]] = {
    "reversed": (lambda content: content["categories"].reverse(), "stand in the order"),
    "unused category": (unused_category, "its categories lack '4'"),
    "double name": (double_name, "category '3' occurs 2 times"),
    "name a number": (
        lambda content: content["categories"][2].update(name=2),
        "name 2, expected a text",
    ),
    "double category": (
        lambda content: content["categories"][2].update(id=1),
        "category id 1 occurs 2 times",
    ),
    "ids from 0": (numbered_from_zero, "pycocotools takes 0 for 'no match'"),
    "double id": (lambda c: c["annotations"][1].update(id=1), "id 1 occurs 2 times"),
    "text as id": (first(id="a"), "id 'a' cannot be evaluated"),
    "id a list": (first(id=[1]), "(number 0) has id [1]"),
    "double image": (double_image, "occurs 2 times"),
    "unknown image": (first(image_id=77), "belongs to image 77"),
    "image id a text": (first(image_id="0"), "belongs to image '0'"),
    "image id null": (first(image_id=None), "image_id None, expected an id"),
    "unknown category": (first(category_id=77), "has category 77"),
    "relative": (relative, "nearly all (19 with side < 1 px"),
    "all of area 0": (each(area=0), "with area <= 0: annotations 1, 2,"),
    "negative area": (first(area=-3), "area is -3, expected a number"),
    "text as area": (first(area="9"), "area is '9', expected a number"),
    "area NaN": (first(area=float("nan")), "area is nan, expected a number"),
    "no area": (without("area"), "has no 'area'"),
    "no box": (without("bbox"), "has no 'bbox'"),
    "box null": (first(bbox=None), "bbox None is not [x, y, width, height]"),
    "text in box": (first(bbox=["1", 1, 9, 9]), "bbox ['1', 1, 9, 9] is not of numb"),
    "null in box": (first(bbox=[None, 1, 9, 9]), "is not of numbers"),
    "infinite box": (first(bbox=[1, 1, float("inf"), 9]), "is not finite"),
    "box outside": (first(bbox=[50, 1, 90, 9]), "lies outside its image of 96x96"),
    "no iscrowd": (without("iscrowd"), "has no 'iscrowd', which the evaluation reads"),
    "iscrowd text": (first(iscrowd="0"), "iscrowd is '0', expected 0 or 1"),
    "all crowds": (each(iscrowd=1), "objects are marked iscrowd or ignore"),
    "no mask": (without("segmentation"), "has no mask ('segmentation')"),
    "empty mask": (first(segmentation=[]), "has no mask ('segmentation')"),
    "two points": (first(segmentation=[[1, 1, 2, 2]]), "a polygon of 2 points"),
    "odd polygon": (first(segmentation=[[1] * 7]), "7 numbers, an odd count"),
    "text in polygon": (first(segmentation=[["1"] * 6]), "that is not of numbers"),
    "polygon outside": (first(segmentation=[[1, 1, 5, 5, 99, 7]]), "mask lies outside"),
    "size of run lengths": (
        first(segmentation=dict(size=[50, 40], counts="d`0")),
        "mask is 40x50 px, its image 96x96 px",
    ),
    "sum of run lengths": (
        first(segmentation=dict(size=[96, 96], counts=[5, 6])),
        "run lengths of 11 px in all",
    ),
    "no file name": (without("file_name", "images"), "has no 'file_name'"),
    "file name null": (
        lambda content: content["images"][0].update(file_name=None),
        "file_name None, expected the path",
    ),
    "text as size": (
        lambda content: content["images"][0].update(width="96"),
        "width '96', expected a whole number",
    ),
    "other size": (
        lambda content: content["images"][0].update(width=200),
        "mask is 96x96 px, its image 200x96 px",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_evaluation_or_loading_cannot_use(
    own_scenes: Path, case: str, config_of: Callable
) -> None:
    change, message = FAULTS[case]
    path = edit(own_scenes, change)
    found = problem_of(config_of(own_scenes), "test")
    assert message in found
    assert path in found or "000000.jpg" in found


def test_what_only_an_evaluation_cannot_use(
    own_scenes: Path, config_of: Callable
) -> None:
    for change in (numbered_from_zero, without("iscrowd"), first(id="a")):
        edit(own_scenes, change, "train")
    (report,) = check_data(config_of(own_scenes), ("train",)).datasets
    assert report.num_images == 12 and report.classes == NAMES
    assert report.class_source == "metainfo.classes of CocoDataset"


def test_some_lost_objects_are_counted_by_id(
    own_scenes: Path, config_of: Callable
) -> None:
    def change(content: dict) -> None:
        one, two, three = content["annotations"][:3]
        one["area"], two["bbox"][2], three["ignore"] = 0, 0.5, 1

    path = edit(own_scenes, change)
    report = check_data(config_of(own_scenes), ("val",))
    (one,) = report.datasets
    assert one.dropped == {
        "objects marked ignore": 1,
        "objects area <= 0": 1,
        "objects side < 1 px": 1,
    }
    told = [text for text in report.warnings if text.startswith(path)]
    assert any(
        "(1 with area <= 0: annotations 1; 1 with side < 1 px: annotations 2)" in text
        for text in told
    )
    assert any("1 objects are marked ignore=1" in text for text in told)
    assert len(set(report.warnings)) == len(report.warnings)
    assert json.loads(json.dumps(report.to_dict()))["datasets"][0]["split"] == "val"


def test_loader_and_evaluator_read_the_same_images(
    own_scenes: Path, config_of: Callable
) -> None:
    annotations = own_scenes / "annotations"
    val, less = annotations / "instances_val.json", annotations / "less.json"
    shutil.copy(val, less)
    edit(own_scenes, fewer_images)
    val.rename(annotations / "six.json")
    less.rename(val)
    (annotations / "six.json").rename(less)  # `less` lacks an image that `val` has

    config = config_of(own_scenes)
    config.test_evaluator.ann_file = str(less)
    found = problem_of(config, "test")
    assert str(val) in found and str(less) in found
    assert "reads 6 images" in found and "lists 5, not among them 6" in found

    config = config_of(own_scenes)
    config.test_dataloader.dataset.ann_file = "annotations/less.json"
    assert "lists 6, of which 6 are not read" in problem_of(config, "test")

    config = config_of(own_scenes)
    config.test_dataloader.dataset.indices = 3
    found = problem_of(config, "test")
    assert "reads 3 images" in found and "(3 images by indices)" in found

    config = config_of(own_scenes)
    config.test_dataloader.dataset.update(
        test_mode=False, filter_cfg=dict(min_size=97, filter_empty_gt=True)
    )
    assert "no image of" in problem_of(config, "test")

    # the same names, but other objects
    config = config_of(own_scenes)
    config.test_dataloader.dataset.indices = 5
    config.test_evaluator.ann_file = str(less)
    assert not any("other boxes" in w for w in check_data(config, ("test",)).warnings)
    edit(own_scenes, first(bbox=[1, 1, 9, 9]))
    told = [w for w in check_data(config, ("test",)).warnings if "other boxes" in w]
    assert len(told) == 1 and "1 of 5 images" in told[0] and str(less) in told[0]

    # other pictures under the same ids
    config = config_of(own_scenes)
    edit(own_scenes, lambda content: content["images"][1].update(file_name="x.jpg"))
    shutil.copy(own_scenes / "val" / "000001.jpg", own_scenes / "val" / "x.jpg")
    config.test_evaluator.ann_file = str(less)
    config.test_dataloader.dataset.indices = 5
    assert "image 2 is x.jpg in" in problem_of(config, "test")


def test_data_sets_made_of_data_sets(own_scenes: Path, config_of: Callable) -> None:
    config = config_of(own_scenes)
    inner = config.test_dataloader.dataset
    config.test_dataloader.dataset = dict(type="ConcatDataset", datasets=[inner, inner])
    assert "more than once" in problem_of(config, "test")
    config.test_dataloader.dataset = dict(type="RepeatDataset", times=2, dataset=inner)
    assert "more than once" in problem_of(config, "test")
    train = dict(config.train_dataloader.dataset)
    metrics = [
        dict(config.test_evaluator, ann_file=str(own_scenes / "annotations" / name))
        for name in ("instances_val.json", "instances_train.json")
    ]
    config.test_dataloader.dataset = dict(
        type="ConcatDataset", datasets=[inner, dict(train, test_mode=True)]
    )
    config.test_evaluator = dict(
        type="MultiDatasetsEvaluator", metrics=metrics, dataset_prefixes=["a", "b"]
    )
    assert len(check_data(config, ("test",)).datasets) == 2
    config.test_evaluator.metrics = metrics[::-1]
    assert "reads 6 images" in problem_of(config, "test")
    other = dict(inner, metainfo=dict(classes=NAMES[::-1]))
    config.train_dataloader.dataset = dict(
        type="ConcatDataset", datasets=[config.train_dataloader.dataset, other]
    )
    assert "stand in the order" in problem_of(config, "train")


def test_results_by_class_need_ids_in_order(
    own_scenes: Path, config_of: Callable
) -> None:
    def change(content: dict) -> None:
        numbers = [one["id"] for one in content["categories"]]
        for one in content["categories"]:
            one["id"] = 100 - one["id"]
        for one in content["annotations"]:
            one["category_id"] = 100 - one["category_id"]
        assert numbers == sorted(numbers)

    edit(own_scenes, change)
    config = config_of(own_scenes)
    check_data(config, ("test",))
    config.test_evaluator.classwise = True
    assert "in ascending order of their ids" in problem_of(config, "test")
    config.test_evaluator.update(classwise=False, sort_categories=True)
    assert "stand in the order" in problem_of(config, "test")


def test_a_test_set_without_annotations_says_so(
    own_scenes: Path, config_of: Callable
) -> None:
    edit(own_scenes, lambda content: content.pop("annotations"))
    report = check_data(config_of(own_scenes), ("test",))
    assert any("the evaluator can only print -1" in text for text in report.warnings)
    assert "no list 'annotations'" in problem_of(config_of(own_scenes), "val")


def test_unknown_data_sets_and_evaluators_are_named(
    own_scenes: Path, config_of: Callable
) -> None:
    config = config_of(own_scenes)
    config.val_evaluator.type = "CocoPanopticMetric"
    told = " ".join(check_data(config, ("val",)).warnings)
    assert "of CocoPanopticMetric is not compared" in told


def test_data_sets_of_ones_own_get_what_can_be_checked(
    own_scenes: Path, config_of: Callable
) -> None:
    from mmdet.datasets import CocoDataset
    from torch.utils.data import Dataset

    from mlp_backbones.registry import DATASETS

    @DATASETS.register_module(force=True)
    class OwnReader(CocoDataset):
        label = 3

        def load_data_list(self) -> list[dict]:
            instances = [dict(bbox=[1, 1, 9, 9], bbox_label=self.label)]
            files = sorted((own_scenes / "val").glob("*.jpg"))
            return [
                dict(img_path=str(path), img_id=n, instances=instances)
                for n, path in enumerate(files)
            ]

    @DATASETS.register_module(force=True)
    class Plain(Dataset):
        def __len__(self) -> int:
            return 7

    config = config_of(own_scenes)
    data = config.val_dataloader.dataset
    data.type = "mlp_backbones.OwnReader"
    (report,) = check_data(config, ("val",)).datasets
    assert (report.num_images, report.num_objects) == (6, 6)
    assert "OwnReader reads files in its own way" in report.warnings[0]
    OwnReader.label = 10
    assert "label 10 matches no class: there are 10" in problem_of(config, "val")
    OwnReader.load_data_list = lambda self: [{}["image"]]
    assert "OwnReader cannot be read (KeyError: 'image')" in problem_of(config, "val")

    config.val_dataloader.dataset = dict(type="mlp_backbones.Plain")
    (report,) = check_data(config, ("val",)).datasets
    assert report.num_images == 7
    assert "no data set of MMEngine's and is not checked" in report.warnings[0]
    config.val_dataloader.dataset = dict(type="mlp_backbones.Plain", size=3)
    assert "val: mlp_backbones.Plain cannot be built" in problem_of(config, "val")


# ---- folders of classes


def test_class_folders_of_all_splits_are_equal(
    own_scenes: Path, config_of: Callable
) -> None:
    config = config_of(own_scenes, "mmpretrain")
    assert classes_of(config, "val").names == NAMES
    shutil.rmtree(own_scenes / "cls" / "val" / "3")
    for splits in (("train", "val"), ("test",)):  # also if train is not asked for
        found = problem_of(config, *splits)
        assert str(own_scenes / "cls" / "val") in found and "lacks 3" in found
    (own_scenes / "cls" / "val" / "3").mkdir()
    report = check_data(config, ("train", "val"))
    assert any("classes have no image" in text for text in report.warnings)


def test_hidden_folders_are_no_classes(own_scenes: Path, config_of: Callable) -> None:
    hidden = own_scenes / "cls" / "train" / ".ipynb_checkpoints"
    hidden.mkdir()
    found = problem_of(config_of(own_scenes, "mmpretrain"), "train")
    assert str(hidden) in found and "remove it" in found


def test_names_in_another_order_than_the_folders(
    own_scenes: Path, config_of: Callable
) -> None:
    config = config_of(own_scenes, "mmpretrain")
    config.train_dataloader.dataset.metainfo = dict(classes=NAMES[::-1])
    assert "'0' is number 9, but number 0 of the sorted" in problem_of(config, "train")
    config.train_dataloader.dataset.metainfo = dict(classes=[f"no {n}" for n in NAMES])
    assert "10 classes of val and 10 of train differ" in problem_of(config)


def test_lists_give_a_folder_one_label(own_scenes: Path, config_of: Callable) -> None:
    config = config_of(own_scenes, "mmpretrain")
    for split, shift in (("train", 0), ("val", 1)):
        files = sorted((own_scenes / "cls" / split).rglob("*.jpg"))
        lines = [
            f"{f.parent.name}/{f.name} {(int(f.parent.name) + shift) % 10}\n"
            for f in files
        ]
        (own_scenes / "cls" / f"{split}.txt").write_text("".join(lines))
        config[f"{split}_dataloader"].dataset.update(
            ann_file=f"{split}.txt", metainfo=dict(classes=NAMES)
        )
    assert "0 has label 0 in" in problem_of(config, "train", "val")


def test_more_best_guesses_than_classes(own_scenes: Path, config_of: Callable) -> None:
    config = config_of(own_scenes, "mmpretrain")
    config.val_evaluator.topk = (1, 11)
    assert "topk=(1, 11), but there are only 10 classes" in problem_of(config, "val")


def test_left_out_images_are_counted(own_scenes: Path, config_of: Callable) -> None:
    folder = own_scenes / "cls" / "train" / "3"
    files = sorted(folder.glob("*.jpg"))
    files[0].rename(folder / "a.webp")
    (warning,) = (
        text
        for text in check_data(config_of(own_scenes, "mmpretrain"), ("train",)).warnings
        if "left out" in text
    )
    assert "1 images in" in warning and "(1 of .webp)" in warning


@pytest.mark.parametrize("key", ["classes", "CLASSES"])
def test_classes_of_a_checkpoint(key: str) -> None:
    data = Classes(("cat", "dog"), "folders of data")
    meta = {"dataset_meta": {key: ["cat", "dog"]}}
    assert compare_with_checkpoint(data, meta, "a.pth")
    assert not compare_with_checkpoint(data, {"epoch": 3}, "a.pth")
    with pytest.raises(DataError, match=r"a\.pth.*number 0 is 'cat'.*'dog'"):
        compare_with_checkpoint(data, {key: ("dog", "cat")}, "a.pth")
    with pytest.raises(DataError, match=r"the data lacks bird"):
        compare_with_checkpoint(data, {key: ("cat", "dog", "bird")}, "a.pth")


def test_a_config_without_data_has_an_empty_report() -> None:
    assert check_data(Config(dict(model={}))) == DataReport()
