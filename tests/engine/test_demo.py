import pytest

from mlp_backbones.engine import demo
from mlp_backbones.engine.cli import UserError


def test_each_task_has_one_config():
    files = {task: demo.find_demo_config(task) for task in demo.DEMO_TASKS}
    assert len(set(files.values())) == len(files)


def test_unknown_tasks_and_ambiguous_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="retinanet"):
        demo.find_demo_config("yolo")
    with pytest.raises(UserError, match="0 configs"):
        demo.find_demo_config("retinanet", tmp_path)
    for name in "ab":
        (tmp_path / f"retinanet_{name}_digit-scenes.py").touch()
    with pytest.raises(UserError, match="2 configs"):
        demo.find_demo_config("retinanet", tmp_path)


def test_an_earlier_demo_is_moved_aside(tmp_path):
    out_dir = tmp_path / "demo"
    out_dir.mkdir()
    (out_dir / "metrics.json").write_text("first")
    demo._move_aside(out_dir)
    assert not out_dir.exists()
    (moved,) = tmp_path.glob("demo_*/metrics.json")
    assert moved.read_text() == "first"
