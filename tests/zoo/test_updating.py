"""Metafiles are brought up to date without losing what was written by hand."""

import pytest
import yaml
from small_zoo import CLASSIFIER, MASK_RCNN, NAMES, RETINANET, SECOND_CLASSIFIER

from dev.zoo.metafile import (
    MetafileError,
    format_metafile,
    parse_metafile,
    read_metafile,
)
from dev.zoo.updating import (
    find_families,
    update_metafile,
    update_model_index,
)
from mlp_backbones.config_names import config_dir

METAFILES = sorted(config_dir().glob("*/metafile.yml"))


def models(zoo):
    return {model["Name"]: model for model in zoo.read()["Models"]}


@pytest.mark.parametrize("path", METAFILES, ids=lambda path: path.parent.name)
def test_a_file_survives_reading_and_writing(path):
    text = path.read_text()
    assert format_metafile(read_metafile(path)) == text
    assert text.startswith("# Format: model-index")


def test_all_that_a_file_says_is_kept_in_another_order_of_keys(zoo):
    content = zoo.read()
    text = yaml.safe_dump(content, sort_keys=True)
    written = yaml.safe_load(format_metafile(parse_metafile(text)))
    assert written == content
    assert list(written["Models"][0]) == list(content["Models"][0])


def test_entries_that_are_missing_come_back_as_they_were(zoo):
    """The lost entries were made before this tool was; weights are of the class."""
    before = models(zoo)
    content = zoo.read()
    lost = (SECOND_CLASSIFIER, MASK_RCNN)
    content["Models"] = [m for m in content["Models"] if m["Name"] not in lost]
    zoo.write(content)
    update = update_metafile(zoo.family)
    assert set(update.added) == set(lost)
    assert update.changed == update.dropped == ()
    for name in lost:
        before[name].pop("Results", None)  # nobody but a person knows them
    assert models(zoo) == before
    assert zoo.check() == []


def test_an_update_of_what_is_in_order_changes_nothing(zoo):
    update_metafile(zoo.family)
    text = zoo.metafile.read_text()
    update = update_metafile(zoo.family)
    assert not update.rewritten
    assert zoo.metafile.read_text() == text
    assert [m["Name"] for m in zoo.read()["Models"]] == list(NAMES)


def test_counts_are_refreshed_and_facts_kept(zoo):
    right = models(zoo)
    content = zoo.read()
    for model in content["Models"]:
        model["Metadata"]["Parameters"] += 1
        model["Metadata"]["Batch Size"] = 7
        model["Metadata"]["Paper FLOPs"] = "9.9G"
    content["Models"][0]["Metadata"]["FLOPs"] = 7
    zoo.write(content)
    zoo.metafile.write_text("# By hand.\n# Two lines.\n" + zoo.metafile.read_text())
    counted = []
    update = update_metafile(zoo.family, progress=counted.append)
    assert set(update.changed) == set(NAMES)
    assert counted == [CLASSIFIER, SECOND_CLASSIFIER]
    assert zoo.metafile.read_text().startswith("# By hand.\n# Two lines.\nColl")
    for model in right.values():
        model["Metadata"]["Paper FLOPs"] = "9.9G"
    assert models(zoo) == right


def test_multiply_adds_are_counted_anew_only_where_asked(zoo):
    content = zoo.read()
    right = content["Models"][0]["Metadata"]["FLOPs"]
    content["Models"][0]["Metadata"]["FLOPs"] = 7
    zoo.write(content)
    update_metafile(zoo.family)
    assert models(zoo)[CLASSIFIER]["Metadata"]["FLOPs"] == 7
    update_metafile(zoo.family, recount=True)
    assert models(zoo)[CLASSIFIER]["Metadata"]["FLOPs"] == right


def test_an_entry_is_only_dropped_where_asked(zoo):
    (zoo.family / f"{RETINANET}.py").unlink()
    text = zoo.metafile.read_text()
    with pytest.raises(ValueError, match=f"{RETINANET} has no config.*--prune"):
        update_metafile(zoo.family)
    assert zoo.metafile.read_text() == text
    assert update_metafile(zoo.family, prune=True).dropped == (RETINANET,)
    assert RETINANET not in models(zoo)


def test_two_entries_of_a_config_are_refused(zoo):
    content = zoo.read()
    content["Models"].append(content["Models"][2])
    zoo.write(content)
    with pytest.raises(ValueError, match=f"{RETINANET} has two entries"):
        update_metafile(zoo.family)


def test_a_comment_that_would_be_lost_is_refused(zoo):
    zoo.metafile.write_text(zoo.metafile.read_text() + "  # by hand\n")
    with pytest.raises(MetafileError, match="'# by hand'"):
        update_metafile(zoo.family)


def test_a_config_that_cannot_be_counted_is_named(zoo):
    (zoo.family / f"{RETINANET}.py").write_text("x = 1\n")
    text = zoo.metafile.read_text()
    with pytest.raises(ValueError, match=rf"{RETINANET}\.py: AttributeError: .*"):
        update_metafile(zoo.family)
    assert zoo.metafile.read_text() == text


def test_an_unknown_family_is_refused(zoo):
    assert find_families(zoo.config_dir) == [zoo.family]
    assert find_families(zoo.config_dir, ["cyclemlp"]) == [zoo.family]
    with pytest.raises(ValueError, match="'as_mlp'.*there are cyclemlp"):
        find_families(zoo.config_dir, ["as_mlp"])


def test_a_new_family_begins_with_its_collection_alone(zoo):
    content = zoo.read()
    names = {model["Name"] for model in content["Models"]}
    zoo.write({"Collections": content["Collections"], "Models": []})
    text = format_metafile(read_metafile(zoo.metafile))
    assert yaml.safe_load(text) == zoo.read()
    assert set(update_metafile(zoo.family).added) == names
    assert zoo.check() == []
    zoo.metafile.unlink()
    with pytest.raises(FileNotFoundError, match="begin it with .*Collections"):
        update_metafile(zoo.family)


def test_the_model_index_lists_every_metafile(zoo):
    zoo.model_index.write_text("Import: []\n")
    assert update_model_index(zoo.config_dir)
    assert not update_model_index(zoo.config_dir)
    assert zoo.check() == []
    zoo.model_index.unlink()
    assert update_model_index(zoo.config_dir)
    assert zoo.model_index.read_text() == (
        "Import:\n  - configs/cyclemlp/metafile.yml\n"
    )
