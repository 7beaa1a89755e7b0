import json

import cv2
import pytest

from mlp_backbones.analysis.curves import find_scalars, read_curves, save_curves


def write(folder, *rows):
    file = folder / "vis_data" / "scalars.json"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def train(step, loss):
    return {"lr": 0.1, "loss": loss, "time": 1.0, "iter": step, "step": step}


def test_training_and_evaluation_are_told_apart(tmp_path):
    file = write(
        tmp_path,
        train(1, 3.0) | {"grad_norm": 5.0, "base_lr": 0.1, "memory": 7},
        train(2, 2.0),
        {"coco/bbox_mAP": 0.5, "coco/bbox_mAP_l": -1.0, "time": 1.0, "step": 2},
    )
    groups = read_curves([file]).groups()
    assert groups["loss"] == {"loss": [(1, 3.0), (2, 2.0)]}
    assert set(groups["lr"]) == {"lr", "base_lr"}
    assert groups["metrics"] == {"coco/bbox_mAP": [(2, 0.5)]}


def test_evaluations_of_epochs_stand_at_their_iteration(tmp_path):
    file = write(tmp_path, train(75, 3.0), {"mIoU": 5.0, "step": 1}, train(150, 2.0))
    assert read_curves([file]).evaluation == {"mIoU": [(75, 5.0)]}


def test_a_resumed_run_is_one_curve(tmp_path):
    write(tmp_path / "20260101_000000", *(train(i, 1.0) for i in range(1, 6)))
    write(tmp_path / "20260101_000001", *(train(i, 2.0) for i in range(4, 7)))
    curves = read_curves(find_scalars(tmp_path))
    assert curves.training["loss"] == [
        (1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0),
    ]  # fmt: skip


def test_pictures_are_written_for_what_there_is(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, train(1, 3.0), train(2, 2.0))
    out_dir = tmp_path / "out"
    files = save_curves([tmp_path / "a", tmp_path / "b"], out_dir, smooth=2)
    assert [file.name for file in files] == ["loss.png", "lr.png"]
    assert all(cv2.imread(str(file)).std() > 1 for file in files)
    (only,) = save_curves([tmp_path / "a"], out_dir, ["lr"])
    assert only.name == "lr.png"


def test_mistakes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="scalars.json"):
        find_scalars(tmp_path)
    file = write(tmp_path, train(1, 3.0))
    with pytest.raises(ValueError, match="'los'"):
        save_curves([tmp_path], tmp_path, ["los"])
    with pytest.raises(ValueError, match="smooth"):
        save_curves([tmp_path], tmp_path, smooth=0)
    file.write_text('{"a": 1}\n{"a"')
    with pytest.raises(ValueError, match=r"scalars.json, line 2"):
        read_curves([file])
