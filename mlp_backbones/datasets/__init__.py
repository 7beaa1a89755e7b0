"""The embedded data set, checks of data, and loading transforms that use them."""

from mlp_backbones.datasets.checks import DataError, check_data, check_dataset_config
from mlp_backbones.datasets.digit_scenes import DigitScenesOptions, make_digit_scenes
from mlp_backbones.datasets.transforms import CheckAnnotations, LoadImage

__all__ = [
    "CheckAnnotations",
    "DataError",
    "DigitScenesOptions",
    "LoadImage",
    "check_data",
    "check_dataset_config",
    "make_digit_scenes",
]
