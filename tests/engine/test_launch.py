import weakref
from pathlib import Path

import pytest
import tiny_runs
import torch
from mmengine.config import Config, ConfigDict

from mlp_backbones.building import build_model
from mlp_backbones.engine import launch
from mlp_backbones.engine import options as engine_options
from mlp_backbones.engine.config import check_checkpoint, load_config, read_config
from mlp_backbones.engine.errors import UserError
from mlp_backbones.engine.tta import set_test_time_augmentation


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_runs.make_data(folder)
    for task in tiny_runs.TASKS:
        tiny_runs.write_config(task, folder)
    return folder


def prepare(tiny, work_dir, *options, task="detection"):
    config = str(tiny / f"{task}.py")
    args = [config, "--work-dir", str(work_dir), "--no-check-data", *options]
    return launch.prepare_training(engine_options.train_parser().parse_args(args))


@pytest.mark.parametrize("task", tiny_runs.TASKS)
def test_every_training_is_guarded_once(tiny, tmp_path, task):
    config = prepare(tiny, tmp_path, task=task)
    types = [hook.type for hook in config.custom_hooks]
    for kind in ("mlp_backbones.FiniteGuardHook", "mlp_backbones.PlainCheckpointHook"):
        assert types.count(kind) == 1
    assert types.count("mlp_backbones.ExplainMetricsHook") == (task == "detection")
    own = tiny / f"{task}_own.py"
    hook = "dict(type='mlp_backbones.FiniteGuardHook', interval=5)"
    own.write_text(f"_base_ = '{task}.py'\ncustom_hooks = [{hook}]\n")
    config = prepare(tiny, tmp_path, task=own.stem)
    assert [h.interval for h in config.custom_hooks if "Guard" in h.type] == [5]


def test_options_reach_the_config(tiny, tmp_path):
    config = prepare(
        tiny,
        tmp_path / "work",
        "--seed=7",
        "--deterministic",
        "--compile",
        "--auto-scale-lr",
        "--no-validate",
        "--cfg-options",
        "train_cfg.max_iters=9",
        "model.backbone.with_cp=True",
        "test_dataloader.dataset.pipeline.1.scale=(32,32)",
    )
    assert config.randomness == {"seed": 7, "deterministic": True}
    assert config.compile is True
    assert config.auto_scale_lr.enable is True
    assert config.val_cfg is config.val_dataloader is config.val_evaluator is None
    assert config.train_cfg.max_iters == 9
    assert config.model.backbone.with_cp is True
    assert tuple(config.test_dataloader.dataset.pipeline[1].scale) == (32, 32)
    assert config.work_dir == str(tmp_path / "work")


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("train_cfgs.max_iters=5", "train_cfgs"),
        ("model.backbon.depth=50", "backbon"),
        ("test_dataloader.dataset.pipeline.9.scale=2", "list of 4"),
        ("train_cfg.max_iters.x=2", "max_iters"),
        ("vis_backends.0.type=X", "variable of the config"),
    ],
)
def test_a_setting_without_a_place_is_refused(tiny, tmp_path, option, word):
    with pytest.raises(UserError, match=word):
        prepare(tiny, tmp_path, "--cfg-options", option)


ROOTED = """
default_scope = 'mmdet'
data_root = 'data/coco/'
train_dataloader = dict(dataset=dict(
    type='CocoDataset', data_root=data_root, ann_file='x.json'))
val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'x.json')
places = ['data/coco', 'data/coco2/x', 3]
"""


def roots_of(config):
    return [
        config.train_dataloader.dataset.data_root,
        config.val_evaluator.ann_file,
        *config.places,
    ]


def test_data_root_moves_every_path_made_with_it(tmp_path):
    file = tmp_path / "c.py"
    file.write_text(ROOTED)
    config = read_config(str(file), {"data_root": "/mnt/mini/"})
    moved = ["/mnt/mini", "/mnt/mini/x.json", "/mnt/mini", "data/coco2/x", 3]
    assert roots_of(config) == moved


@pytest.mark.parametrize("text", ["data_root = 'data/mine/'", "x = 1"])
def test_data_root_reaches_the_data_sets_of_a_derived_config(tmp_path, text):
    (tmp_path / "base.py").write_text(ROOTED)
    middle, file = tmp_path / "middle.py", tmp_path / "c.py"
    middle.write_text(f"_base_ = 'base.py'\n{text}\n")
    file.write_text("_base_ = 'middle.py'\n")
    own = "data/mine" if "mine" in text else "data/coco/"
    assert read_config(str(file)).train_dataloader.dataset.data_root == own
    config = read_config(str(file), {"data_root": "/mnt/mini"})
    assert roots_of(config)[:2] == ["/mnt/mini", "/mnt/mini/x.json"]
    assert config.data_root == "/mnt/mini"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("train_dataloader = dict(dataset=dict(data_root='data/other'))", "data/other"),
        ("train_dataloader = None", "there is none"),
    ],
)
def test_data_root_is_that_of_the_data_sets(tmp_path, text, word):
    """Whatever the variable of the base says."""
    (tmp_path / "base.py").write_text(ROOTED)
    file = tmp_path / "c.py"
    file.write_text(f"_base_ = 'base.py'\n{text}\n")
    if word == "there is none":
        with pytest.raises(UserError, match=f"data_root=/mnt reaches no.*{word}"):
            read_config(str(file), {"data_root": "/mnt"})
        return
    assert read_config(str(file)).train_dataloader.dataset.data_root == word
    config = read_config(str(file), {"data_root": "/mnt"})
    assert config.train_dataloader.dataset.data_root == "/mnt"


def test_a_data_root_for_data_sets_of_several_folders_is_refused(tmp_path):
    (tmp_path / "base.py").write_text(ROOTED)
    file = tmp_path / "c.py"
    loader = "dict(dataset=dict(type='CocoDataset', data_root={!r}))"
    file.write_text(
        "_base_ = 'base.py'\ndata_root = 'elsewhere'\n"
        "train_dataloader = dict(dataset=dict(data_root='a/'))\n"
        f"val_dataloader = {loader.format('b')}\n"
    )
    with pytest.raises(UserError, match="they lie in a, b"):
        read_config(str(file), {"data_root": "/mnt"})


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("x = (", "cannot be read"),
        ("default_scope = 'mmpose'", "mmpose"),
        ("x = 1", "None"),
    ],
)
def test_faulty_configs_are_refused(tmp_path, text, word):
    file = tmp_path / "c.py"
    file.write_text(text)
    with pytest.raises(UserError, match=word):
        read_config(str(file))


def test_auto_scale_lr_needs_its_base(tiny, tmp_path):
    option = "auto_scale_lr=None"
    with pytest.raises(UserError, match="base_batch_size"):
        prepare(tiny, tmp_path, "--auto-scale-lr", "--cfg-options", option)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without GPU")
def test_precision_without_a_gpu(tiny, tmp_path):
    with pytest.raises(UserError, match="float16"):
        prepare(tiny, tmp_path, "--amp-dtype=float16")
    config = prepare(tiny, tmp_path, "--amp")
    assert config.optim_wrapper.type == "mlp_backbones.AutocastOptimWrapper"


def test_amp_keeps_its_hands_off_foreign_wrappers(tiny, tmp_path):
    option = "optim_wrapper.type=ApexOptimWrapper"
    with pytest.raises(UserError, match="ApexOptimWrapper"):
        prepare(tiny, tmp_path, "--amp", "--cfg-options", option)


def test_checkpoints_of_an_earlier_run_are_kept(tiny, tmp_path):
    state = {"state_dict": {"weight": torch.zeros(1)}, "optimizer": {}}
    torch.save({**state, "meta": {"iter": 2, "epoch": 0}}, tmp_path / "iter_2.pth")
    first = (tmp_path / "iter_2.pth").read_bytes()
    (tmp_path / "last_checkpoint").write_text("iter_2.pth")
    prepare(tiny, tmp_path, "--dry-run")
    assert (tmp_path / "iter_2.pth").exists()
    prepare(tiny, tmp_path)
    assert not list(tmp_path.glob("*.pth"))
    (kept,) = tmp_path.glob("earlier_runs/*/iter_2.pth")
    assert kept.read_bytes() == first


def test_a_run_may_not_replace_what_it_starts_from(tiny, tmp_path):
    config = read_config(str(tiny / "detection.py"))
    model = build_model(config)
    torch.save(model.state_dict(), tmp_path / "iter_2.pth")
    torch.save(model.backbone.state_dict(), tmp_path / "backbone.pth")
    init = "model.backbone.init_cfg"
    for options in (
        [f"load_from={tmp_path}/../{tmp_path.name}/iter_2.pth"],
        [f"{init}.type=Pretrained", f"{init}.checkpoint={tmp_path / 'backbone.pth'}"],
    ):
        place = options[-1].partition("=")[0]
        with pytest.raises(UserError, match=f"{place} .*choose another --work-dir"):
            prepare(tiny, tmp_path, "--cfg-options", *options)
        assert (tmp_path / "iter_2.pth").exists()


@pytest.mark.parametrize(
    "missing", ["--resume=no.pth", "--cfg-options=load_from=no.pth"]
)
def test_a_missing_checkpoint_is_refused(tiny, tmp_path, missing):
    with pytest.raises(UserError, match="no.pth does not exist"):
        prepare(tiny, tmp_path, *missing.split("=", 1))


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('code in a checkpoint was run')",)


def test_a_checkpoint_that_asks_for_code_is_refused(tiny, tmp_path):
    file = tmp_path / "trap.pth"
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "meta": Trap()}, file)
    with pytest.raises(UserError, match="trap.pth: it asks for exec"):
        prepare(tiny, tmp_path / "run", "--cfg-options", f"load_from={file}")


def test_config_without_a_training_part_is_refused(tiny, tmp_path):
    with pytest.raises(UserError, match="train_cfg"):
        prepare(tiny, tmp_path, "--cfg-options", "train_cfg=None")


@pytest.mark.parametrize("task", tiny_runs.TASKS)
def test_tta_reads_annotations_after_the_flip(tiny, task):
    config = Config.fromfile(tiny / f"{task}.py")
    inner = config.model.type
    set_test_time_augmentation(config)
    assert config.model.module.type == inner
    *before, last = config.test_dataloader.dataset.pipeline
    assert last.type == "TestTimeAug"
    assert "LoadAnnotations" not in [step.type for step in before]
    # The metric takes the annotations of the first view, which must be the plain one.
    assert [flip.prob for flip in last.transforms[0]] == [0.0, 1.0]


def test_tta_reaches_every_data_set_of_several(tiny):
    config = Config.fromfile(tiny / "detection.py")
    one = config.test_dataloader.dataset
    repeated = dict(type="RepeatDataset", times=1, dataset=one.copy())
    config.test_dataloader.dataset = ConfigDict(
        type="ConcatDataset", datasets=[one.copy(), repeated]
    )
    set_test_time_augmentation(config)
    first, second = config.test_dataloader.dataset.datasets
    for dataset in (first, second.dataset):
        *before, last = dataset.pipeline
        assert last.type == "TestTimeAug"
        assert [step.type for step in before] == ["LoadImageFromFile", "Resize"]


def test_tta_of_the_config_comes_first(tiny):
    config = Config.fromfile(tiny / "detection.py")
    config.tta_model = dict(type="Own")
    config.tta_pipeline = [dict(type="OwnStep")]
    set_test_time_augmentation(config)
    assert config.model.type == "Own"
    assert config.test_dataloader.dataset.pipeline[0].type == "OwnStep"


def test_tta_of_masks_is_refused(tiny):
    config = Config.fromfile(tiny / "detection.py")
    config.model.roi_head = dict(mask_head=dict(type="FCNMaskHead"))
    with pytest.raises(UserError, match="masks"):
        set_test_time_augmentation(config)


def test_out_may_not_replace_a_file(tiny, tmp_path):
    existing, checkpoint = tmp_path / "out.pkl", tmp_path / "c.pth"
    existing.write_text("first")
    torch.save({"weight": torch.zeros(1)}, checkpoint)
    args = [str(tiny / "detection.py"), str(checkpoint), "--no-check-data", "--out"]
    for out, word in (
        (existing, "--overwrite"),
        (tmp_path / "out.txt", ".pkl"),
        (tmp_path / "no" / "out.pkl", "folder does not exist"),
    ):
        with pytest.raises(UserError, match=word):
            launch.test(engine_options.test_parser().parse_args([*args, str(out)]))
    assert existing.read_text() == "first"


def test_work_dir_defaults_to_the_name_of_the_config(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = engine_options.train_parser().parse_args([str(tiny / "detection.py")])
    assert Path(load_config(args).work_dir) == Path("work_dirs/detection")


def test_files_that_mmengine_cannot_load_models_from_are_refused(tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"weights\.safetensors.*torch\.save only"):
        check_checkpoint(str(file))


class StandInRunner:
    """Runs nothing; fails where it is told to; refers to itself, as MMEngine's does."""

    def __init__(self, error=None):
        self.error = error
        self.itself = self

    def train(self):
        if self.error is not None:
            raise self.error
        return {}

    test = train


@pytest.fixture
def process_group(tmp_path):
    """A process group of this process alone."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def arguments_of(work, tiny, tmp_path):
    """What the command line of a training or a test would give."""
    args = [str(tiny / "detection.py"), "--work-dir", str(tmp_path / "run")]
    if work == "train":
        return engine_options.train_parser().parse_args([*args, "--no-check-data"])
    checkpoint = tmp_path / "c.pth"
    torch.save({"weight": torch.zeros(1)}, checkpoint)
    args.insert(1, str(checkpoint))
    return engine_options.test_parser().parse_args([*args, "--no-check-data"])


@pytest.mark.parametrize("work", ["train", "test"])
def test_the_process_group_ends_with_the_work(
    tiny, tmp_path, monkeypatch, process_group, work
):
    runners = []

    def build_runner(config):
        runner = StandInRunner()
        runners.append(weakref.ref(runner))
        return runner

    monkeypatch.setattr(launch, "build_runner", build_runner)
    monkeypatch.setattr(launch, "check_run", lambda *args, **options: None)
    getattr(launch, work)(arguments_of(work, tiny, tmp_path))
    assert not torch.distributed.is_initialized()
    # its wrapped model would keep the threads of the group alive
    assert [runner() for runner in runners] == [None]


@pytest.mark.parametrize("work", ["train", "test"])
def test_an_error_does_not_wait_for_the_process_group(
    tiny, tmp_path, monkeypatch, process_group, work
):
    runner = StandInRunner(error=RuntimeError("the work failed"))
    monkeypatch.setattr(launch, "build_runner", lambda config: runner)
    monkeypatch.setattr(launch, "check_run", lambda *args, **options: None)
    with pytest.raises(RuntimeError, match="the work failed"):
        getattr(launch, work)(arguments_of(work, tiny, tmp_path))
    assert torch.distributed.is_initialized()
