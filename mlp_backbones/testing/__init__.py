"""What this package's tests and its users' tests share."""

from mlp_backbones.testing.contract import check_backbone
from mlp_backbones.testing.folders import find_data_dir, find_reference_dir
from mlp_backbones.testing.reference import ReferenceCase, load_reference_case

__all__ = [
    "ReferenceCase",
    "check_backbone",
    "find_data_dir",
    "find_reference_dir",
    "load_reference_case",
]
