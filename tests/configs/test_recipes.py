"""The tables of docs/recipes.md against the configs."""

import re
from functools import cache

import pytest
import shipped_configs

from mlp_backbones.config_names import find_configs, parse_config_name
from mlp_backbones.factory import families

CONFIG_DIR = shipped_configs.CONFIG_DIR
DOCUMENT = CONFIG_DIR.parent / "docs" / "recipes.md"
# Columns of the table of stochastic depth.
DROP_PATH_COLUMNS = {
    "classifier": "ImageNet-1k",
    "retinanet": "COCO 1x",
    "mask-rcnn-1x": "COCO 1x",
    "mask-rcnn-3x": "COCO 3x",
    "fpn": "Semantic FPN",
    "upernet": "UperNet",
}


@cache
def _titles():
    """Map the titles of the families' READMEs to their names."""
    return {
        (CONFIG_DIR / family / "README.md")
        .read_text()
        .splitlines()[0]
        .removeprefix("# "): family
        for family in families()
    }


def _parse(text, key):
    """Read the Markdown table of a key as a list of rows by column."""
    match = re.search(rf"<!-- recipes: {key} -->\n(.*?)<!-- /recipes -->", text, re.S)
    assert match, f"{DOCUMENT.name} has no table {key}"
    lines = match[1].strip().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    header, _, *rows = cells
    assert all(len(row) == len(header) for row in rows), key
    return [dict(zip(header, row, strict=True)) for row in rows]


@cache
def _tables():
    text = DOCUMENT.read_text()
    return {
        key: _parse(text, key) for key in (*DROP_PATH_COLUMNS, "drop-path", "sources")
    }


def _find_row(rows, family, size):
    """Find the one row whose first cell names a family, with this size or none."""
    title = {name: title for title, name in _titles().items()}[family]
    found = []
    for row in rows:
        for entry in row["Families"].split(", "):
            sizes = re.findall(r"`([^`]+)`", entry)
            if entry.split(" `")[0] == title and (not sizes or size in sizes):
                found.append(row)
    assert len(found) == 1, f"{title} {size} stands in {len(found)} rows"
    return found[0]


def _drop_path(cell, size):
    """Read `0; `a` `b` 0.1` or the like for one size."""
    rates = {}
    for part in re.split(r"[;,] ?", cell):
        *sizes, rate = part.split()
        rates.update(dict.fromkeys(sizes or ["all"], float(rate)))
    return rates[f"`{size}`" if f"`{size}`" in rates else "all"]


def _key(name):
    if name.head == "mask-rcnn":
        return f"mask-rcnn-{name.schedule}"
    return name.head or "classifier"


def _types(pipeline):
    return [step.type for step in pipeline]


def _length_of_warm_up(config):
    *warm_up, _ = config.param_scheduler
    return warm_up[0].end if warm_up else 0


def _extras(config):
    wrapper = config.optim_wrapper
    steps = _types(config.train_dataloader.dataset.pipeline)
    clip = wrapper.get("clip_grad")
    average = [hook for hook in config.custom_hooks if hook.type == "EMAHook"]
    assert all(hook.momentum == pytest.approx(1 - 0.99996) for hook in average)
    extras = {
        f"clip {clip.max_norm:g}" if clip else None: clip is not None,
        "repeated augmentation": config.train_dataloader.sampler.type
        == "RepeatAugSampler",
        "AutoAugment": "AutoAugment" in steps,
        "no erasing": "RandomErasing" not in steps,
        "EMA": bool(average),
    }
    assert ("RandAugment" in steps) != ("AutoAugment" in steps)
    return {name for name, present in extras.items() if present}


def _check_classifier(config, row):
    optimizer = config.optim_wrapper.optimizer
    assert row["Optimizer"].lower() == optimizer.type.lower()
    assert int(row["Warm-up, epochs"]) == _length_of_warm_up(config)
    assert int(row["Epochs"]) == config.train_cfg.max_epochs
    for loader in (config.val_dataloader, config.test_dataloader):
        _, resize, crop, _ = loader.dataset.pipeline
        assert resize.scale == int(row["Test at"]) and resize.edge == "short"
        assert crop.crop_size == 224
    also = row["Also"]
    assert _extras(config) == (set() if also == "-" else set(also.split(", ")))
    curve = config.param_scheduler[-1]
    assert (curve.type, curve.eta_min) == ("CosineAnnealingLR", 1e-5)
    assert config.optim_wrapper.paramwise_cfg == {
        "flat_decay_mult": 0.0,
        "custom_keys": {"pos_embed": {"decay_mult": 0.0}},
    }
    assert config.model.head.loss.label_smooth_val == 0.1
    augments = {a.type: a.alpha for a in config.model.train_cfg.augments}
    assert augments == {"Mixup": 0.8, "CutMix": 1.0}


def _check_dense(config, row):
    wrapper = config.optim_wrapper
    assert wrapper.optimizer.type == "AdamW"
    assert wrapper.get("clip_grad") is None
    spared = (wrapper.get("paramwise_cfg") or {}).get("custom_keys", {})
    assert ("norms" if "norm" in spared else "none") == row["Not decayed"]
    assert int(row["Warm-up, steps"]) == _length_of_warm_up(config)
    assert config.model.neck.out_channels == 256 if "neck" in config.model else True


def _check_detector(config, row):
    _check_dense(config, row)
    assert int(row["Epochs"]) == config.train_cfg.max_epochs
    curve = config.param_scheduler[-1]
    assert (curve.type, curve.gamma) == ("MultiStepLR", 0.1)
    assert " and ".join(map(str, curve.milestones)) == row["Rate x 0.1 after"]
    pipeline = config.train_dataloader.dataset.pipeline
    (resize,) = [step for step in pipeline if "Resize" in step.type]
    scales = resize.get("scales") or [resize.scale]
    assert {longer for longer, _ in scales} == {1333} and resize.keep_ratio
    low, *_, high = sorted(shorter for _, shorter in [*scales, *scales])
    assert (f"{low}-{high}" if low != high else str(low)) == row["Shorter side"]
    test_resize = config.test_dataloader.dataset.pipeline[1]
    assert tuple(test_resize.scale) == (1333, 800)
    assert (config.get("sync_bn") == "torch") == (
        row["Synchronised batch norms"] == "yes"
    )
    # RetinaNet starts at stride 8 and Mask R-CNN at 4, both with five levels.
    is_retinanet = config.model.type == "RetinaNet"
    levels = (1, 2, 3) if is_retinanet else (0, 1, 2, 3)
    assert tuple(config.model.backbone.out_indices) == levels
    assert config.model.neck.get("start_level", 0) == 0
    assert config.model.neck.num_outs == 5


def _check_segmentor(config, row):
    _check_dense(config, row)
    assert int(row["Steps"]) == config.train_cfg.max_iters
    curve = config.param_scheduler[-1]
    assert (curve.type, curve.eta_min) == ("PolyLR", 0.0)
    assert float(row["Power"]) == curve.power
    everywhere = config.get("sync_bn") == "torch"
    assert row["Synchronised batch norms"] == ("all" if everywhere else "heads")
    assert config.model.decode_head.norm_cfg.type == "SyncBN"
    assert config.model.test_cfg == {"mode": "whole"}
    assert tuple(config.model.backbone.out_indices) == (0, 1, 2, 3)
    if "auxiliary_head" in config.model:
        assert config.model.auxiliary_head.in_index == 2


CHECKS = {
    "classifier": _check_classifier,
    "retinanet": _check_detector,
    "mask-rcnn-1x": _check_detector,
    "mask-rcnn-3x": _check_detector,
    "fpn": _check_segmentor,
    "upernet": _check_segmentor,
}


def _papers_configs():
    return [
        path for path in find_configs(CONFIG_DIR) if "digit-scenes" not in path.stem
    ]


@pytest.mark.parametrize("path", _papers_configs(), ids=lambda path: path.stem)
def test_the_document_states_what_the_config_does(path):
    name, config = parse_config_name(path), shipped_configs.read(path)
    key, family = _key(name), path.parent.name
    row = _find_row(_tables()[key], family, name.size)
    optimizer = config.optim_wrapper.optimizer
    assert float(row["Rate"]) == optimizer.lr
    assert float(row["Decay"]) == optimizer.weight_decay
    images = config.auto_scale_lr.base_batch_size
    images *= config.optim_wrapper.get("accumulative_counts", 1)
    assert int(row["Images a step"]) == images
    CHECKS[key](config, row)

    (rates,) = [
        row for row in _tables()["drop-path"] if _titles()[row["Family"]] == family
    ]
    stated = _drop_path(rates[DROP_PATH_COLUMNS[key]], name.size)
    assert stated == config.model.backbone.get("drop_path_rate", 0.0)


def test_every_entry_of_the_document_has_a_config():
    names = {}
    for path in _papers_configs():
        name = parse_config_name(path)
        names.setdefault((_key(name), path.parent.name), set()).add(name.size)
    for key in DROP_PATH_COLUMNS:
        for row in _tables()[key]:
            for entry in row["Families"].split(", "):
                family = _titles()[entry.split(" `")[0]]
                sizes = set(re.findall(r"`([^`]+)`", entry))
                assert names.get((key, family), set()) >= (sizes or {*()}), entry
                assert (key, family) in names, entry


def test_every_family_says_where_its_recipes_come_from():
    stated = {
        (_titles()[row["Family"]], data_set)
        for row in _tables()["sources"]
        for data_set in row["Data set"].split(", ")
        if row["Source"] and row["What deviates or was filled in"]
    }
    assert stated == {
        (family, data_set)
        for family in families()
        for data_set in ("ImageNet-1k", "COCO", "ADE20K")
    }


def test_a_stale_number_is_found():
    row = {"Families": "CycleMLP", "Rate": "1e-3"}
    assert _find_row([row], "cyclemlp", "b1") is row
    with pytest.raises(AssertionError, match="stands in 2 rows"):
        _find_row([row, {**row, "Families": "CycleMLP `b1`"}], "cyclemlp", "b1")
    with pytest.raises(AssertionError, match="stands in 0 rows"):
        _find_row([{**row, "Families": "CycleMLP `b2`"}], "cyclemlp", "b1")
    assert _drop_path("0; `a` `b` 0.2, `c` 0.1", "b") == 0.2
    assert _drop_path("0; `a` `b` 0.2, `c` 0.1", "d") == 0
