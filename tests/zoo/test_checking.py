"""Every kind of fault is found, and told in one line with file, entry and value."""

import re

import pytest
from small_zoo import (
    CLASSIFIER,
    MASK_RCNN,
    RETINANET,
    SECOND_CLASSIFIER,
    UPERNET,
)

from dev.zoo.checking import check_model_index, check_zoo
from mlp_backbones.config_names import config_dir


@pytest.mark.slow
def test_this_zoo_as_a_whole_is_in_order():
    """No stray config, no name in two families; the counts are tested by family."""
    assert check_zoo(config_dir(), build=()) == []


def test_a_zoo_in_order_has_no_fault(zoo):
    assert zoo.check(build=None) == []


def entry(content, name):
    return next(model for model in content["Models"] if model["Name"] == name)


def set_metadata(name, **values):
    def break_it(content):
        for key, value in values.items():
            entry(content, name)["Metadata"][key.replace("_", " ")] = value

    return break_it


def drop_metadata(name, key):
    return lambda content: entry(content, name)["Metadata"].pop(key)


def set_result(name, key, value):
    return lambda content: entry(content, name)["Results"][0].update({key: value})


def set_metric(name, metric, value):
    def break_it(content):
        entry(content, name)["Results"][0]["Metrics"][metric] = value

    return break_it


def set_entry(name, key, value):
    return lambda content: entry(content, name).update({key: value})


def set_collection(key, value):
    return lambda content: content["Collections"][0].update({key: value})


def repeat_result(content):
    entry(content, RETINANET)["Results"] *= 2


def repeat_entry(content):
    content["Models"].append(entry(content, RETINANET))


FAULTS = {
    "no entry": (
        lambda content: content["Models"].remove(entry(content, RETINANET)),
        rf"{RETINANET}\.py has no entry",
    ),
    "two entries": (repeat_entry, f"{RETINANET}: has 2 entries"),
    "another path": (
        set_entry(RETINANET, "Config", "configs/cyclemlp/other.py"),
        f"{RETINANET}: Config should be .*{RETINANET}.py, got .*other.py",
    ),
    "another collection": (
        set_entry(RETINANET, "In Collection", "ASMLP"),
        f"{RETINANET}: In Collection should be CycleMLP, got 'ASMLP'",
    ),
    "batch": (
        set_metadata(RETINANET, Batch_Size=32),
        f"{RETINANET}: Batch Size should be 16, got 32",
    ),
    "epochs": (
        set_metadata(RETINANET, Epochs=36),
        f"{RETINANET}: Epochs should be 12, got 36",
    ),
    "iterations": (
        set_metadata(UPERNET, Iterations=80000),
        f"{UPERNET}: Iterations should be 160000, got 80000",
    ),
    "both lengths": (
        set_metadata(RETINANET, Iterations=12),
        f"{RETINANET}: either Epochs or Iterations",
    ),
    "data": (
        set_metadata(RETINANET, Training_Data="ADE20K"),
        f"{RETINANET}: Training Data should be COCO, got 'ADE20K'",
    ),
    "no FLOPs": (drop_metadata(CLASSIFIER, "FLOPs"), f"{CLASSIFIER}: FLOPs is missing"),
    "FLOPs of a detector": (
        set_metadata(RETINANET, FLOPs=7),
        f"{RETINANET}: FLOPs 7: only ImageNet classifiers",
    ),
    "no parameters": (
        drop_metadata(RETINANET, "Parameters"),
        f"{RETINANET}: Parameters is missing",
    ),
    "unknown key": (
        set_metadata(RETINANET, Epoch=12),
        f"{RETINANET}: unknown key 'Epoch', known are .*Epochs",
    ),
    "number as text": (
        set_metadata(RETINANET, Batch_Size="16"),
        f"{RETINANET}: Batch Size should be int, got '16'",
    ),
    "paper's parameters": (
        set_metadata(RETINANET, **{"Paper Parameters": "24.9 million"}),
        f"{RETINANET}: Paper Parameters should read like 24.9M .*'24.9 million'",
    ),
    "source": (
        set_result(RETINANET, "Source", "somewhere"),
        f"{RETINANET}: Results: Source should be one of .*'somewhere'",
    ),
    "no source": (
        lambda content: entry(content, RETINANET)["Results"][0].pop("Source"),
        f"{RETINANET}: Results: Source is missing",
    ),
    "task": (
        set_result(RETINANET, "Task", "Instance Segmentation"),
        f"{RETINANET}: Results: Instance Segmentation: Task should be Object Detection",
    ),
    "dataset": (
        set_result(RETINANET, "Dataset", "LVIS"),
        f"{RETINANET}: .*Dataset should be COCO, got 'LVIS'",
    ),
    "metric": (
        set_metric(RETINANET, "AP", 38.6),
        f"{RETINANET}: .*unknown metric 'AP', known are box AP",
    ),
    "metric as text": (
        set_metric(RETINANET, "box AP", "38.6"),
        f"{RETINANET}: Results: box AP should be a number, got '38.6'",
    ),
    "no metrics": (
        set_result(RETINANET, "Metrics", {}),
        f"{RETINANET}: Results: Metrics is empty",
    ),
    "beyond percent": (
        set_metric(RETINANET, "box AP", 386),
        f"{RETINANET}: .*box AP should be in percent, got 386",
    ),
    "no number": (
        set_metric(RETINANET, "box AP", float("nan")),
        f"{RETINANET}: .*box AP should be in percent, got nan",
    ),
    "minutes of a paper": (
        set_metric(RETINANET, "Minutes", 5),
        f"{RETINANET}: .*unknown metric 'Minutes'",
    ),
    "twice": (repeat_result, f"{RETINANET}: .*stands there twice from paper"),
    "weights": (
        set_entry(CLASSIFIER, "Weights", "https://example.org/b1.pth"),
        f"{CLASSIFIER}: Weights should be https://github.com/.*, got .*example.org",
    ),
    "no weights": (
        lambda content: entry(content, CLASSIFIER).pop("Weights"),
        f"{CLASSIFIER}: Weights should be https://github.com/.*, got None",
    ),
    "weights of a detector": (
        set_entry(RETINANET, "Weights", "https://example.org/b1.pth"),
        f"{RETINANET}: Weights should be left out, got",
    ),
    "class": (set_collection("Name", "Cycle"), "Cycle: the class is CycleMLP"),
    "paper's address": (
        set_collection("Paper", {"URL": "2107.10224", "Title": "CycleMLP"}),
        "CycleMLP: Paper URL should be an address, got '2107.10224'",
    ),
    "paper's title": (
        set_collection("Paper", {"URL": "https://arxiv.org/abs/2107.10224"}),
        "CycleMLP: Title is missing",
    ),
    "architecture": (
        set_collection("Metadata", {"Architecture": [], "Weight": ""}),
        "CycleMLP: Architecture is empty",
    ),
    "part of the architecture": (
        set_collection("Metadata", {"Architecture": ["MLP", 1], "Weight": ""}),
        "CycleMLP: Architecture should hold texts, got 1",
    ),
    "no weight of a collection": (
        set_collection("Metadata", {"Architecture": ["MLP"]}),
        "CycleMLP: Weight should be '', got None",
    ),
    "weight of a collection": (
        set_collection("Metadata", {"Architecture": ["MLP"], "Weight": "b1.pth"}),
        "CycleMLP: Weight should be '', got 'b1.pth'",
    ),
    "README": (
        set_collection("README", "configs/as_mlp/README.md"),
        "CycleMLP: README should be configs/cyclemlp/README.md, got .*as_mlp",
    ),
    "code": (
        set_collection("Code", {"URL": "somewhere"}),
        "CycleMLP: Code URL is neither .* got 'somewhere'",
    ),
    "no code": (
        lambda content: content["Collections"][0].pop("Code"),
        "CycleMLP: Code is missing",
    ),
}


@pytest.mark.parametrize(("break_it", "line"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_metafile_is_told(zoo, break_it, line):
    content = zoo.read()
    break_it(content)
    zoo.write(content)
    problems = zoo.check()
    found = [p for p in problems if re.search(line, p)]
    assert found, problems
    assert found[0].startswith(f"{zoo.metafile}: ")
    # Another collection's name or a missing key is a fault of all entries.
    alone = content["Collections"][0]["Name"] == "CycleMLP"
    assert len(problems) == 1 or not alone, problems
    assert all("\n" not in problem for problem in problems)


@pytest.mark.parametrize(
    ("key", "name", "factor", "is_fault"),
    [
        ("Parameters", MASK_RCNN, 1.02, True),
        ("Parameters", MASK_RCNN, 0.98, True),
        ("Parameters", MASK_RCNN, 1.005, False),
        ("FLOPs", CLASSIFIER, 1.03, True),
        ("FLOPs", CLASSIFIER, 0.97, True),
        ("FLOPs", CLASSIFIER, 1.01, False),
    ],
)
def test_counts_are_checked_by_building(zoo, key, name, factor, is_fault):
    content = zoo.read()
    metadata = entry(content, name)["Metadata"]
    metadata[key] = round(metadata[key] * factor)
    zoo.write(content)
    assert zoo.check() == []
    problems = zoo.check(build=[name])
    if not is_fault:
        assert problems == []
        return
    (problem,) = problems
    assert f"{name}: {key} {metadata[key]} is more than" in problem


def change_config(zoo, name, line):
    """Put a line on top of what a config holds."""
    path = zoo.family / f"{name}.py"
    path.rename(zoo.config_dir / "_base_" / "moved.py")
    path.write_text(f"_base_ = '../_base_/moved.py'\n{line}\n")


NAME_FAULTS = {
    "batch": (
        RETINANET,
        "train_dataloader = dict(batch_size=4)",
        "batch of a GPU 2, the config 4",
    ),
    "all batches": (
        RETINANET,
        "auto_scale_lr = dict(base_batch_size=32)",
        "batch of all GPUs 16, the config 32",
    ),
    "size": (
        RETINANET,
        "model = dict(backbone=dict(arch='b2'))",
        "size b1, the config b2",
    ),
    "own size": (
        RETINANET,
        "model = dict(backbone=dict(arch=dict(_delete_=True, dims=[8])))",
        "size b1, the config one of its own",
    ),
    "family": (
        RETINANET,
        "model = dict(backbone=dict(type='mlp_backbones.ASMLP'))",
        "family cyclemlp, the config as-mlp",
    ),
    "schedule": (
        RETINANET,
        "train_cfg = dict(max_epochs=36)",
        r"length \('max_epochs', 12\), the config \('max_epochs', 36\)",
    ),
    "model": (
        RETINANET,
        "model = dict(type='FCOS')",
        "model RetinaNet, the config FCOS",
    ),
    "head": (
        UPERNET,
        "model = dict(decode_head=dict(type='FPNHead'))",
        "decode_head UPerHead, the config FPNHead",
    ),
    "neck": (RETINANET, "model = dict(neck=dict(type='PAFPN'))", "neck FPN, .* PAFPN"),
    "data": (
        RETINANET,
        "val_dataloader = dict(dataset=dict(data_root='elsewhere/'))",
        "val data .*data/coco/.*, the config .*elsewhere",
    ),
    "classes": (
        RETINANET,
        "model = dict(bbox_head=dict(num_classes=20))",
        r"classes \{80\}, the config \{20\}",
    ),
}


@pytest.mark.parametrize(
    ("name", "line", "fault"), NAME_FAULTS.values(), ids=NAME_FAULTS
)
def test_a_config_that_is_not_what_its_name_says_is_told(zoo, name, line, fault):
    change_config(zoo, name, line)
    problems = zoo.check()
    assert any(
        re.search(f"{name}: the name says {fault}", problem) for problem in problems
    ), problems


@pytest.mark.parametrize(
    "name", ["cyclemlp-b1_in1k", "as-mlp-b1_8xb128_in1k", "cyclemlp-b1_8xb128_food"]
)
def test_a_name_off_the_rule_is_told(zoo, name):
    content = zoo.read()
    model = entry(content, CLASSIFIER)
    model.update({"Name": name, "Config": f"configs/cyclemlp/{name}.py"})
    zoo.write(content)
    (zoo.family / f"{CLASSIFIER}.py").rename(zoo.family / f"{name}.py")
    (problem,) = zoo.check(build=None)
    assert f"{name}: " in problem


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("model = dict(", "cannot be read: "),
        ("model = dict(neck=7)", "cannot be read: "),
        (
            "model = dict(bbox_head=dict(anchor_generator=dict(no_such=1)))",
            "does not build: .*no_such",
        ),
    ],
)
def test_a_config_that_does_not_work_is_told(zoo, line, fault):
    change_config(zoo, RETINANET, line)
    (problem,) = zoo.check(build=[RETINANET])
    assert re.search(f"{RETINANET}: the (config|model) {fault}", problem)


def test_an_entry_without_config_is_told(zoo):
    (zoo.family / f"{SECOND_CLASSIFIER}.py").unlink()
    (problem,) = zoo.check()
    assert f"{SECOND_CLASSIFIER}.py does not exist" in problem


def test_a_family_without_metafile_is_told(zoo):
    zoo.metafile.unlink()
    assert zoo.check() == [f"{zoo.metafile}: is missing"]


def test_a_folder_of_no_family_is_told(zoo):
    other = zoo.config_dir / "other_mlp"
    zoo.family.rename(other)
    zoo.model_index.write_text("Import:\n  - configs/other_mlp/metafile.yml\n")
    (problem,) = zoo.check()
    assert "unknown family 'other_mlp'" in problem


def test_text_that_is_no_yaml_is_told(zoo):
    zoo.metafile.write_text("Collections: [")
    (problem,) = zoo.check()
    assert problem.startswith(f"{zoo.metafile}: not YAML: ")


def test_a_file_that_is_no_text_is_told(zoo):
    for path in (zoo.metafile, zoo.model_index):
        path.write_bytes(b"\xff\xfe")
    index, metafile = zoo.check()
    assert index.startswith(f"{zoo.model_index}: not YAML: ")
    assert metafile.startswith(f"{zoo.metafile}: not UTF-8: ")


@pytest.mark.parametrize(
    ("once", "twice"),
    [("    Epochs: 12\n", "'Epochs'"), ("Models:\n", "'Models'")],
)
def test_a_key_that_stands_twice_is_told(zoo, once, twice):
    """YAML takes the last of them."""
    text = zoo.metafile.read_text()
    at = text.index(once)
    zoo.metafile.write_text(f"{text[:at]}{once.rstrip()} []\n{text[at:]}")
    (problem,) = zoo.check()
    assert problem.startswith(f"{zoo.metafile}: not YAML: {twice} stands twice")


def test_an_entry_with_nothing_in_it_is_told(zoo):
    content = zoo.read()
    entry(content, RETINANET)["Results"] = [None]
    content["Models"].append(None)
    zoo.write(content)
    problems = zoo.check()
    assert f"{zoo.metafile}: an entry without Name: Name is missing" in problems
    assert f"{zoo.metafile}: {RETINANET}: Results: Task is missing" in problems


@pytest.mark.parametrize("place", ["stray.py", "cyclemlp/deeper/stray.py"])
def test_a_config_outside_the_folders_of_families_is_told(zoo, place):
    path = zoo.config_dir / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    assert zoo.check() == [f"{path}: lies in no family's folder"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Import: configs/cyclemlp/metafile.yml\n", "Import should be a list, got 'c"),
        ("Import:\n", "Import should be a list, got None"),
        ("Import: []\n", "configs/cyclemlp/metafile.yml is missing"),
        (
            "Import: [configs/cyclemlp/metafile.yml, configs/no/metafile.yml]\n",
            "configs/no/metafile.yml is none",
        ),
        (
            "Import:\n" + 2 * "  - configs/cyclemlp/metafile.yml\n",
            "configs/cyclemlp/metafile.yml stands there 2 times",
        ),
        ("Imports: []\n", "the one key should be Import, got ['Imports']"),
        ("Import: [\n", "not YAML"),
    ],
)
def test_a_fault_of_the_model_index_is_told(zoo, text, line):
    zoo.model_index.write_text(text)
    (problem,) = check_model_index(zoo.config_dir)
    assert problem.startswith(f"{zoo.model_index}: ")
    assert line in problem


def test_a_missing_model_index_is_told(zoo):
    zoo.model_index.unlink()
    assert zoo.check() == [f"{zoo.model_index}: is missing"]
