"""What all tests share: threads, seeds and the way to the reference cases."""

import os
from pathlib import Path

import pytest
import torch
from reference_cases import find_data_dir, find_reference_dir

# two xdist workers with two threads each crawl on two cores
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _require(folder: Path | None, what: str) -> Path:
    if folder is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs the {what}, and they were not found")
        pytest.skip(f"the {what} are not here")
    return folder


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Return the folder of reference cases; in CI their absence is a failure."""
    return _require(find_reference_dir(), "reference cases")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of small real data sets; in CI their absence is a failure."""
    return _require(find_data_dir(), "small real data sets")
