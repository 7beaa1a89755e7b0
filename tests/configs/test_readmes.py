"""What each family's README owes who takes a config from it."""

import pytest

from mlp_backbones.config_names import config_dir
from mlp_backbones.factory import families

SENTENCE = (
    "**No config for ImageNet, COCO or ADE20K was ever trained to its end here.** "
    "Only the results on the digit scenes were measured with this package."
)


@pytest.mark.parametrize("family", sorted(families()))
def test_says_once_and_before_any_table_what_was_never_trained(family):
    text = (config_dir() / family / "README.md").read_text()
    introduction, *sections = text.split("\n## ")
    assert SENTENCE in " ".join(introduction.split())
    assert "nobody here has run" not in " ".join(text.split()).lower()
    assert sections
