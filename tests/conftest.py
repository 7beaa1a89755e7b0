"""What all tests share: threads, seeds and the way to the reference cases."""

import os
from pathlib import Path

import pytest
import shipped_configs
import torch
from reference_cases import find_data_dir, find_reference_dir

# two xdist workers with two threads each crawl on two cores
torch.set_num_threads(1)
shipped_configs.read_bases_once()


# Files that take minutes in one piece, the longest first: `make test` gives each file
# to one process, so that its fixtures train, build wheels, make environments once.
LONG = (
    "test_mim",
    "test_setup",
    "test_tools",
    "test_step",
    "test_metafile",
    "test_contract",
    "test_openmmlab_tools",
    "test_example",
    "test_misc_tools",
    "test_inference",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the long files, so that no process waits for one in the end."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


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
