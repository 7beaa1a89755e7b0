"""What a module derives from its weights, kept in evaluation."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mlp_backbones.ops.dispatch import is_compiling

_MAX_CACHED_GRIDS = 2


class WeightCache:
    """What a module derives from its weights, kept while they stay as they are.

    Only evaluation without gradients keeps anything. The module must call
    :meth:`clear` where weights can change unseen (see :class:`CachingModule`); changes
    in place, such as an optimizer's, are seen.

    Args:
        size: How many values are kept; the ones used longest ago go first.
    """

    def __init__(self, size: int = _MAX_CACHED_GRIDS) -> None:
        self.size = size
        self._values: OrderedDict[Hashable, tuple[Any, Any, Any]] = OrderedDict()

    def get(self, module: nn.Module, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return ``compute()``, or what it gave the last time for these weights."""
        if module.training or torch.is_grad_enabled() or is_compiling():
            return compute()
        # aliases keep the memory of the weights: else a new tensor at the same address
        # would pass for the old one
        weights = [parameter.detach() for parameter in module.parameters()]
        state = [_state(weight) for weight in weights]
        if not state or None in state:  # replicas of DataParallel own no parameters
            return compute()
        # other threads may use this module: nothing is looked up twice
        _, known, value = self._values.pop(key, (None, None, None))
        if known != state:
            value = compute()
        self._values[key] = (weights, state, value)
        while len(self._values) > self.size:
            self._values.popitem(last=False)
        return value

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()

    def __len__(self) -> int:
        return len(self._values)

    def __getstate__(self) -> dict[str, Any]:
        return {"size": self.size}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["size"])  # type: ignore[misc]


def _state(weight: Tensor) -> Hashable | None:
    """Return what changes with a weight, or None where nothing tells."""
    if weight.is_inference():  # changes in place are not counted
        return None
    try:
        address = weight.data_ptr()
    except RuntimeError:  # under vmap there is none
        return None
    return address, weight._version, weight.dtype, weight.device


class CachingModule(nn.Module):
    """A module with a :class:`WeightCache` that forgets whenever weights may change.

    It forgets when the mode is switched (which MMEngine does before each validation,
    after it has put averaged weights in place), when weights are loaded, and when they
    are moved or cast.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cache = WeightCache()

    def train(self, mode: bool = True) -> "CachingModule":
        """Switch the mode, and forget what was derived from the weights."""
        self.cache.clear()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.cache.clear()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.cache.clear()
        super()._load_from_state_dict(*args, **kwargs)
