"""A training of MMEngine's in a fraction of a second, for tests of hooks."""

import re

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

FIRST_BAD = 4


class Toy(BaseModel):
    """Two losses; the second is `bad` from iteration FIRST_BAD on."""

    def __init__(self, bad=float("nan"), width=2):
        super().__init__()
        self.layer = nn.Linear(2, width)
        self.bad = bad
        self.calls = 0

    def forward(self, inputs, data_samples=None, mode="tensor"):
        if mode != "loss":
            return [BaseDataElement() for _ in range(len(inputs))]
        self.calls += 1
        loss = self.layer(torch.stack(list(inputs))).square().mean()
        second = self.bad if self.calls >= FIRST_BAD else 0.5
        return {"loss_a": loss, "loss_b": loss * 0 + second}


def run(tmp_path, model, hooks, max_iters=6, save_every=2, **options):
    loader = {
        "dataset": [{"inputs": torch.ones(2)}] * 4,
        "batch_size": 2,
        "sampler": {"type": "InfiniteSampler"},
    }
    options.setdefault("train_dataloader", loader)
    runner = Runner(
        model,
        str(tmp_path),
        train_cfg={"by_epoch": False, "max_iters": max_iters},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.125}},
        default_hooks={
            "checkpoint": {
                "type": "CheckpointHook",
                "interval": save_every,
                "by_epoch": False,
            },
            "logger": {"type": "LoggerHook", "interval": 1},
        },
        custom_hooks=hooks,
        log_processor={"by_epoch": False, "window_size": 1},
        visualizer={
            "type": "Visualizer",
            "vis_backends": [{"type": "LocalVisBackend"}],
        },
        experiment_name=re.sub(r"\W", "_", str(tmp_path)),
        **options,
    )
    runner.train()
    return runner
