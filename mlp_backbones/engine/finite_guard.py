"""A guard that keeps NaN and infinite values out of the weights and checkpoints."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn

from mlp_backbones.checkpoints.compare import find_state_dict
from mlp_backbones.checkpoints.plain import check_finite
from mlp_backbones.checkpoints.torch_file import CheckpointError
from mlp_backbones.engine.batches import name_images
from mlp_backbones.registry import HOOKS

_SHOWN = 8


class NonFiniteError(ValueError):
    """A loss or a gradient became NaN or infinite."""


@HOOKS.register_module()
class FiniteGuardHook(Hook):
    """Stop a training before a NaN or an infinite value reaches the weights.

    It looks at the losses and gradients right before the optimizer's step, also before
    gradients are clipped, which would spread a NaN over all of them or hide an infinite
    value. With several processes all stop at the same step. Where gradients are scaled
    (``AmpOptimWrapper``) the scaler leaves out steps that overflow, so that only losses
    are checked. No weights that are not finite are saved, loaded or resumed.

    Args:
        interval: Steps from check to check; each waits for the device once. With more
            than 1, weights in memory may be damaged when it stops; those on the disk
            are not.

    Raises:
        NonFiniteError: Naming iteration, losses, parameters and images.
        CheckpointError: When a checkpoint is loaded that holds such values.
    """

    # Before LoggerHook and CheckpointHook.
    priority = "NORMAL"

    def __init__(self, interval: int = 1) -> None:
        if type(interval) is not int or interval < 1:
            raise ValueError(f"interval must be an integer >= 1, got {interval!r}")
        self.interval = interval
        self._steps = 0
        self._losses: list[tuple[int, dict[str, Tensor]]] = []
        self._images: list[tuple[int, list[str]]] = []
        self._iteration = 0
        self._undo: list[Callable[[], Any]] = []

    def before_train(self, runner: Runner) -> None:
        """Follow the model's losses and the optimizer's steps."""
        self._let_go()
        self._losses, self._images = [], []
        model: Any = runner.model
        while is_model_wrapper(model):
            model = model.module
        self._undo.append(model.register_forward_hook(self._note_losses).remove)
        for wrapper in _wrappers_of(runner):
            step = wrapper.step
            wrapper.step = functools.wraps(step)(
                functools.partial(self._step, runner, wrapper, step)
            )
            self._undo.append(functools.partial(vars(wrapper).pop, "step"))

    def _let_go(self) -> None:
        while self._undo:
            self._undo.pop()()

    def before_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list | None = None,
    ) -> None:
        """Remember which images this iteration sees."""
        self._iteration = runner.iter + 1
        self._images.append((self._iteration, name_images(data_batch)))

    def after_train(self, runner: Runner) -> None:
        """Check what came after the last full interval, and follow no longer."""
        self._let_go()
        self._check_rest(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse to save weights that are not finite."""
        self._check_rest(runner)
        try:
            for name in ("state_dict", "ema_state_dict"):
                check_finite(checkpoint.get(name), f"of iteration {runner.iter + 1}")
        except CheckpointError as error:
            raise NonFiniteError(
                f"{error}. It was not written; lower the learning rate"
            ) from None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse weights, and in a resumed run states, that are not finite."""
        file = str(getattr(runner, "_load_from", None) or "that is loaded")
        check_finite(find_state_dict(checkpoint), file)
        if getattr(runner, "_resume", False):
            check_finite({"optimizer": checkpoint.get("optimizer")}, file)

    def _note_losses(self, model: nn.Module, inputs: Any, outputs: Any) -> None:
        if not isinstance(outputs, dict) or not torch.is_grad_enabled():
            return
        losses = {
            name: _mean(value) for name, value in outputs.items() if "loss" in name
        }
        if losses:
            self._losses.append((self._iteration, losses))

    def _step(self, runner: Runner, wrapper: Any, step: Any, **kwargs: Any) -> None:
        self._steps += 1
        if self._steps % self.interval == 0:
            gradients = [] if _is_scaled(wrapper) else list(_gradients_of(wrapper))
            losses = [value for _, row in self._losses for value in row.values()]
            # The sum of very large numbers is infinite, too: then each is looked at.
            if not _agree(_look_at_all(losses, gradients)) and not _agree(
                torch.tensor(all(map(_is_finite, [*losses, *gradients])))
            ):
                self._stop(runner, gradients)
            self._losses, self._images = [], []
        step(**kwargs)

    def _check_rest(self, runner: Runner) -> None:
        """Look at losses since the last check; on one process, without the others."""
        values = [value for _, row in self._losses for value in row.values()]
        if values and not bool(torch.stack(values).isfinite().all()):
            self._stop(runner, [])

    def _stop(self, runner: Runner, gradients: list[Tensor]) -> None:
        losses = [
            (iteration, f"{name} = {float(value):.4g}", _is_finite(value))
            for iteration, row in self._losses
            for name, value in row.items()
        ]
        bad = [iteration for iteration, _, finite in losses if not finite]
        iteration = bad[0] if bad else self._iteration
        shown = [text for at, text, finite in losses if at == iteration and not finite]
        if not bad:  # the gradients alone: the losses may tell where they come from
            shown = [f"{text} (finite)" for at, text, _ in losses if at == iteration]
        parameters = [
            name.removeprefix("module.")
            for name, parameter in runner.model.named_parameters()
            if gradients
            and parameter.grad is not None
            and not _is_finite(_values(parameter.grad))
        ]
        found = [
            _list("losses", shown),
            _list(f"gradients of {len(parameters)} parameters", parameters),
        ]
        if not bad and not parameters:
            found = ["found by another process"]
        # Gradients that were accumulated belong to the images of several batches.
        images = [
            name
            for at, names in self._images
            if at == iteration or not bad
            for name in names
        ]
        message = (
            f"NaN or infinite values at epoch {runner.epoch + 1}, iteration "
            f"{iteration}: {'; '.join(filter(None, found))}; "
            f"{_list('images', images) or 'images without names'}; "
            f"learning rate {_learning_rates(runner)}. The weights are those before "
            "this step, and checkpoints written so far are kept. A lower learning "
            "rate, a longer warm-up, gradient clipping or a look at these images may "
            "help."
        )
        if len(images) > _SHOWN:
            runner.logger.error(f"all images of that batch: {', '.join(images)}")
        runner.logger.error(message)
        for handler in runner.logger.handlers:
            handler.flush()
        raise NonFiniteError(message)


def _list(title: str, names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{title}: {', '.join(names[:_SHOWN])}{rest}" if names else ""


def _wrappers_of(runner: Runner) -> list[OptimWrapper]:
    wrapper: Any = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        return list(wrapper.values())
    return [wrapper]


def _is_scaled(wrapper: Any) -> bool:
    scaler = getattr(wrapper, "loss_scaler", None)
    return scaler is not None and scaler.is_enabled()


def _gradients_of(wrapper: Any) -> Iterator[Tensor]:
    for group in wrapper.optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                yield _values(parameter.grad)


def _values(gradient: Any) -> Tensor:
    """Return the values of a gradient that may be sparse or spread over processes."""
    if hasattr(gradient, "to_local"):
        gradient = gradient.to_local()
    return gradient._values() if gradient.is_sparse else gradient


def _mean(value: Any) -> Tensor:
    """Bring a loss, or the losses of several levels, into one number on its device."""
    if isinstance(value, list | tuple):
        return torch.stack([_mean(item) for item in value]).mean()
    return torch.as_tensor(value).detach().float().mean()


def _is_finite(values: Tensor) -> bool:
    return bool(values.isfinite().all())


def _look_at_all(losses: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """Look at all values at once, without waiting for the device."""
    norms = torch._foreach_norm(gradients) if gradients else ()
    values = [*losses, *(norm.float() for norm in norms)]
    if not values:
        return torch.tensor(True)
    device = values[-1].device
    return torch.stack([value.to(device) for value in values]).sum().isfinite()


def _agree(finite: Tensor) -> bool:
    """Whether it is so on all processes; this waits for the device."""
    flag = finite.to(torch.float32)
    all_reduce(flag, "min")
    return bool(flag)


def _learning_rates(runner: Runner) -> str:
    """All different learning rates of a run in a few characters."""
    rates = {rate for group in runner.optim_wrapper.get_lr().values() for rate in group}
    return " to ".join(f"{rate:.3g}" for rate in sorted({min(rates), max(rates)}))
