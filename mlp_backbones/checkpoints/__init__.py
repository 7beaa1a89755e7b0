"""Reading weights that others have published, safely and without silent losses."""

from mlp_backbones.checkpoints.layout import CheckpointLayout
from mlp_backbones.checkpoints.load import CheckpointError, load_pretrained
from mlp_backbones.checkpoints.read import read_checkpoint

__all__ = [
    "CheckpointError",
    "CheckpointLayout",
    "load_pretrained",
    "read_checkpoint",
]
