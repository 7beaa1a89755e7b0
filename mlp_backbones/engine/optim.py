"""Optimizer wrappers and constructors that serve every backbone and task."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.runner.amp import autocast
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mlp_backbones.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16, on GPUs and on CPUs.

    bfloat16 has the range of float32 and so needs no loss scaling; MMEngine's
    ``AmpOptimWrapper`` always scales and refuses to run without a GPU. The arguments
    are those of MMEngine's ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass of ``model`` under autocast."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Learning rates that fall from the head to the stem of the backbone.

    A backbone parameter of layer ``i`` of ``n`` gets the learning rate
    ``lr * layer_decay_rate ** (n - i - 1)`` (BEiT, arXiv 2106.08254, section 3.2); what
    is outside the backbone (neck, heads) keeps ``lr``. The depth comes from
    ``model.backbone.get_layer_depth(name, prefix)``, mmpretrain's convention.
    mmpretrain's own constructor asks the whole model for it and so works for
    classifiers only; here detectors and segmentors are served as well.

    ``paramwise_cfg`` may hold ``layer_decay_rate`` (in (0, 1]), ``norm_decay_mult``,
    ``bias_decay_mult``, ``flat_decay_mult`` (all one-dimensional parameters) and
    ``custom_keys`` with ``lr_mult`` and ``decay_mult``, which multiply what the other
    rules give. Parameters with equal settings share one group.

    Raises:
        ValueError: If a key of ``paramwise_cfg`` is unknown or a rate outside (0, 1].
        TypeError: If the backbone has no ``get_layer_depth``.
    """

    allowed = (
        "layer_decay_rate",
        "norm_decay_mult",
        "bias_decay_mult",
        "flat_decay_mult",
        "custom_keys",
    )

    def add_params(self, params: list[dict], module: nn.Module, **kwargs: Any) -> None:
        """Append one group for each setting that occurs in ``module``."""
        unknown = sorted(set(self.paramwise_cfg) - set(self.allowed))
        if unknown:
            raise ValueError(
                f"unknown paramwise_cfg key {unknown[0]!r}, allowed: "
                f"{', '.join(self.allowed)}"
            )
        rate = self.paramwise_cfg.get("layer_decay_rate", 1.0)
        if not 0 < rate <= 1:
            raise ValueError(f"layer_decay_rate must be in (0, 1], got {rate!r}")
        backbone = getattr(module, "backbone", None)
        if not callable(getattr(backbone, "get_layer_depth", None)):
            raise TypeError(
                f"layer-wise decay needs model.backbone.get_layer_depth, which "
                f"{type(backbone).__name__} does not have"
            )

        groups: dict[tuple, dict] = {}
        seen: set[int] = set()
        for prefix, child in module.named_modules():
            for name, parameter in child.named_parameters(prefix, recurse=False):
                # A parameter shared by two modules must reach the optimizer once.
                if not parameter.requires_grad or id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                layer, lr_mult = self._depth(backbone, name, rate)
                decay_mult = self._decay_multiplier(child, name, parameter)
                custom = self._custom(name)
                lr_mult *= custom.get("lr_mult", 1.0)
                decay_mult *= custom.get("decay_mult", 1.0)
                group = groups.setdefault(
                    (layer, lr_mult, decay_mult),
                    {
                        "params": [],
                        "lr": self.base_lr * lr_mult,
                        "lr_scale": lr_mult,
                        "layer_id": layer,
                    },
                )
                if self.base_wd is not None:
                    group["weight_decay"] = self.base_wd * decay_mult
                group["params"].append(parameter)
        params.extend(groups.values())
        _log_groups(params)

    def _depth(self, backbone: Any, name: str, rate: float) -> tuple[int, float]:
        """Layer of a parameter and the factor of its learning rate."""
        if not name.startswith("backbone."):
            return -1, 1.0
        layer, num_layers = backbone.get_layer_depth(name, "backbone.")
        return layer, rate ** (num_layers - layer - 1)

    def _decay_multiplier(
        self, module: nn.Module, name: str, parameter: nn.Parameter
    ) -> float:
        settings = self.paramwise_cfg
        if isinstance(module, _NORMS) and "norm_decay_mult" in settings:
            return settings["norm_decay_mult"]
        if name.endswith(".bias") and "bias_decay_mult" in settings:
            return settings["bias_decay_mult"]
        if parameter.ndim == 1 and "flat_decay_mult" in settings:
            return settings["flat_decay_mult"]
        return 1.0

    def _custom(self, name: str) -> dict:
        """Settings of the longest custom key that occurs in a name."""
        keys = self.paramwise_cfg.get("custom_keys", {})
        matching = [key for key in keys if key in name]
        return keys[max(matching, key=lambda key: (len(key), key))] if matching else {}


def _log_groups(groups: list[dict]) -> None:
    logger = MMLogger.get_current_instance()
    for group in groups:
        logger.debug(
            f"layer {group['layer_id']}: lr {group['lr']:.3g}, weight decay "
            f"{group.get('weight_decay', 0):.3g}, {len(group['params'])} parameters"
        )
