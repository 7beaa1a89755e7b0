"""Models of configs, outside a runner."""

from contextlib import nullcontext
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict
from torch.overrides import TorchFunctionMode

from mlp_backbones.checkpoints.compare import (
    CheckpointMismatchError,
    compare_state_dicts,
    find_state_dict,
)
from mlp_backbones.checkpoints.plain import check_finite

__all__ = ["build_model", "count_parameters"]


def build_model(
    config: Config,
    *,
    checkpoint: str | None = None,
    device: str | None = None,
    init: bool = False,
) -> BaseModel:
    """Build the model of a config as MMEngine's runner does without distribution.

    Args:
        config: A whole detection, segmentation or classification config.
        checkpoint: Weights that must fit in every name and shape, or None.
        device: Where the model is made; ``meta`` takes no memory. None means torch's
            own choice.
        init: Whether to initialise the weights as the config says. If not, they are
            as the constructors leave them, and no ``init_cfg`` is carried out.

    Returns:
        The model, in training mode.

    Raises:
        CheckpointMismatchError: If the weights do not fit.
        CheckpointError: If a file cannot be read, or weights are NaN or infinite.
        ValueError: If a model without memory should have weights.
    """
    if device == "meta" and (init or checkpoint is not None):
        raise ValueError(
            "a model on the meta device has no weights: "
            f"checkpoint must be None and init False, got {checkpoint!r} and {init}"
        )
    settings = ConfigDict(config.model.to_dict())
    preprocessor = config.get("data_preprocessor")
    if preprocessor is not None:
        settings.setdefault("data_preprocessor", preprocessor)
    with (
        DefaultScope.overwrite_default_scope(config.default_scope),
        nullcontext() if device is None else torch.device(device),
        _SkipMetaInitialisation() if device == "meta" else nullcontext(),
    ):
        model = revert_sync_batchnorm(MODELS.build(settings))
        if init:
            model.init_weights()
    if checkpoint is not None:
        loaded = CheckpointLoader.load_checkpoint(checkpoint, "cpu")
        mismatches = compare_state_dicts(model, loaded)
        if mismatches:
            raise CheckpointMismatchError(mismatches.describe(checkpoint))
        check_finite(find_state_dict(loaded), checkpoint)
        load_state_dict(model, find_state_dict(loaded), strict=True)
    return model


def count_parameters(config: Config) -> int:
    """Count the parameters of a config's whole model, without allocating them.

    Args:
        config: A whole detection, segmentation or classification config.
    """
    model = build_model(config, device="meta")
    return sum(parameter.numel() for parameter in model.parameters())


class _SkipMetaInitialisation(TorchFunctionMode):
    """Leave out the filling of tensors that hold no values, a third of the time."""

    functions = frozenset(
        {"add_", "clamp_", "erfinv_", "fill_", "mul_", "normal_", "uniform_", "zero_"}
    )

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in self.functions:
            tensor = args[0] if args else kwargs["tensor"]  # torch.nn.init's name
            if tensor.is_meta:
                return tensor
        return func(*args, **(kwargs or {}))
