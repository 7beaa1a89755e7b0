"""Pixels of images and masks: what decoders lose or change without a word."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_configs import edit, problem_of
from PIL import Image

from mlp_backbones.datasets.checks import check_data, check_samples


def masks_of(root: Path, split: str = "training") -> list[Path]:
    return sorted((root / "ade" / "annotations" / split).glob("*.png"))


def write(path: Path, labels: np.ndarray) -> None:
    Image.fromarray(labels).save(path)


def test_masks_of_0_and_255_are_refused(own_scenes: Path, config_of: Callable) -> None:
    config = config_of(own_scenes, "mmseg")
    for name in ("train", "val"):
        config[f"{name}_dataloader"].dataset.metainfo = dict(classes=("no", "yes"))
        config[f"{name}_dataloader"].dataset.pipeline[1].num_classes = 2
    for split in ("training", "validation"):
        for path in masks_of(own_scenes, split):
            labels = np.array(Image.open(path))
            write(path, np.where(labels > 0, 255, 0).astype(np.uint8))
    for split in ("train", "val"):
        assert "hold no other values than 0, 255" in problem_of(config, split)
        found = check_samples(config[f"{split}_dataloader"].dataset, split, "mmseg")
        assert "hold no other values than 0, 255" in found.problems[-1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((96, 96), 256, np.uint16), "such as 256, which becomes 0"),
        (np.full((96, 96), 70000, np.int32), "such as 70000, which becomes 112"),
        (np.full((96, 96), 0.5, np.float32), "such as 0.5, which becomes 0"),
        (np.zeros((96, 96, 3), np.uint8), "the mask has 3 channels (RGB)"),
        (np.full((96, 96), 11, np.uint8), "label 11 matches no class: there are 11"),
    ],
    ids=["16 bits", "32 bits", "float", "colour", "out of range"],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_values_that_a_mask_cannot_have(
    own_scenes: Path,
    config_of: Callable,
    split: str,
    labels: np.ndarray,
    message: str,
) -> None:
    config = config_of(own_scenes, "mmseg")
    folder = {"train": "training", "val": "validation"}[split]
    path = masks_of(own_scenes, folder)[2].with_suffix(".tif")
    suffix = ".tif" if labels.dtype.itemsize == 4 else ".png"
    path = path.with_suffix(suffix)
    if suffix == ".tif":
        for mask in masks_of(own_scenes, folder):
            Image.open(mask).save(mask.with_suffix(".tif"))
        config[f"{split}_dataloader"].dataset.seg_map_suffix = ".tif"
    write(path, labels)
    found = problem_of(config, split)
    assert str(path) in found and message in found
    decoded = check_samples(config[f"{split}_dataloader"].dataset, split, "mmseg")
    assert len(decoded.problems) == 1 and message in decoded.problems[0]


def test_a_mask_of_another_size_than_its_image(
    own_scenes: Path, config_of: Callable
) -> None:
    path = masks_of(own_scenes, "validation")[1]
    write(path, np.zeros((96, 20), np.uint8))
    found = problem_of(config_of(own_scenes, "mmseg"), "val")
    assert f"the image is 96x96 px, its mask {path} is 20x96 px" in found


def test_wide_masks_with_small_labels_pass(
    own_scenes: Path, config_of: Callable
) -> None:
    for path in masks_of(own_scenes):
        write(path, np.array(Image.open(path)).astype(np.uint16))
    check_data(config_of(own_scenes, "mmseg"), ("train",))


def test_splits_agree_about_label_zero(own_scenes: Path, config_of: Callable) -> None:
    config = config_of(own_scenes, "mmseg")
    config.val_dataloader.dataset.reduce_zero_label = True
    assert "reduce_zero_label is False for train" in problem_of(config, "train", "val")
    config = config_of(own_scenes, "mmseg")
    config.val_evaluator.reduce_zero_label = True
    assert "IoUMetric has reduce_zero_label=True" in problem_of(config, "val")
    config = config_of(own_scenes, "mmseg")
    config.val_dataloader.dataset.pipeline[1].load.reduce_zero_label = True
    assert "set it for the data set only" in problem_of(config, "val")


def test_masks_without_images_are_counted(
    own_scenes: Path, config_of: Callable
) -> None:
    images = sorted((own_scenes / "ade" / "images" / "training").glob("*.jpg"))
    for path in images[:5]:
        path.rename(path.with_suffix(".JPG"))
    warnings = check_data(config_of(own_scenes, "mmseg"), ("train",)).warnings
    assert any("5 images in" in text and "(5 of .JPG)" in text for text in warnings)
    assert any("5 of 12 masks in" in text for text in warnings)


# ---- images


def oriented(path: Path, orientation: int, size: tuple[int, int] = (96, 96)) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(path, exif=exif)


def odd_images(root: Path) -> dict[str, str]:
    """Replace images of val by odd ones; return what is said of each."""
    folder = root / "val"
    Image.new("CMYK", (96, 96)).save(folder / "000000.jpg")
    Image.new("RGBA", (96, 96)).save(folder / "000001.jpg", format="PNG")
    write(folder / "2.png", np.zeros((96, 96), np.uint16))
    (folder / "2.png").rename(folder / "000002.jpg")
    oriented(folder / "000003.jpg", 3)
    frames = [Image.new("RGB", (96, 96), colour) for colour in ("red", "blue")]
    path = folder / "000004.jpg"
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])
    return {
        "CMYK": "000000.jpg",
        "alpha channel": "000001.jpg",
        "of 16 bits": "000002.jpg",
        "EXIF orientation; if the annotations": "000003.jpg",
        "animated": "000004.jpg",
        "of another format than the name says (PNG)": "000001.jpg",
    }


def test_odd_images_are_named(own_scenes: Path, config_of: Callable) -> None:
    odd = odd_images(own_scenes)
    config = config_of(own_scenes)
    warnings = check_data(config, ("val",)).warnings
    for kind, name in odd.items():
        assert any(kind in text and name in text for text in warnings), kind
    decoded = check_samples(config.val_dataloader.dataset, "val", "mmdet")
    assert {text for text in warnings if "images looked at" in text} == {
        *decoded.warnings
    }


@pytest.mark.parametrize("flag", ["color", "color_ignore_orientation"])
def test_turned_images_against_their_annotations(
    own_scenes: Path, config_of: Callable, flag: str
) -> None:
    # as stored 96 wide and 64 high, turned 64 wide and 96 high
    oriented(own_scenes / "val" / "000003.jpg", 6, (96, 64))
    stored, config = dict(width=96, height=64), config_of(own_scenes)
    config.test_dataloader.dataset.pipeline[0].color_type = flag

    def change(content: dict) -> None:
        number = content["images"][3]["id"]
        content["images"][3].update(told)
        content["annotations"] = [
            one for one in content["annotations"] if one["image_id"] != number
        ]

    for told in (stored, dict(width=64, height=96)):
        edit(own_scenes, change)
        if (told == stored) == (flag == "color"):
            other = {"color": "color_ignore_orientation"}.get(flag, "color")
            assert f"load it with color_type='{other}'" in problem_of(config, "test")
        else:
            assert "orientation" not in " ".join(check_data(config, ("test",)).warnings)


def test_a_loader_of_ones_own_is_left_to_itself(
    own_scenes: Path, config_of: Callable
) -> None:
    from mmcv.transforms import BaseTransform

    from mlp_backbones.registry import TRANSFORMS

    @TRANSFORMS.register_module(force=True)
    class ReadArray(BaseTransform):
        def transform(self, results: dict) -> dict:
            results["img"] = np.load(results["img_path"])
            results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
            return results

    def change(content: dict) -> None:
        for one in content["images"]:
            one["file_name"] = one["file_name"].replace(".jpg", ".npy")

    edit(own_scenes, change)
    for path in (own_scenes / "val").glob("*.jpg"):
        np.save(path.with_suffix(".npy"), np.array(Image.open(path)))
    config = config_of(own_scenes)
    config.val_dataloader.dataset.pipeline[0] = dict(type="mlp_backbones.ReadArray")
    config.val_dataloader.dataset.pipeline[1] = dict(
        type="mmdet.LoadAnnotations", with_bbox=True, with_mask=True
    )
    (report,) = check_data(config, ("val",)).datasets
    assert report.num_images == 6
    assert check_samples(config.val_dataloader.dataset, "val", "mmdet").problems == ()
    bad = own_scenes / "val" / "000002.npy"
    bad.write_bytes(b"no array")
    (problem,) = check_samples(config.val_dataloader.dataset, "val", "mmdet").problems
    assert problem.startswith(f"{bad}: ReadArray cannot load it (")
