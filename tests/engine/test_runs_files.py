"""At any instant a good checkpoint exists: faults at all bytes and system calls."""

import errno
import os
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from toy_runs import Toy

from mlp_backbones.checkpoints.torch_file import DamagedFileError
from mlp_backbones.engine.errors import UserError
from mlp_backbones.engine.runs import files
from mlp_backbones.engine.runs.resume import find_newest

CALLS = ("fsync", "replace", "remove")


class Rising(BaseMetric):
    """A metric that is better at each validation."""

    default_prefix = "toy"
    value = 0.0

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        self.value += 1
        return {"acc": self.value}


def train(folder: Path, hook: str) -> Runner:
    """Two steps; each is validated, better than before, and saved; one is kept."""
    data = [{"inputs": torch.ones(2)}] * 4
    loader = {"dataset": data, "batch_size": 2}
    torch.manual_seed(0)
    runner = Runner(
        Toy(bad=0.5, width=64),
        str(folder),
        train_dataloader={**loader, "sampler": {"type": "InfiniteSampler"}},
        val_dataloader={**loader, "sampler": {"type": "DefaultSampler"}},
        train_cfg={"by_epoch": False, "max_iters": 2, "val_interval": 1},
        val_cfg={},
        val_evaluator=Evaluator(Rising()),
        optim_wrapper={"optimizer": {"type": "Adam", "lr": 0.125}},
        default_hooks={
            "checkpoint": {
                "type": hook,
                "interval": 1,
                "by_epoch": False,
                "max_keep_ckpts": 1,
                "save_best": "toy/acc",
            },
            "logger": None,
        },
        experiment_name=folder.name,
    )
    runner.train()
    return runner


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return train(tmp_path_factory.mktemp("run"), "mlp_backbones.SafeCheckpointHook")


def go_on(runner: Runner, folder: Path) -> None:
    """Save what two further steps save, in a copy of the work folder."""
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    hook.out_dir = runner._work_dir = str(folder)
    hook.best_ckpt_path = str(folder / Path(hook.best_ckpt_path).name)
    for step in (3, 4):
        runner.train_loop._iter = step - 1
        hook._save_checkpoint(runner)
        runner.train_loop._iter = step
        hook._save_best_checkpoint(runner, {"toy/acc": float(step)})


def fork(work: Callable[[], None]) -> int:
    """Run work in a forked process; return its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except (UserError, OSError):
            code = 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def break_at(call: str, number: int, error: int | None) -> None:
    """Let the n-th call of a function of `os` fail, or kill the process."""
    original, count = getattr(os, call), 0

    def broken(*args, **kwargs):
        nonlocal count
        count += 1
        if count == number:
            if error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(error, os.strerror(error))
        return original(*args, **kwargs)

    setattr(os, call, broken)


def break_at_byte(number: int, error: bool) -> None:
    """Let no file grow beyond a byte: writing it fails, or kills the process."""
    if not error:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))


def faults(thorough: bool) -> Iterator[tuple[str, int, int | None]]:
    """Yield calls and bytes: all that two steps make, or the first of them."""
    for call, number_of_calls in zip(CALLS, (24, 12, 6), strict=True):
        for number in range(1, (number_of_calls if thorough else 5) + 1):
            yield call, number, None
            if thorough or number < 3:
                yield call, number, errno.ENOSPC
    for number in (0, 1, 100, 1000, 3000, 5000, 7000) if thorough else (0, 3000):
        yield "byte", number, None
        yield "byte", number, errno.EFBIG


@pytest.mark.parametrize(
    "thorough", [False, pytest.param(True, marks=pytest.mark.nightly)]
)
def test_a_fault_at_any_call_and_byte_leaves_a_good_checkpoint(
    trained: Runner, tmp_path: Path, thorough: bool
) -> None:
    reached = dict.fromkeys((*CALLS, "byte"), 0)
    for call, number, error in faults(thorough):
        folder = tmp_path / f"{call}_{number}_{error}"
        shutil.copytree(trained.work_dir, folder)

        def work(folder=folder, call=call, number=number, error=error) -> None:
            if call == "byte":
                break_at_byte(number, error is not None)
            else:
                break_at(call, number, error)
            go_on(trained, folder)

        code = fork(work)
        assert code in (0, 2, -signal.SIGKILL, -signal.SIGXFSZ), (call, number, error)
        reached[call] += code != 0
        newest, damaged = find_newest([folder])
        assert newest is not None and not damaged
        best = [path for path in folder.glob("*.pth") if path.name.startswith("best")]
        assert best
        for path in folder.glob("*.pth"):
            files.verify(path)
        assert Path((folder / files.POINTER).read_text()).name
        if code == 0:
            assert newest.meta["iter"] == 4
            assert sorted(path.name for path in folder.glob("*.pth")) == [
                "best_toy_acc_iter_4.pth",
                "iter_4.pth",
            ]
    # a folder's fsync may fail without harm; two old files and two bests are deleted
    expected = {"fsync": 26, "replace": 20, "remove": 8, "byte": 14}
    for call, number in reached.items():
        assert number >= (expected[call] if thorough else 4), (call, number)


def test_mmengines_hook_fails_the_same_test(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    runner = train(folder, "CheckpointHook")

    def work() -> None:
        break_at_byte(1000, error=False)  # the old file is gone, the new one cut
        go_on(runner, folder)

    assert fork(work) == -signal.SIGXFSZ
    assert find_newest([folder])[0] is None


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "epoch_1.pth"
    content = {
        "meta": {"epoch": 1, "iter": 4, "seed": 0},
        "optimizer": {},
        "state_dict": {"weight": torch.randn(500)},
    }
    files.save(path, content)
    whole = path.read_bytes()
    value = whole.index(content["state_dict"]["weight"].numpy().tobytes())
    for position in (value, value + 999, value + 1999, whole.index(b"state_dict")):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        with pytest.raises(DamagedFileError, match="damaged"):
            files.verify(path)
        newest, damaged = find_newest([tmp_path])
        assert newest is None and list(damaged) == [path]


def test_a_full_disk_is_an_oserror_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "epoch_1.pth"
    files.save(path, {"weight": torch.zeros(8)})

    def work() -> None:
        break_at_byte(100_000, error=True)
        files.save(path, {"weight": torch.zeros(100_000)})

    assert fork(work) == 2
    assert torch.load(path, weights_only=True)["weight"].numel() == 8
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
