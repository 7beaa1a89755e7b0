"""Where a training's scalars go besides its work folder: ``--vis``."""

import importlib.util
from collections.abc import Sequence

from mmengine.config import Config, ConfigDict

from mlp_backbones.engine.errors import UserError
from mlp_backbones.engine.pictures import VISUALIZER_TYPES

BACKENDS = {"tensorboard": "TensorboardVisBackend", "wandb": "WandbVisBackend"}


def add_vis_backends(config: Config, names: Sequence[str]) -> None:
    """Let the visualizer of a config write to TensorBoard or Weights & Biases as well.

    Args:
        config: The config, changed in place.
        names: Keys of ``BACKENDS``.

    Raises:
        UserError: If a package is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"--vis {name} needs the package {name}: pip install {name}, or "
                f"mlp_backbones[{name}]",
                exit_code=1,
            )
    if not names:
        return
    visualizer = config.get("visualizer") or ConfigDict(
        type=VISUALIZER_TYPES[config.default_scope]
    )
    backends = list(visualizer.get("vis_backends") or [{"type": "LocalVisBackend"}])
    known = {str(one.get("type")).rpartition(".")[2] for one in backends}
    for name in dict.fromkeys(names):
        if BACKENDS[name] not in known:
            backends.append({"type": BACKENDS[name]})
    visualizer.vis_backends = [ConfigDict(one) for one in backends]
    config.visualizer = visualizer
