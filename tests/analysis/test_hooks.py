from toy_runs import Toy, run

from mlp_backbones.analysis.hooks import CurvesHook


def test_curves_are_drawn_into_the_work_folder(tmp_path):
    run(tmp_path, Toy(0.25), CurvesHook())
    assert {file.name for file in tmp_path.glob("*.png")} == {"loss.png", "lr.png"}
