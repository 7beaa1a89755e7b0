"""Which checkpoint a run goes on from, with which seed, and who may use a folder."""

import itertools
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler

from mlp_backbones.engine.errors import UserError
from mlp_backbones.engine.runs import files
from mlp_backbones.engine.runs.checkpoint_hook import describe_disk_fault
from mlp_backbones.engine.runs.draws import (
    SAMPLE,
    STEP,
    Place,
    PlacedBatchSampler,
    make_samples,
    place_batches,
    seed_draws,
)
from mlp_backbones.engine.runs.lock import lock_work_dir
from mlp_backbones.engine.runs.prepare import accidents_in_one_line, make_resumable
from mlp_backbones.engine.runs.resume import resolve_resume


def save(path: Path, iteration: int, epoch: int = 0, **more: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    meta = {"iter": iteration, "epoch": epoch, "seed": 7}
    weights = {"state_dict": {"weight": torch.randn(100)}}
    files.save(path, {"meta": meta, "optimizer": {}, **weights, **more})
    return path


def resolve(folder: Path, start: str | None = None, **settings: object) -> Config:
    config = Config({"work_dir": str(folder), "resume": True, **settings})
    resolve_resume(config, start=start, first_process=True)
    return config


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "cut": cut,
    "flipped": flip,
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"not a checkpoint" * 99),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_is_passed_over_in_one_line(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "epoch_1.pth", 4, 1)
    good = save(tmp_path / "epoch_2.pth", 8, 2)
    bad = save(tmp_path / "epoch_3.pth", 12, 3)
    DAMAGES[damage](bad)
    (tmp_path / "last_checkpoint").write_text(str(bad))
    with pytest.raises(UserError, match=r"cannot resume .*epoch_3.pth: it is damaged"):
        resolve(tmp_path, load_from=str(bad))
    config = resolve(tmp_path)
    assert config.load_from == str(good) and config.randomness.seed == 7
    lines = [line for line in capsys.readouterr().out.splitlines() if str(good) in line]
    assert len(lines) == 1 and str(bad) in lines[0]
    assert list(tmp_path.glob("earlier_runs/*/epoch_3.pth")), "out of the way, kept"
    assert resolve(tmp_path).load_from == str(good)


@pytest.mark.parametrize("pointer", [None, "", "epoch_1.pth", "/elsewhere/epoch_9.pth"])
def test_the_newest_is_found_whatever_the_pointer_says(
    pointer: str | None, tmp_path: Path
) -> None:
    save(tmp_path / "epoch_9.pth", 36, 9)
    newest = save(tmp_path / "epoch_10.pth", 40, 10)
    save(tmp_path / "interrupted_iter_39.pth", 39, 9)
    files.save(tmp_path / "best_acc.pth", {"state_dict": {}, "meta": {"iter": 40}})
    files.save(tmp_path / "weights.pth", {"weight": torch.zeros(1)})
    if pointer is not None:
        (tmp_path / "last_checkpoint").write_text(pointer)
    assert resolve(tmp_path).load_from == str(newest)
    moved = tmp_path.with_name(f"{tmp_path.name}_moved")
    shutil.copytree(tmp_path, moved)
    assert resolve(moved).load_from == str(moved / newest.name)
    interrupted = save(tmp_path / "interrupted_iter_41.pth", 41, 10)
    assert resolve(tmp_path).load_from == str(interrupted)


def test_where_nothing_is_good_only_a_run_that_began_starts_anew(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match="no checkpoint in .*leave --resume out"):
        resolve(tmp_path)
    config = resolve(tmp_path, start="other.pth")
    assert config.resume is False and config.load_from == "other.pth"
    (tmp_path / ".seed").write_text("12")
    config = resolve(tmp_path)
    assert config.resume is False and config.load_from is None
    assert resolve(tmp_path).randomness.seed == 12
    assert resolve(tmp_path, randomness={"seed": 3}).randomness.seed == 3
    flip(save(tmp_path / "epoch_1.pth", 4, 1))
    with pytest.raises(UserError, match=r"no checkpoint in .* is good.*epoch_1.pth"):
        resolve(tmp_path)


def test_what_is_no_checkpoint_of_a_run_is_refused_by_name(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    meta = {"iter": 4, "epoch": 1}
    for content in ({"state_dict": {}}, {"meta": meta, "state_dict": {}}):
        files.save(weights, content)
        with pytest.raises(UserError, match=r"weights.pth: it .*load_from takes its"):
            resolve(tmp_path, load_from=str(weights))
    with pytest.raises(UserError, match=r"no.pth does not exist"):
        resolve(tmp_path, load_from="no.pth")


def test_a_run_that_is_given_up_does_not_come_back(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        save(tmp_path / f"epoch_{epoch}.pth", 4 * epoch, epoch)
    files.save(tmp_path / "best_acc_epoch_3.pth", {"meta": {"iter": 12, "epoch": 3}})
    chosen = str(tmp_path / "epoch_1.pth")
    assert resolve(tmp_path, load_from=chosen).load_from == chosen
    assert [path.name for path in tmp_path.glob("*.pth")] == ["epoch_1.pth"]
    assert len(list(tmp_path.glob("earlier_runs/*/*.pth"))) == 3
    assert resolve(tmp_path).load_from == chosen


def test_seed_of_the_checkpoint_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "epoch_1.pth", 4, 1)
    config = resolve(tmp_path, randomness={"seed": 1, "deterministic": True})
    assert config.randomness == {"seed": 7, "deterministic": True}
    assert "the seed 1 is not used" in capsys.readouterr().out


def test_checkpoints_in_another_folder_are_found(tmp_path: Path) -> None:
    work_dir = tmp_path / "run"
    work_dir.mkdir()
    (tmp_path / "elsewhere").mkdir()
    path = save(tmp_path / "elsewhere" / "run" / "epoch_1.pth", 4, 1)
    hooks = {"checkpoint": {"out_dir": str(tmp_path / "elsewhere")}}
    assert resolve(work_dir, default_hooks=hooks).load_from == str(path)


def test_a_second_run_in_a_folder_is_refused_until_the_first_dies(
    tmp_path: Path,
) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        lock_work_dir(tmp_path)
        if os.fork() == 0:  # a worker that outlives its run
            os.close(write)
            signal.alarm(5)
            signal.pause()
        os.write(write, b"x")
        signal.pause()
    os.close(write)
    assert os.read(read, 1) == b"x"
    before = {path: path.stat() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=rf"in use by process {child} on .*--work-dir"):
        lock_work_dir(tmp_path)
    assert {path: path.stat() for path in tmp_path.iterdir()} == before
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    lock_work_dir(tmp_path)
    lock_work_dir(tmp_path)  # the same process may train again


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written.*another --work-dir"):
        lock_work_dir(tmp_path / "file" / "run")


def test_accidents_end_in_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"no space left.*free some space.*--resume"),
        accidents_in_one_line(str(tmp_path)),
    ):
        raise OSError(28, "No space left on device")
    for other in (PermissionError(13, "denied", "/data/image.jpg"), RuntimeError("x")):
        with pytest.raises(type(other)), accidents_in_one_line(str(tmp_path)):
            raise other
    assert "quota" in describe_disk_fault(OSError(122, "Disk quota exceeded"), "x")


@pytest.mark.parametrize(
    ("loop", "expected"),
    [
        ({"by_epoch": True, "max_epochs": 3}, "mlp_backbones.ResumableEpochLoop"),
        ({"by_epoch": False, "max_iters": 3}, "mlp_backbones.ResumableIterLoop"),
        ({"type": "IterBasedTrainLoop"}, "mlp_backbones.ResumableIterLoop"),
        ({"type": "mmengine.EpochBasedTrainLoop"}, "mlp_backbones.ResumableEpochLoop"),
        ({"type": "mmdet.TeacherStudentLoop"}, "mmdet.TeacherStudentLoop"),
    ],
)
def test_make_resumable_exchanges_what_it_knows(loop: dict, expected: str) -> None:
    config = Config({"train_cfg": loop})
    for _ in range(2):
        make_resumable(config)
        assert config.train_cfg.type == expected and "by_epoch" not in config.train_cfg
        assert config.default_hooks.checkpoint.type == (
            "mlp_backbones.SafeCheckpointHook"
        )
        assert [hook.type for hook in config.custom_hooks] == [
            "mlp_backbones.SaveOnSignalHook"
        ]


class Drawing(torch.utils.data.Dataset):
    """Each sample is its index and a draw."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[int, float]:
        assert type(index) is int
        return index, torch.rand(()).item()


@pytest.mark.parametrize("sampler", [DefaultSampler, InfiniteSampler])
@pytest.mark.parametrize("skipped", [1, 3])
def test_batches_go_on_anywhere_with_the_same_draws(sampler, skipped: int) -> None:
    def draw(skip: int, epoch: int) -> list[list[tuple[int, float]]]:
        data = Drawing()
        batches = PlacedBatchSampler(sampler(data, seed=5), 3)
        batches.restore_seed(5, 6)
        batches.start(epoch)
        assert batches.skip(skip) == skip
        found = []
        for _, batch in zip(range(4 - skip), batches, strict=False):
            torch.rand(skip + 1)  # a history
            found.append(make_samples(data, batch))
        return found

    whole = draw(0, epoch=2)
    assert draw(skipped, epoch=2) == whole[skipped:]
    values = [value for batch in whole for _, value in batch]
    other = [value for batch in draw(0, epoch=3) for _, value in batch]
    assert len({*values, *other}) == len(values) + len(other)


def test_places_never_share_draws() -> None:
    places = [Place(s, k, e, p, r) for s in (0, 1) for k in (SAMPLE, STEP)
              for e in (0, 1) for p in (0, 1) for r in (0, 1)]  # fmt: skip
    drawn = set()
    for place in places:
        seed_draws(place)
        drawn.add(torch.rand(()).item())
    assert len(drawn) == len(places)


def test_settings_of_the_loader_are_kept() -> None:
    loader = {"batch_size": 2, "drop_last": True, "batch_sampler": {"type": "X"}}
    placed = place_batches(loader)
    assert placed["batch_sampler"]["drop_last"] is True
    assert placed["batch_sampler"]["batch_sampler"] == {"type": "X"}
    assert "drop_last" not in placed and loader["drop_last"] is True
    with pytest.raises(TypeError, match="must be a dict"):
        place_batches([])  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", [DefaultSampler, InfiniteSampler])
def test_iteration_100_000_is_reached_in_seconds(sampler) -> None:
    def batches() -> PlacedBatchSampler:
        placed = PlacedBatchSampler(sampler(range(1000), seed=1), 2)
        placed.start(0)
        return placed

    number = 100_003  # not the end of a pass
    began, left, epoch, resumed = time.perf_counter(), number, 0, batches()
    while (skipped := resumed.skip(left)) < left:
        left, epoch = left - skipped, epoch + 1
        resumed.start(epoch)
    following = next(iter(resumed))
    assert time.perf_counter() - began < 10

    def all_batches() -> Iterator[list[int]]:
        whole = batches()
        while True:
            yield from whole
            whole.start(whole.epoch + 1)

    expected = next(itertools.islice(all_batches(), number, None))
    assert following == expected
    assert [each.place for each in following] == [each.place for each in expected]
