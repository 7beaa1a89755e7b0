"""The finite guard: no step is taken with a NaN, on any process, by any wrapper."""

import os
import re
import socket

import pytest
import torch
import torch.multiprocessing as mp
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn
from toy_runs import FIRST_BAD

from mlp_backbones.checkpoints import CheckpointError
from mlp_backbones.engine.finite_guard import FiniteGuardHook, NonFiniteError


class _Spoil(torch.autograd.Function):
    """The identity; its gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None


class Victim(BaseModel):
    """Two layers; from iteration FIRST_BAD on something is not finite.

    Args:
        where: `loss`: a component, with gradients that stay finite; `gradient`: that of
            the first layer; `both`: a loss and the gradients of all.
        bad: What comes there.
        rank: The only process where it does; None means all.
    """

    def __init__(self, where="loss", bad=float("nan"), rank=None):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 1)
        self.where, self.bad, self.rank = where, bad, rank
        self.calls = 0

    def forward(self, inputs, data_samples=None, mode="tensor"):
        self.calls += 1
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        bad = self.calls >= FIRST_BAD and self.rank in (None, rank)
        factor = self.bad if bad else 1.0
        hidden = self.first(torch.stack(list(inputs)))
        if self.where == "gradient":
            hidden = _Spoil.apply(hidden, factor)
        loss = self.second(hidden).float().square().mean()
        if self.where == "both":
            loss = loss * factor
        extra = factor if self.where == "loss" else 1.0
        levels = [loss.detach() * 0 + extra, loss * 0]
        return {"loss_a": loss, "loss_b": levels, "acc": loss * factor}


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        meta = {"img_path": f"img/{index}.jpg", "img_id": index}
        sample = BaseDataElement(metainfo=meta)
        return {"inputs": torch.tensor([1.0, index / 64]), "data_samples": sample}


def make_runner(folder, model, hook, wrapper=None, save_every=2, hooks=(), **options):
    return Runner(
        model,
        str(folder),
        train_dataloader={
            "dataset": Images(),
            "batch_size": 2,
            "sampler": {"type": "InfiniteSampler", "shuffle": False},
        },
        train_cfg={"by_epoch": False, "max_iters": 6},
        optim_wrapper={
            "optimizer": {"type": "SGD", "lr": 0.125, "momentum": 0.9},
            **(wrapper or {}),
        },
        default_hooks={
            "checkpoint": {
                "type": "CheckpointHook",
                "interval": save_every,
                "by_epoch": False,
            },
            "logger": {"type": "LoggerHook", "interval": 1},
        },
        custom_hooks=[*([hook] if hook else []), *hooks],
        log_processor={"by_epoch": False, "window_size": 1},
        experiment_name=re.sub(r"\W", "_", str(folder)),
        **options,
    )


def assert_finite(folder, model):
    for parameter in model.parameters():
        assert parameter.isfinite().all()
    files = list(folder.glob("*.pth"))
    for file in files:
        for value in torch.load(file, weights_only=False)["state_dict"].values():
            assert value.isfinite().all()
    return sorted(file.name for file in files)


@pytest.mark.parametrize(
    "wrapper",
    [
        {},
        {"clip_grad": {"max_norm": 1.0}},
        {"clip_grad": {"type": "value", "clip_value": 1.0}},
        {"type": "mlp_backbones.AutocastOptimWrapper"},
    ],
    ids=["plain", "clipped by norm", "clipped by value", "bfloat16"],
)
@pytest.mark.parametrize("where", ["loss", "gradient", "both"])
@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_the_step_is_not_taken(tmp_path, wrapper, where, bad):
    model = Victim(where, float(bad))
    runner = make_runner(tmp_path, model, FiniteGuardHook(), wrapper)
    with pytest.raises(NonFiniteError) as caught:
        runner.train()
    message = str(caught.value)
    assert f"iteration {FIRST_BAD}:" in message and "\n" not in message
    assert "img/6.jpg, img/7.jpg;" in message and "img/5" not in message
    assert "learning rate 0.125" in message and "acc" not in message
    if where == "loss":
        assert f"losses: loss_b = {bad};" in message and "gradients" not in message
    elif where == "gradient":
        # those in front of the fault, also where clipping would have spread it
        assert "gradients of 2 parameters: first.weight, first.bias" in message
        assert "(finite)" in message
    else:
        assert "losses: loss_a = " in message and "gradients of 4" in message
    assert assert_finite(tmp_path, model) == ["iter_2.pth"]
    assert runner.iter == FIRST_BAD - 1
    (log,) = tmp_path.glob("*/*.log")
    assert "NaN or infinite values" in log.read_text().splitlines()[-1]


def test_accumulated_gradients_are_checked_at_the_real_step(tmp_path):
    model = Victim("gradient")  # from iteration 4 on, steps after 3 and 6
    wrapper = {"accumulative_counts": 3}
    runner = make_runner(tmp_path, model, FiniteGuardHook(), wrapper)
    with pytest.raises(NonFiniteError, match="iteration 6:.*first.weight") as caught:
        runner.train()
    for number in range(6, 12):
        assert f"img/{number}.jpg" in str(caught.value)
    assert_finite(tmp_path, model)


def test_an_interval_never_lets_a_nan_reach_the_disk(tmp_path):
    model = Victim("both")
    runner = make_runner(tmp_path, model, FiniteGuardHook(100), save_every=5)
    with pytest.raises(NonFiniteError, match=f"iteration {FIRST_BAD}:.*loss_a"):
        runner.train()
    assert not list(tmp_path.glob("*.pth"))
    model = Victim("gradient")  # no loss tells, at first
    runner = make_runner(tmp_path / "b", model, FiniteGuardHook(100), save_every=4)
    with pytest.raises(NonFiniteError, match=r"of iteration 4 .*first\.weight"):
        runner.train()
    assert not list(tmp_path.glob("b/*.pth"))


@pytest.mark.parametrize("bad", [1e30, 1.0])
def test_large_numbers_are_no_alarm(tmp_path, bad):
    """Their squares are infinite in float32; they are not."""
    model = Victim("gradient", bad)
    wrapper = {"clip_grad": {"type": "value", "clip_value": 0.1}}
    runner = make_runner(tmp_path, model, FiniteGuardHook(), wrapper)
    runner.train()
    assert runner.iter == 6
    assert_finite(tmp_path, model)
    assert "step" not in vars(runner.optim_wrapper)  # let go
    assert not model._forward_hooks


def test_a_scaler_may_leave_steps_out(tmp_path):
    """It is left alone with its gradients; losses are checked all the same."""
    scaler = torch.cuda.amp.GradScaler(enabled=False)
    scaler.is_enabled = lambda: True
    for where, ends in (("gradient", False), ("loss", True)):
        model = Victim(where)
        runner = make_runner(tmp_path / where, model, FiniteGuardHook())
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.optim_wrapper.loss_scaler = scaler
        if ends:
            with pytest.raises(NonFiniteError, match="loss_b = nan"):
                runner.train()
        else:  # here no scaler leaves the step out, so the checkpoint's check does
            with pytest.raises(NonFiniteError, match="was not written"):
                runner.train()


@pytest.mark.parametrize("part", ["weights", "optimizer"])
@pytest.mark.parametrize("resume", [True, False])
def test_a_checkpoint_with_a_nan_is_not_loaded(tmp_path, part, resume):
    make_runner(tmp_path, Victim(bad=1.0), None).train()
    file = tmp_path / "iter_4.pth"
    content = torch.load(file, weights_only=False)
    if part == "weights":
        content["state_dict"]["second.bias"][:] = float("inf")
    else:
        content["optimizer"]["state"][0]["momentum_buffer"][0] = float("nan")
    torch.save(content, file)
    options = {"load_from": str(file), "resume": resume}
    runner = make_runner(
        tmp_path / "next", Victim(bad=1.0), FiniteGuardHook(), **options
    )
    if part == "optimizer" and not resume:  # it is not used
        runner.train()
        return
    with pytest.raises(CheckpointError, match=r"iter_4\.pth.*infinite") as caught:
        runner.train()
    name = "second.bias" if part == "weights" else "momentum_buffer"
    assert name in str(caught.value)


@pytest.mark.parametrize("interval", [0, -1, 1.5, True, "1"])
def test_the_interval_is_checked(interval):
    with pytest.raises(ValueError, match=re.escape(repr(interval))):
        FiniteGuardHook(interval)


def _train_one_of_two(rank, port, folder, where):
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2"
    )
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    model = MMDistributedDataParallel(Victim(where, rank=1))
    runner = make_runner(folder, model, FiniteGuardHook(), save_every=1)
    try:
        runner.train()
        said = "went on to the end"
    except NonFiniteError as error:
        said = str(error)
    finite = all(bool(p.isfinite().all()) for p in model.parameters())
    (folder / f"rank_{rank}").write_text(f"{runner.iter} {finite} {said}")


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_two_processes_stop_at_the_same_step(tmp_path, where):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # forked, as they need no import then
    arguments = port, tmp_path, where
    mp.start_processes(_train_one_of_two, arguments, nprocs=2, start_method="fork")
    first, second = ((tmp_path / f"rank_{rank}").read_text() for rank in range(2))
    for said in (first, second):
        assert said.startswith(f"{FIRST_BAD - 1} True NaN or infinite values")
    if where == "loss":  # the gradients of none are touched
        assert "found by another process" in first
        assert "loss_b = nan" in second
    else:
        assert "first.weight" in first and "first.weight" in second
    assert len(list(tmp_path.glob("*.pth"))) == FIRST_BAD - 1
