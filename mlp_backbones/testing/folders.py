"""Where the data that is too large or too unfree for the package may lie."""

import os
from pathlib import Path

_SHARED = Path(__file__).resolve().parents[3] / "shared"


def find_data_dir() -> Path | None:
    """Return the folder of small real data sets, or None if there is none.

    It is the folder that the environment variable ``MLP_BACKBONES_DATA`` names, else
    ``shared/data`` beside the checkout.
    """
    return _existing(os.environ.get("MLP_BACKBONES_DATA"), _SHARED / "data")


def find_reference_dir() -> Path | None:
    """Return the folder of reference cases, or None if there is none.

    It is the folder that the environment variable ``MLP_BACKBONES_REFERENCE`` names,
    else ``shared/reference`` beside the checkout.
    """
    return _existing(os.environ.get("MLP_BACKBONES_REFERENCE"), _SHARED / "reference")


def _existing(named: str | None, default: Path) -> Path | None:
    path = Path(named) if named else default
    return path if path.is_dir() else None
