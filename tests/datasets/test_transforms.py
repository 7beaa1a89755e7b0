"""Loading transforms inside the real data sets, driven through a DataLoader."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from PIL import Image
from torch.utils.data import DataLoader

from mlp_backbones.datasets.checks import DataError
from mlp_backbones.datasets.transforms import guard_pipelines

SCOPES = ("mmdet", "mmseg", "mmpretrain")
MakeConfig = Callable[..., dict]
ListImages = Callable[..., list[Path]]


def read_all(config: dict, num_workers: int = 0) -> list[dict]:
    loader = DataLoader(
        DATASETS.build(config), collate_fn=pseudo_collate, num_workers=num_workers
    )
    return list(loader)


def make_empty(path: Path) -> None:
    path.write_bytes(b"")


def make_garbage(path: Path) -> None:
    path.write_bytes(b"this is no picture, whatever its name says" * 30)


def make_undecodable(path: Path) -> None:
    # A JPEG by its first and last bytes, without a picture between them.
    path.write_bytes(b"\xff\xd8" + bytes(500) + b"\xff\xd9")


def make_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def make_truncated_with_thumbnail(path: Path) -> None:
    content = path.read_bytes()
    thumbnail = b"Exif\x00\x00" + b"\xff\xd8 small picture \xff\xd9"
    header = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    path.write_bytes(content[:2] + header + content[2 : len(content) // 2])


def make_missing(path: Path) -> None:
    path.unlink()


SPOILERS = {
    make_empty: "empty",
    make_garbage: "not a readable image",
    make_undecodable: "not a readable image",
    make_truncated: "truncated",
    make_truncated_with_thumbnail: "truncated",
    make_missing: "No such file",
}


@pytest.mark.parametrize("scope", SCOPES)
def test_good_data_give_what_the_usual_pipeline_gives(
    scenes: Path, scope: str, dataset_config: MakeConfig
) -> None:
    ours = dataset_config(scenes, scope)
    usual = dict(ours)
    usual["pipeline"] = [dict(type="LoadImageFromFile"), ours["pipeline"][-1]]
    if "load" in ours["pipeline"][1]:
        usual["pipeline"].insert(1, ours["pipeline"][1]["load"])
    pairs = list(zip(read_all(ours), read_all(usual), strict=True))
    assert pairs
    for one, other in pairs:
        assert one.keys() == other.keys()
        np.testing.assert_array_equal(one["inputs"][0], other["inputs"][0])
        first, second = one["data_samples"][0], other["data_samples"][0]
        assert first.metainfo == second.metainfo
        assert sorted(first.keys()) == sorted(second.keys())
        if scope == "mmdet":
            first, second = first.gt_instances, second.gt_instances
            np.testing.assert_array_equal(first.bboxes.tensor, second.bboxes.tensor)
            np.testing.assert_array_equal(first.masks.masks, second.masks.masks)
        elif scope == "mmseg":
            np.testing.assert_array_equal(first.gt_sem_seg.data, second.gt_sem_seg.data)
        else:
            assert first.gt_label == second.gt_label


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(to_float32=True),
        dict(color_type="grayscale"),
        dict(color_type="unchanged", imdecode_backend="pillow"),
    ],
)
def test_same_keys_and_pixels_as_the_usual_loader(scenes: Path, options: dict) -> None:
    path = str(scenes / "train" / "000000.jpg")
    ours = ROOT_TRANSFORMS.build(dict(type="mlp_backbones.LoadImage", **options))
    usual = ROOT_TRANSFORMS.build(dict(type="LoadImageFromFile", **options))
    one, other = ours(dict(img_path=path)), usual(dict(img_path=path))
    assert one.keys() == other.keys()
    assert one["img"].dtype == other["img"].dtype
    np.testing.assert_array_equal(one["img"], other["img"])
    assert one["ori_shape"] == other["ori_shape"] == one["img_shape"]


def test_whole_files_of_other_kinds_are_loaded(tmp_path: Path) -> None:
    load = ROOT_TRANSFORMS.build(dict(type="mlp_backbones.LoadImage"))
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    for suffix in (".png", ".bmp", ".webp", ".jpg"):
        path = tmp_path / f"image{suffix}"
        cv2.imwrite(str(path), image)
        assert load(dict(img_path=str(path)))["img"].shape == (40, 50, 3)
    progressive = tmp_path / "progressive.jpg"
    cv2.imwrite(str(progressive), image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    # Cameras write data behind the end mark.
    progressive.write_bytes(progressive.read_bytes() + bytes(9000))
    assert load(dict(img_path=str(progressive)))["img"].shape == (40, 50, 3)


def test_a_truncated_png_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.zeros((40, 50, 3), np.uint8))
    make_truncated(path)
    load = ROOT_TRANSFORMS.build(dict(type="mlp_backbones.LoadImage"))
    with pytest.raises(DataError, match=r"image\.png: .*truncated"):
        load(dict(img_path=str(path)))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_a_bad_image_is_named(
    own_scenes: Path,
    scope: str,
    spoil: Callable[[Path], None],
    dataset_config: MakeConfig,
    image_files: ListImages,
) -> None:
    config = dataset_config(own_scenes, scope)
    dataset = DATASETS.build(config)  # lists the images before one disappears
    bad = image_files(own_scenes, scope)[3]
    spoil(bad)
    with pytest.raises(DataError) as caught:
        list(DataLoader(dataset, collate_fn=pseudo_collate))
    assert caught.value.line.startswith(f"{bad}: ")
    assert SPOILERS[spoil] in caught.value.line


def test_the_line_of_an_error_from_a_data_worker(
    own_scenes: Path, dataset_config: MakeConfig
) -> None:
    bad = own_scenes / "train" / "000002.jpg"
    make_truncated(bad)
    with pytest.raises(DataError, match="Traceback") as caught:
        read_all(dataset_config(own_scenes, "mmdet"), num_workers=2)
    assert caught.value.line == f"{bad}: the image file is truncated (no end mark)"


@pytest.mark.parametrize("scope", SCOPES)
def test_bad_images_are_skipped_by_choice(
    own_scenes: Path,
    scope: str,
    monkeypatch: pytest.MonkeyPatch,
    dataset_config: MakeConfig,
    image_files: ListImages,
) -> None:
    files = image_files(own_scenes, scope)
    bad = [files[1], files[4]]
    make_truncated(bad[0])
    make_garbage(bad[1])
    dataset = DATASETS.build(dataset_config(own_scenes, scope, skip_bad=True))
    warnings = _capture_warnings(monkeypatch)
    for _ in range(2):  # the second epoch warns no more
        seen = [
            batch["data_samples"][0].img_path
            for batch in DataLoader(dataset, collate_fn=pseudo_collate)
        ]
        assert len(seen) == len(files)
        assert not {str(path) for path in bad} & set(seen)
    assert len(warnings) == 2
    for number, path in enumerate(bad, 1):
        text = warnings[number - 1]
        assert f"skipped bad image, number {number} of at most 100: {path}: " in text


def _capture_warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from mlp_backbones.datasets import transforms

    texts: list[str] = []

    def record(message: str, logger: str, level: int) -> None:
        assert logger == "current" and level == logging.WARNING
        texts.append(message)

    monkeypatch.setattr(transforms, "print_log", record)
    return texts


def test_workers_count_skipped_images_together(
    own_scenes: Path, dataset_config: MakeConfig, tmp_path: Path
) -> None:
    from mmengine.logging import MMLogger

    log = tmp_path / "train.log"
    logger = MMLogger.get_instance(f"skips-{os.getpid()}", log_file=str(log))
    try:
        bad = [own_scenes / "train" / f"{n:06d}.jpg" for n in (0, 1, 6)]
        for path in bad[:2]:
            make_truncated(path)
        config = dataset_config(own_scenes, "mmdet", skip_bad=True)
        config["pipeline"][0]["max_skips"] = 2
        dataset = DATASETS.build(config)
        loader = DataLoader(dataset, collate_fn=pseudo_collate, num_workers=2)
        for _ in range(2):  # new workers each time, which know what the others skipped
            assert len(list(loader)) == 12
        make_truncated(bad[2])
        with pytest.raises(DataError) as caught:  # this process knows it, too
            list(DataLoader(dataset, collate_fn=pseudo_collate))
    finally:
        MMLogger._instance_dict.pop(logger.instance_name)
    text = log.read_text()
    assert text.count("skipped bad image") == 2
    for path in bad[:2]:
        assert f"of at most 2: {path}: the image file is truncated" in text
    assert caught.value.line.startswith(
        f"2 bad images were skipped; max_skips=2 allows no more: {bad[2]}: the image"
    )


def test_a_data_set_of_bad_images_stops_by_name(
    own_scenes: Path, dataset_config: MakeConfig
) -> None:
    config = dataset_config(own_scenes, "mmdet", skip_bad=True)
    for path in (own_scenes / "train").glob("*.jpg"):
        make_truncated(path)
    with pytest.raises(DataError, match=r"the last 101 drawn all were bad.*\.jpg: "):
        read_all(config)
    config["pipeline"][0]["max_skips"] = 0
    with pytest.raises(ValueError, match="max_skips must be at least 1, got 0"):
        DATASETS.build(config)


@pytest.mark.parametrize("scope", SCOPES)
def test_an_evaluation_never_skips(
    own_scenes: Path, scope: str, dataset_config: MakeConfig, image_files: ListImages
) -> None:
    make_truncated(image_files(own_scenes, scope, "val")[0])
    config = dataset_config(own_scenes, scope, skip_bad=True, split="val")
    with pytest.raises(Exception, match="should not get `None`"):
        read_all(config)


def test_a_set_of_bad_images_only_ends(
    own_scenes: Path, dataset_config: MakeConfig
) -> None:
    for path in (own_scenes / "train").iterdir():
        make_truncated(path)
    config = dataset_config(own_scenes, "mmdet", skip_bad=True)
    with pytest.raises(Exception, match="Cannot find valid image"):
        read_all(dict(config, max_refetch=20))


def edit_first_instance(root: Path, **changes: object) -> Path:
    """Change the first annotation of the train file; returns its image."""
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    first = content["annotations"][0]
    first.update(changes)
    path.write_text(json.dumps(content))
    return root / "train" / "000000.jpg"


BAD_INSTANCES = {
    "outside": (dict(bbox=[50, 10, 90, 20]), "lies outside its image of 96x96 px"),
    "infinite": (dict(bbox=[10, 10, float("inf"), 5]), "is not finite"),
    "mask of another size": (
        dict(segmentation=dict(size=[50, 40], counts="d`0")),
        "mask is 40x50 px, its image 96x96 px",
    ),
    "polygon outside": (
        dict(segmentation=[[5, 5, 300, 5, 300, 60]]),
        "mask lies outside its image of 96x96 px",
    ),
    "no run lengths": (dict(segmentation=dict(size=[96, 96])), "has no run lengths"),
    "no mask": (dict(segmentation=None), "has no mask"),
    "broken counts": (
        dict(segmentation=dict(size=[96, 96], counts=["many"])),
        "mask has run lengths that are no whole numbers",
    ),
}


@pytest.mark.parametrize("case", BAD_INSTANCES)
def test_bad_instances_are_named(
    own_scenes: Path, case: str, dataset_config: MakeConfig
) -> None:
    changes, message = BAD_INSTANCES[case]
    image = edit_first_instance(own_scenes, **changes)
    with pytest.raises(DataError) as caught:
        read_all(dataset_config(own_scenes, "mmdet"))
    assert caught.value.line.startswith(f"{image}: ")
    assert message in caught.value.line
    assert "\n" not in str(caught.value)


def test_a_bad_instance_can_be_skipped(
    own_scenes: Path, dataset_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = edit_first_instance(own_scenes, bbox=[50, 10, 90, 20])
    warnings = _capture_warnings(monkeypatch)
    batches = read_all(dataset_config(own_scenes, "mmdet", skip_bad=True))
    assert str(image) not in {b["data_samples"][0].img_path for b in batches}
    assert len(warnings) == 1 and str(image) in warnings[0]


def test_the_check_also_stands_behind_the_loader(
    own_scenes: Path, dataset_config: MakeConfig
) -> None:
    image = edit_first_instance(own_scenes, bbox=[50, 10, 90, 20])
    config = dataset_config(own_scenes, "mmdet")
    load, check, pack = config["pipeline"]
    own = {key: value for key, value in check.items() if key != "load"}
    config["pipeline"] = [load, check["load"], own, pack]
    with pytest.raises(DataError, match="lies outside") as caught:
        read_all(config)
    assert str(image) in str(caught.value)


def test_a_box_up_to_a_pixel_outside_is_rounding(
    own_scenes: Path, dataset_config: MakeConfig
) -> None:
    edit_first_instance(own_scenes, bbox=[-1, 10, 98, 20])
    assert len(read_all(dataset_config(own_scenes, "mmdet"))) == 12


def test_an_image_of_another_size_than_its_annotations(
    own_scenes: Path, dataset_config: MakeConfig
) -> None:
    path = own_scenes / "train" / "000005.jpg"
    cv2.imwrite(str(path), np.zeros((60, 70, 3), np.uint8))
    with pytest.raises(DataError) as caught:
        read_all(dataset_config(own_scenes, "mmdet"))
    assert str(caught.value) == (
        f"{path}: the image is 70x60 px, its annotation file says 96x96 px"
    )


def test_a_label_without_a_class(own_scenes: Path, dataset_config: MakeConfig) -> None:
    config = dataset_config(own_scenes, "mmdet")
    config["pipeline"][1]["num_classes"] = 4
    with pytest.raises(DataError, match=r"label \d matches no class: there are 4"):
        read_all(config)
    config = dataset_config(own_scenes, "mmpretrain")
    config["pipeline"][1]["num_classes"] = 9
    with pytest.raises(DataError, match=r"cls/train/9/.*label 9 matches no class"):
        read_all(config)


def _spoil_mask(root: Path, content: np.ndarray | bytes) -> Path:
    path = root / "ade" / "annotations" / "training" / "000002.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        cv2.imwrite(str(path), content)
    return path


BAD_MASKS = {
    "another size": (np.zeros((96, 48), np.uint8), "is 48x96 px, its image 96x96 px"),
    "colour": (np.zeros((96, 96, 3), np.uint8), "the mask has 3 channels (RGB)"),
    "unknown class": (np.full((96, 96), 11, np.uint8), "label 11 matches no class"),
    "garbage": (b"no picture", "cannot load annotations"),
    "empty": (b"", "the image file is empty"),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_bad_semantic_masks_are_named(
    own_scenes: Path, case: str, dataset_config: MakeConfig
) -> None:
    content, message = BAD_MASKS[case]
    path = _spoil_mask(own_scenes, content)
    with pytest.raises(DataError) as caught:
        read_all(dataset_config(own_scenes, "mmseg"))
    assert caught.value.line.startswith(f"{path}: ")
    assert message in caught.value.line


def test_a_truncated_semantic_mask_is_named(
    own_scenes: Path, dataset_config: MakeConfig
) -> None:
    path = own_scenes / "ade" / "annotations" / "training" / "000002.png"
    _spoil_mask(own_scenes, path.read_bytes()[:-30])
    with pytest.raises(DataError, match="is truncated") as caught:
        read_all(dataset_config(own_scenes, "mmseg"))
    assert str(path) in str(caught.value)


def test_ignored_pixels_are_no_unknown_class(
    own_scenes: Path, dataset_config: MakeConfig
) -> None:
    _spoil_mask(own_scenes, np.full((96, 96), 255, np.uint8))
    assert len(read_all(dataset_config(own_scenes, "mmseg"))) == 12


def test_a_guarded_pipeline_names_what_an_evaluation_would_not(
    own_scenes: Path, dataset_config: MakeConfig
) -> None:
    config = dataset_config(own_scenes, "mmseg", split="val")
    config["pipeline"] = [
        dict(type="LoadImageFromFile"),
        # before the masks are loaded: these stay as large as their files
        dict(type="mmseg.Resize", scale=(64, 64)),
        dict(type="mmseg.LoadAnnotations"),
        dict(type="mmseg.PackSegInputs"),
    ]
    path = own_scenes / "ade" / "annotations" / "validation" / "000003.png"
    wrapped = dict(type="RepeatDataset", times=1, dataset=config)
    whole = Config(dict(default_scope="mmseg", val_dataloader=dict(dataset=wrapped)))
    guard_pipelines(whole, ("val", "test"))
    guarded = whole.val_dataloader.dataset
    plain, ours = read_all(config), read_all(guarded)
    for one, two in zip(plain, ours, strict=True):
        assert (one["inputs"][0] == two["inputs"][0]).all()
        mask, same = (b["data_samples"][0].gt_sem_seg.data for b in (one, two))
        assert (mask == same).all()
    cv2.imwrite(str(path), np.full((96, 96), 40, np.uint8))
    read_all(config)
    with pytest.raises(DataError) as caught:
        read_all(guarded)
    assert caught.value.line.startswith(f"{path}: label 40 matches no class")


def test_the_first_odd_image_of_each_kind_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{number}.jpg" for number in range(4)]
    for path in paths[:2]:
        Image.new("CMYK", (40, 40)).save(path)
    Image.new("RGB", (40, 40)).save(paths[2], format="PNG")
    Image.new("RGB", (40, 40)).save(paths[3])
    warnings = _capture_warnings(monkeypatch)
    load = ROOT_TRANSFORMS.build(dict(type="mlp_backbones.LoadImage"))
    for path in paths:
        load(dict(img_path=str(path)))
    cmyk, name = warnings
    assert cmyk.startswith(f"{paths[0]}: an image CMYK")
    assert name.startswith(f"{paths[2]}: an image of another format than the name")
