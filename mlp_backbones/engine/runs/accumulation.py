"""Gradients that wait for the optimizer's step, kept in a checkpoint.

With ``accumulative_counts`` a checkpoint may be saved between two steps of the
optimizer. MMEngine's checkpoints then lack the gradients so far, and a resumed run
takes a step without them.
"""

from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.runner import Runner
from torch import Tensor

from mlp_backbones.engine.errors import UserError

KEY = "accumulated_gradients"


def is_pending(runner: Any) -> bool:
    """Whether gradients wait for the optimizer's step."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if hasattr(wrapper, "values") else [wrapper]
    return any(
        getattr(each, "_accumulative_counts", 1) > 1 and not each.should_update()
        for each in wrappers
    )


def can_keep(runner: Any) -> bool:
    """Whether a checkpoint of this runner can hold gradients: parameters are whole."""
    return isinstance(runner, Runner)


def gather(runner: Any) -> list[dict[str, Tensor]] | None:
    """Return the gradients of each process in the first one, or None if none wait.

    Each process has gradients of its own until the step, in which they are averaged.
    """
    if not is_pending(runner) or not can_keep(runner):
        return None
    own = {
        name: parameter.grad.detach().cpu()
        for name, parameter in runner.model.named_parameters()
        if parameter.grad is not None
    }
    if get_world_size() == 1:
        return [own]
    all_of_them: list[Any] | None = (
        [None] * get_world_size() if not get_rank() else None
    )
    torch.distributed.gather_object(own, all_of_them)
    return all_of_them if is_main_process() else None


def restore(runner: Any, gradients: list[dict[str, Tensor]]) -> None:
    """Give the parameters the gradients of this process.

    Raises:
        UserError: If there were more or fewer processes.
    """
    if len(gradients) != get_world_size():
        raise UserError(
            f"the checkpoint was saved by {len(gradients)} processes between two steps "
            f"of the optimizer and cannot be resumed by {get_world_size()}"
        )
    own = gradients[get_rank()]
    for name, parameter in runner.model.named_parameters():
        if name in own:
            parameter.grad = own[name].to(parameter.device)
