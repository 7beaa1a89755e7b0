"""Child registries of MMEngine's, scope ``mlp_backbones``.

MMEngine imports this module by itself when a config names a scoped type such as
``mlp_backbones.CycleMLP``, so no config needs ``custom_imports``. The modules that
register something are imported on the first lookup (``locations``), never at import.
"""

from mmengine import registry as _root
from mmengine.registry import Registry

__all__ = [
    "DATASETS",
    "DATA_SAMPLERS",
    "HOOKS",
    "LOOPS",
    "MODELS",
    "OPTIM_WRAPPERS",
    "OPTIM_WRAPPER_CONSTRUCTORS",
    "TRANSFORMS",
]


def _child(parent: Registry, *locations: str) -> Registry:
    return Registry(
        parent.name,
        parent=parent,
        scope="mlp_backbones",
        locations=[f"mlp_backbones.{location}" for location in locations],
    )


MODELS = _child(_root.MODELS, "backbones", "necks")
DATASETS = _child(_root.DATASETS, "datasets")
TRANSFORMS = _child(_root.TRANSFORMS, "datasets")
DATA_SAMPLERS = _child(_root.DATA_SAMPLERS, "engine.runs.draws")
HOOKS = _child(
    _root.HOOKS,
    "engine.amp",
    "engine.hooks",
    "engine.finite_guard",
    "engine.metrics",
    "engine.runs.checkpoint_hook",
    "engine.runs.stopping",
)
LOOPS = _child(_root.LOOPS, "engine.runs.loops")
OPTIM_WRAPPERS = _child(_root.OPTIM_WRAPPERS, "engine.optim")
OPTIM_WRAPPER_CONSTRUCTORS = _child(_root.OPTIM_WRAPPER_CONSTRUCTORS, "engine.optim")
