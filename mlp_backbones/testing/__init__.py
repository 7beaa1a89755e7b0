"""What this package's tests and its users' tests share."""

from mlp_backbones.testing.contract import check_backbone

__all__ = ["check_backbone"]
