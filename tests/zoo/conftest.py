"""What the tests of the zoo share."""

import pytest
import small_zoo


@pytest.fixture
def zoo(tmp_path):
    return small_zoo.make_zoo(tmp_path)
