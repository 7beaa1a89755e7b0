"""No family lacks a config that the zoo promises; what is demanded is derived."""

import json
import math
from functools import cache

import pytest
from reference_cases import find_reference_folder

from dev.zoo.metafile import read_metafile
from dev.zoo.naming import spell_size
from mlp_backbones.config_names import config_dir, find_configs, parse_config_name
from mlp_backbones.factory import families, get_family

FAMILIES = sorted(families())
DENSE = ("retinanet", "mask-rcnn", "fpn", "upernet")
COCO, ADE20K = "coco", "ade20k-512x512"

# The dense results of the papers and their releases, Cascade Mask R-CNN left out:
# (head, 3x or not) to the sizes.
REPORTED = {
    "as_mlp": {
        ("mask-rcnn", False): "tiny small",
        ("mask-rcnn", True): "tiny small",
        ("upernet", False): "tiny small base",
    },
    "convmlp": {
        ("retinanet", False): "s m l",
        ("mask-rcnn", False): "s m l",
        ("fpn", False): "s m l",
    },
    "cyclemlp": {
        ("retinanet", False): "b1 b2 b3 b4 b5",
        ("mask-rcnn", False): "b1 b2 b3 b4 b5",
        ("fpn", False): "b1 b2 b3 b4 b5",
    },
    "gfnet": {("fpn", False): "h_ti h_s h_b"},
    "hire_mlp": {
        ("retinanet", False): "small base large",
        ("mask-rcnn", False): "small base large",
        ("mask-rcnn", True): "small base",
        ("upernet", False): "small base large",
    },
    "ms_mlp": {
        ("retinanet", False): "tiny small base",
        ("mask-rcnn", False): "tiny small base",
        ("mask-rcnn", True): "tiny small base",
        ("upernet", False): "tiny small base",
    },
    "wave_mlp": {
        ("retinanet", False): "t s m b",
        ("mask-rcnn", False): "t s m b",
        ("mask-rcnn", True): "t s m",
        ("fpn", False): "t s m",
    },
}
# The sheet of CycleMLP has no 3x result; these are ours.
OURS = {"cyclemlp": {("mask-rcnn", True): "b2 tiny small base"}}
# How the sheets name the same.
SHEET_KEYS = {
    "retinanet_1x": ("retinanet", False),
    "mask_rcnn_1x": ("mask-rcnn", False),
    "mask_rcnn_3x": ("mask-rcnn", True),
    "semantic_fpn": ("fpn", False),
    "upernet": ("upernet", False),
}


@cache
def _names(family):
    return [
        parse_config_name(path)
        for path in find_configs(config_dir())
        if path.parent.name == family
    ]


def _present(family):
    return {
        (name.head, name.size, name.schedule == "3x", name.dataset)
        for name in _names(family)
    }


@cache
def _by_parameters(family):
    """List a family's sizes from the smallest classifier to the largest.

    By the metafile, whose numbers test_step.py compares with the models.
    """
    metafile = read_metafile(config_dir() / family / "metafile.yml")
    counts = {
        parse_config_name(config_dir() / family / f"{model.name}.py").size: (
            model.parameters
        )
        for model in metafile.models
        if model.training_data == "ImageNet-1k"
    }
    sizes = get_family(family).arch_settings
    # One without a classifier is named as missing.
    return sorted(sizes, key=lambda arch: counts.get(spell_size(arch), math.inf))


def _smallest_and_middle(family):
    sizes = _by_parameters(family)
    # Of an even number both neighbours of the middle count.
    return {sizes[0], sizes[(len(sizes) - 1) // 2], sizes[len(sizes) // 2]}


def _dense(head, arch, *, long):
    dataset = COCO if head in ("retinanet", "mask-rcnn") else ADE20K
    return head, arch.replace("_", "-"), long, dataset


def _demanded(family):
    demanded = {
        (None, arch.replace("_", "-"), False, "in1k")
        for arch in get_family(family).arch_settings
    }
    for arch in _smallest_and_middle(family):
        demanded |= {_dense(head, arch, long=False) for head in DENSE}
    for table in (REPORTED, OURS):
        for (head, long), sizes in table.get(family, {}).items():
            demanded |= {_dense(head, arch, long=long) for arch in sizes.split()}
    return demanded


def _readable(entries):
    return sorted(
        f"{head or 'classifier'} of {size}{' 3x' if long else ''} on {dataset}"
        for head, size, long, dataset in entries
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_no_config_of_the_papers_data_sets_is_missing(family):
    assert _readable(_demanded(family) - _present(family)) == []


def test_3x_trains_at_many_scales():
    """Of the four families that the zoo promises it for."""
    with_3x = {family for table in (REPORTED, OURS) for family in _with_3x(table)}
    assert with_3x >= {"as_mlp", "cyclemlp", "hire_mlp", "wave_mlp"}
    for family in with_3x:
        for path in (config_dir() / family).glob("*-3x_coco.py"):
            assert "coco_instance_multi-scale.py" in path.read_text(), path.name


def _with_3x(table):
    return {family for family, rows in table.items() if any(long for _, long in rows)}


def test_the_reported_results_are_those_of_the_sheets(reference_dir):
    found = {}
    for family in FAMILIES:
        sheet = json.loads((find_reference_folder(family) / "paper.json").read_text())
        sheet = {name.replace("_", ""): entry for name, entry in sheet.items()}
        cls = get_family(family)
        rows = {}
        for arch in cls.arch_settings:
            official = cls.official_names.get(arch, "").replace("_", "")
            own = f"{family}_{arch}".replace("_", "")
            entry = sheet.get(own, sheet.get(official, {}))
            for key in [*entry.get("coco", {}), *entry.get("ade20k", {})]:
                if key in SHEET_KEYS:
                    rows.setdefault(SHEET_KEYS[key], set()).add(arch)
        if rows:
            found[family] = rows
    assert found == {
        family: {key: set(sizes.split()) for key, sizes in rows.items()}
        for family, rows in REPORTED.items()
    }


def test_a_missing_config_would_be_named(monkeypatch):
    names = [name for name in _names("cyclemlp") if name.size != "b3"]
    monkeypatch.setitem(globals(), "_names", lambda family: names)
    missing = _readable(_demanded("cyclemlp") - _present("cyclemlp"))
    assert "classifier of b3 on in1k" in missing
    assert "upernet of b3 on ade20k-512x512" in missing
