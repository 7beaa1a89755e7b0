"""A run that is killed and resumed equals the one that was not, bit for bit."""

import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openmmlab_runs
import pytest
import resumed_runs as runs
import torch

ROOT = Path(__file__).parents[2]
KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
WORKERS = {
    "train_dataloader__num_workers": 2,
    "train_dataloader__persistent_workers": True,
}
ACCUMULATION = {"optim_wrapper__accumulative_counts": 3}
FEW = {"train_dataloader.sampler.type": "DefaultSampler"}
Kill = tuple[str, int, signal.Signals]
# name: task, settings, moments of the signal; an epoch of detection has 7 iterations,
# one of classification 5
CASES: dict[str, tuple[str, dict[str, Any], list[Kill]]] = {
    "short": (
        "classification",
        {"train_cfg__max_epochs": 2},
        [("iter", 6, KILL), ("iter", 2, TERM)],
    ),
    "epochs": (
        "detection",
        {"train_cfg__max_epochs": 2},
        [("iter", 8, KILL), ("batch", 10, TERM)],
    ),
    "moments": (
        "classification",
        {},
        [
            ("iter", 2, KILL),  # before the first checkpoint
            ("save", 5, KILL),
            ("save", 10, KILL),
            ("val", 10, KILL),
            ("val", 10, TERM),
            ("iter", 4, INT),  # the last step of an epoch
            ("iter", 9, signal.SIGUSR1),
        ],
    ),
    "iterations": (
        "classification",
        runs.ITERATIONS,
        [("iter", 4, KILL), ("val", 6, KILL), ("save", 5, KILL), ("iter", 4, TERM)],
    ),
    "passes": (  # a sampler that ends, in a loop of iterations
        "detection",
        {**runs.ITERATIONS, **FEW, "train_dataloader.dataset.indices": 4},
        [("iter", 4, KILL)],
    ),
    "workers": ("classification", WORKERS, [("iter", 7, KILL), ("iter", 6, TERM)]),
    "accumulation": (
        "classification",
        ACCUMULATION,
        [("iter", 7, KILL), ("iter", 6, TERM), ("iter", 11, TERM)],
    ),
}
MARKS: dict[str, Any] = {"short": [], "epochs": pytest.mark.slow}


def cases() -> list[Any]:
    return [
        pytest.param(name, marks=MARKS.get(name, pytest.mark.nightly)) for name in CASES
    ]


def check_equal(one: Path, other: Path, ranks: int = 1) -> None:
    """Compare every step and the last checkpoint of two work folders."""
    for rank in range(ranks):
        assert runs.records(one, rank) == runs.records(other, rank)
    names = [path.name for path in one.glob("*.pth")]
    last = max(names, key=lambda name: int(name.rsplit("_")[-1][:-4]))
    states = [runs.state_of(folder / last) for folder in (one, other)]
    for key in states[0]:
        assert runs.digest(states[0][key]) == runs.digest(states[1][key]), key
    assert [name for name in names if "interrupted" in name] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resumed")


@pytest.mark.parametrize("name", cases())
def test_resumed_equals_uninterrupted(name: str, folder: Path) -> None:
    task, settings, kills = CASES[name]
    config = runs.write_config(folder, task, name, **settings)
    whole = folder / f"{name}_whole"
    assert runs.run_forked(config, "--work-dir", whole, "--seed", 3)[0] == 0
    for number, (moment, iteration, raised) in enumerate(kills):
        work_dir = folder / f"{name}_{number}"
        command = (config, "--work-dir", work_dir, "--seed", 3)
        code, said = runs.run_forked(
            *command, die_at=(moment, iteration), raised=raised
        )
        if raised == KILL:
            assert code == -KILL
        else:
            assert code == 128 + raised, said
            assert f"stopped by {raised.name} after iteration" in said
            assert "the same command with --resume goes on" in said
        code, said = runs.run_forked(*command, "--resume")
        assert code == 0, said
        check_equal(whole, work_dir)


@pytest.mark.slow
def test_seed_is_drawn_kept_and_restored_and_workers_change(folder: Path) -> None:
    settings = {"train_cfg__max_epochs": 2}
    config = runs.write_config(folder, "classification", "seedless", **settings)
    work_dir, again = folder / "seedless", folder / "seedless_again"
    command = (config, "--work-dir", work_dir, "--no-validate")
    code, said = runs.run_forked(*command, die_at=("iter", 1), raised=KILL)
    assert code == -KILL
    seed = int((work_dir / ".seed").read_text())
    assert f"seed: {seed}" in said
    # before the first checkpoint, then behind it; then with other workers
    code, said = runs.run_forked(*command, "--resume", die_at=("iter", 6), raised=KILL)
    assert code == -KILL and f"seed: {seed}" in said
    workers = ("train_dataloader.num_workers=1", "train_dataloader.prefetch_factor=1")
    code, said = runs.run_forked(*command, "--resume", "--cfg-options", *workers)
    assert code == 0, said
    state = runs.state_of(work_dir / "epoch_2.pth")
    assert state["meta"]["seed"] == seed
    code, _ = runs.run_forked(
        config, "--work-dir", again, "--no-validate", "--seed", seed
    )
    assert code == 0
    check_equal(work_dir, again)
    steps = runs.records(again)
    data = [step["data"] for step in steps.values()]
    assert len(set(data)) == len(data) == 10, "each epoch draws anew"


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.mark.nightly
@pytest.mark.parametrize(
    "settings",
    [{}, WORKERS, ACCUMULATION, runs.ITERATIONS],
    ids=["epochs", "workers", "accumulation", "iterations"],
)
def test_two_processes_resume(settings: dict[str, Any], folder: Path) -> None:
    settings = {"train_dataloader.sampler.type": "DefaultSampler", **settings}
    name = f"two_{len(list(folder.iterdir()))}"
    config = runs.write_config(folder, "classification", name, **settings)
    whole = folder / f"{name}_whole"
    command = (config, "--seed", 4, "--work-dir")
    ends = runs.run_two(free_port(), *command, whole)
    assert [code for code, _ in ends] == [0, 0], ends[0][1][-2000:]
    states = [runs.records(whole, rank)[0]["state"] for rank in (0, 1)]
    assert states[0] != states[1], "ranks draw differently"
    for raised in (KILL, TERM):
        work_dir = folder / f"{name}_{raised.name}"
        ends = runs.run_two(
            free_port(), *command, work_dir, die_at=("iter", 4), raised=raised
        )
        if raised == TERM:  # only the second got it, both have stopped
            assert [code for code, _ in ends] == [143, 143], ends[0][1][-2000:]
            assert ends[0][1].count("stopped by SIGTERM after iteration 5") == 1
        ends = runs.run_two(free_port(), *command, work_dir, "--resume")
        assert [code for code, _ in ends] == [0, 0], ends[0][1][-2000:]
        check_equal(whole, work_dir, ranks=2)


def test_a_second_signal_ends_at_once(folder: Path) -> None:
    config = runs.write_config(folder, "classification", "twice")

    def send_another() -> None:
        runs.RecordHook.again = True

    code, said = runs.run_forked(
        config, "--work-dir", folder / "twice", "--seed", 3,
        die_at=("batch", 1), raised=TERM, prepare=send_another,
    )  # fmt: skip
    assert code == -TERM
    assert "another ends at once" in said and "stopped by" not in said
    assert not list((folder / "twice").glob("*.pth"))


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))


def aim_at_workers() -> None:
    runs.RecordHook.victims = lambda: [
        process.pid for process in multiprocessing.active_children()
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prepare", "settings", "words"),
    [
        (limit_files, {}, "epoch_1.pth: file too large; raise the limit"),
        (aim_at_workers, WORKERS, "was killed, as systems do that run out of memory"),
    ],
    ids=["disk", "worker"],
)
def test_accidents_end_in_one_line(
    prepare: Callable[[], None], settings: dict[str, Any], words: str, folder: Path
) -> None:
    config = runs.write_config(folder, "classification", prepare.__name__, **settings)
    work_dir = folder / prepare.__name__
    die_at = None if prepare is limit_files else ("iter", 1)
    code, said = runs.run_forked(
        config, "--work-dir", work_dir, "--seed", 3, die_at=die_at, prepare=prepare
    )
    assert code == 1, said
    last = said.strip().splitlines()[-1]
    assert last.startswith("train.py: error: ") and words in last
    assert "before are intact" in last
    assert not list(work_dir.glob("*.pth")) and not list(work_dir.glob(".*unfinished"))


@pytest.mark.slow
def test_a_moved_folder_goes_on_and_keeps_its_best(folder: Path) -> None:
    settings = {
        "train_cfg__max_epochs": 2,
        "default_hooks__checkpoint__save_best": "accuracy/top1",
        "default_hooks__checkpoint__rule": "less",
    }
    config = runs.write_config(folder, "classification", "moving", **settings)
    command = (config, "--seed", 3)
    first, moved = folder / "moving", folder / "moved"
    code, said = runs.run_forked(
        *command, "--work-dir", first, die_at=("iter", 6), raised=KILL
    )
    assert code == -KILL, said
    (best,) = first.glob("best_*.pth")
    shutil.copytree(first, moved)
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    code, said = runs.run_forked(*command, "--work-dir", moved, "--resume")
    assert code == 0, said
    after = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert before == after, "the copy writes nothing into the original"
    pointed = Path((moved / "last_checkpoint").read_text())
    assert pointed.parent == moved
    state = torch.load(pointed, weights_only=False)
    assert Path(state["message_hub"]["runtime_info"]["best_ckpt"]).parent == moved
    assert len(list(moved.glob("best_*.pth"))) == 1 and best.exists()


THEIRS = {
    "default_hooks__checkpoint__type": "mlp_backbones.SafeCheckpointHook",
    "train_cfg__type": "mlp_backbones.ResumableEpochLoop",
    "train_cfg__max_epochs": 2,
}


@pytest.mark.parametrize(
    ("scope", "task"),
    [
        pytest.param("mmpretrain", "classification", marks=pytest.mark.slow),
        pytest.param("mmdet", "detection", marks=pytest.mark.nightly),
    ],
)
def test_the_tools_of_openmmlab_resume(scope: str, task: str, folder: Path) -> None:
    config = runs.write_config(folder, task, f"their_{scope}", **THEIRS)
    with config.open("a") as file:
        file.write("custom_hooks.append(dict(type='mlp_backbones.SaveOnSignalHook'))\n")
    train = [
        sys.executable, "-m", "mlp_backbones", openmmlab_runs.tool(scope, "train.py"),
        config, "--work-dir",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, [ROOT, ROOT / "tests"])),
    }

    def run(*words: object, die_at: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(map(str, [*train, *words])),
            env={**environment, "RESUMED_RUNS_DIE_AT": die_at},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    work_dir = folder / f"their_{scope}"
    ended = run(work_dir, die_at="iter 8 15")
    assert ended.returncode == 128 + TERM, ended.stderr[-2000:]
    assert "stopped by SIGTERM after iteration 9" in ended.stderr
    damaged = work_dir / "interrupted_iter_99.pth"
    damaged.write_bytes(b"cut")
    ended = run(work_dir, "--resume")
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert f"as {damaged} cannot be resumed (it is damaged" in (
        ended.stdout + ended.stderr
    )
    # no seed was given: the one that was drawn, once more and by our tool
    state = torch.load(work_dir / "epoch_2.pth", weights_only=False)
    whole = folder / f"their_{scope}_whole"
    code, said = runs.run_forked(
        config, "--work-dir", whole, "--seed", state["meta"]["seed"]
    )
    assert code == 0, said
    check_equal(whole, work_dir)


@pytest.mark.nightly
def test_two_nodes_of_torchrun_stop_together_and_resume(folder: Path) -> None:
    settings = {"train_dataloader.sampler.type": "DefaultSampler"}
    config = runs.write_config(folder, "classification", "nodes", **settings)
    whole, work_dir = folder / "nodes_whole", folder / "nodes"
    command = (config, "--seed", 4, "--work-dir")
    ends = runs.run_two(free_port(), *command, whole)
    assert [code for code, _ in ends] == [0, 0], ends[0][1][-2000:]

    def run(*words: object, die_at: str = "") -> list[tuple[int, str]]:
        port, nodes = free_port(), []
        for node in (0, 1):
            environment = {
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(map(str, [ROOT, ROOT / "tests"])),
                "RESUMED_RUNS_DIE_AT": die_at if node == 1 else "",
            }
            launch = [
                sys.executable, "-m", "torch.distributed.run", "--nnodes=2",
                f"--node-rank={node}", "--nproc-per-node=1",
                "--master-addr=127.0.0.1", f"--master-port={port}",
                ROOT / "tools" / "train.py", *command, work_dir, *words,
                "--launcher", "pytorch",
            ]  # fmt: skip
            nodes.append(
                subprocess.Popen(
                    list(map(str, launch)),
                    env=environment,
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )  # fmt: skip
            )
        said = [node.communicate()[0] for node in nodes]
        return [(node.returncode, text) for node, text in zip(nodes, said, strict=True)]

    ends = run(die_at="iter 4 15")
    assert all(code == 1 for code, _ in ends), "torchrun's own code"
    assert all("exitcode  : 143" in text for _, text in ends), ends[0][1][-2000:]
    assert "stopped by SIGTERM after iteration 5" in ends[0][1]
    ends = run("--resume")
    assert [code for code, _ in ends] == [0, 0], ends[0][1][-2000:]
    check_equal(whole, work_dir, ranks=2)
