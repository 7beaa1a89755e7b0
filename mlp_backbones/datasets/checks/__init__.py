"""Checks of the data a config points at, before and while it is read."""

from mlp_backbones.datasets.checks.classes import (
    Classes,
    compare_classes,
    compare_with_checkpoint,
)
from mlp_backbones.datasets.checks.data import (
    check_data,
    check_dataset_config,
    classes_of,
)
from mlp_backbones.datasets.checks.images import check_image_bytes, check_mask_file
from mlp_backbones.datasets.checks.report import DataError, DataReport, DatasetReport
from mlp_backbones.datasets.checks.samples import DecodeReport, check_samples
from mlp_backbones.datasets.checks.shapes import (
    BOX_TOLERANCE,
    box_problem,
    mask_problem,
)

__all__ = [
    "BOX_TOLERANCE",
    "Classes",
    "DataError",
    "DataReport",
    "DatasetReport",
    "DecodeReport",
    "box_problem",
    "check_data",
    "check_dataset_config",
    "check_image_bytes",
    "check_mask_file",
    "check_samples",
    "classes_of",
    "compare_classes",
    "compare_with_checkpoint",
    "mask_problem",
]
