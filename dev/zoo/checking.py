"""Find what is wrong with the metafiles, one line for each fault."""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

from dev.zoo.counting import (
    count_flops,
    has_flops,
    images_per_step,
    read_facts,
)
from dev.zoo.metafile import Metafile, MetafileError, Model, read_metafile
from dev.zoo.naming import (
    DURATION,
    HEADS,
    METRICS,
    TRAINING_DATA,
    find_name_faults,
    spell_size,
)
from mlp_backbones.config_names import ConfigName, parse_config_name
from mlp_backbones.factory import get_family

__all__ = ["check_family", "check_model_index", "check_zoo"]

PARAMETER_TOLERANCE = 0.01
FLOPS_TOLERANCE = 0.02
_PRINTED = re.compile(r"\d+(\.\d+)?[MG]")


def check_zoo(
    config_dir: Path,
    *,
    build: Collection[str] | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> list[str]:
    """Check the model index and all metafiles.

    Args:
        config_dir: The folder that holds ``_base_`` and one folder for each family;
            ``model-index.yml`` lies beside it.
        build: Names of the configs to build, whose parameters and multiply-adds are
            counted; by default all.
        progress: Is told the name of each family before it is checked.

    Returns:
        One line for each fault, with file, entry and value; empty if all is in order.
    """
    problems = [*check_model_index(config_dir), *_find_strays(config_dir)]
    owners: dict[str, Path] = {}
    for folder in _family_folders(config_dir):
        progress(folder.name)
        problems += check_family(folder, build=build)
        for path in sorted(folder.glob("*.py")):
            owner = owners.setdefault(path.stem.lower(), path)
            if owner is not path:
                problems.append(f"{path}: {owner} has the same name")
    return problems


def _family_folders(config_dir: Path) -> list[Path]:
    parts = [*config_dir.glob("*/*.py"), *config_dir.glob("*/metafile.yml")]
    return sorted({part.parent for part in parts if part.parent.name != "_base_"})


def _find_strays(config_dir: Path) -> Iterator[str]:
    """Name configs where no metafile speaks of them."""
    for path in sorted(config_dir.rglob("*.py")):
        place = path.relative_to(config_dir).parts
        if place[0] != "_base_" and len(place) != 2:
            yield f"{path}: lies in no family's folder"


def check_model_index(config_dir: Path) -> list[str]:
    """Check that the model index imports every metafile and nothing else.

    Args:
        config_dir: The folder of configs; ``model-index.yml`` lies beside it.
    """
    path = config_dir.parent / "model-index.yml"
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [f"{path}: is missing"]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return [f"{path}: not YAML: {' '.join(str(error).split())}"]
    if not isinstance(raw, dict) or set(raw) != {"Import"}:
        keys = list(raw) if isinstance(raw, dict) else raw
        return [f"{path}: the one key should be Import, got {keys!r}"]
    if not isinstance(raw["Import"], list):
        return [f"{path}: Import should be a list, got {raw['Import']!r}"]
    listed = [str(entry) for entry in raw["Import"]]
    due = [
        f"{config_dir.name}/{folder.name}/metafile.yml"
        for folder in _family_folders(config_dir)
    ]
    return [
        *(f"{path}: Import: {name} is missing" for name in due if name not in listed),
        *(f"{path}: Import: {name} is none" for name in listed if name not in due),
        *(
            f"{path}: Import: {name} stands there {times} times"
            for name, times in Counter(listed).items()
            if times > 1
        ),
    ]


def check_family(folder: Path, *, build: Collection[str] | None = None) -> list[str]:
    """Check the metafile of a family against its configs and its class.

    Args:
        folder: The family's folder.
        build: Names of the configs to build; by default all.

    Returns:
        One line for each fault.
    """
    path = folder / "metafile.yml"
    try:
        metafile = read_metafile(path)
    except MetafileError as error:
        return error.problems
    except FileNotFoundError:
        return [f"{path}: is missing"]
    try:
        get_family(folder.name)
    except ValueError as error:
        return [f"{path}: {error}"]
    problems = [*_check_collection(folder, metafile), *_check_files(folder, metafile)]
    for model in metafile.models:
        config = folder / f"{model.name}.py"
        if config.is_file():
            wanted = build is None or model.name in build
            problems += [
                f"{model.name}: {problem}"
                for problem in _check_model(config, model, metafile, wanted)
            ]
    return [f"{path}: {problem}" for problem in problems]


def _check_collection(folder: Path, metafile: Metafile) -> Iterator[str]:
    collection = metafile.collection
    where = f"collection {collection.name}"
    name = get_family(folder.name).__name__
    if collection.name != name:
        yield f"{where}: the class is {name}"
    if not collection.architecture:
        yield f"{where}: Architecture is empty"
    if not collection.paper_url.startswith("https://"):
        yield f"{where}: Paper URL should be an address, got {collection.paper_url!r}"
    if not collection.paper_title.strip():
        yield f"{where}: Paper Title is empty"
    root = folder.parents[1]
    readme = f"{folder.parent.name}/{folder.name}/README.md"
    if collection.readme != readme or not (root / readme).is_file():
        yield f"{where}: README should be {readme}, got {collection.readme!r}"
    code = collection.code_url
    if not code.startswith("https://") and not (code and (root / code).is_file()):
        yield f"{where}: Code URL is neither an address nor a file here, got {code!r}"


def _check_files(folder: Path, metafile: Metafile) -> Iterator[str]:
    """Compare entries and configs both ways."""
    names = Counter(model.name for model in metafile.models)
    for name, times in names.items():
        if times > 1:
            yield f"{name}: has {times} entries"
    for model in metafile.models:
        config = f"{folder.parent.name}/{folder.name}/{model.name}.py"
        if model.config != config:
            yield f"{model.name}: Config should be {config}, got {model.config!r}"
        if not (folder / f"{model.name}.py").is_file():
            yield f"{model.name}: {model.name}.py does not exist"
        if model.collection != metafile.collection.name:
            yield (
                f"{model.name}: In Collection should be {metafile.collection.name}, "
                f"got {model.collection!r}"
            )
    for path in sorted(folder.glob("*.py")):
        if path.stem not in names:
            yield f"{path.name} has no entry: run dev/update_metafiles.py"


def _check_model(
    path: Path, model: Model, metafile: Metafile, build: bool
) -> Iterator[str]:
    try:
        config = Config.fromfile(path)
        faults = find_name_faults(path, config)
    except Exception as error:  # a config is code: anything may be raised
        yield f"the config cannot be read: {_one_line(error)}"
        return
    yield from faults
    try:
        name = parse_config_name(path)
    except ValueError:
        return  # among the faults already
    if name.head not in HEADS or name.dataset not in TRAINING_DATA:
        return
    yield from _check_results(model, name)
    yield from _check_paper_numbers(model)
    yield from _check_weights(path, model, name)
    yield from _check_facts(model, config, name)
    if has_flops(path) != (model.flops is not None):
        yield (
            "FLOPs is missing"
            if model.flops is None
            else f"FLOPs {model.flops}: only ImageNet classifiers state it"
        )
    # What is not what its name says may not even build.
    if build and not faults:
        yield from _check_counts(path, model, config)


def _check_facts(model: Model, config: Config, name: ConfigName) -> Iterator[str]:
    for title, stated, found in (
        ("Batch Size", model.batch_size, images_per_step(config)),
        ("Epochs", model.epochs, config.train_cfg.get("max_epochs")),
        ("Iterations", model.iterations, config.train_cfg.get("max_iters")),
        ("Training Data", model.training_data, TRAINING_DATA[name.dataset]),
    ):
        if stated != found:
            yield f"{title} should be {found}, got {stated!r}"


def _check_counts(path: Path, model: Model, config: Config) -> Iterator[str]:
    try:
        facts = read_facts(path, config)
        flops = count_flops(config) if model.flops and has_flops(path) else None
    except Exception as error:  # whatever a model's constructor raises
        yield f"the model does not build: {_one_line(error)}"
        return
    yield from _compare_counts(
        "Parameters", model.parameters, facts.parameters, PARAMETER_TOLERANCE
    )
    if model.flops is not None and flops is not None:
        yield from _compare_counts("FLOPs", model.flops, flops, FLOPS_TOLERANCE)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _compare_counts(
    title: str, stated: int, counted: int, tolerance: float
) -> Iterator[str]:
    if abs(stated - counted) > tolerance * counted:
        yield f"{title} {stated} is more than {tolerance:.0%} off the counted {counted}"


def _check_results(model: Model, name: ConfigName) -> Iterator[str]:
    # Mask R-CNN finds boxes as well.
    tasks = {"Object Detection"} if name.head == "mask-rcnn" else set()
    tasks.add(HEADS[name.head].task)
    seen = set()
    for result in model.results:
        where = f"Results: {result.task}"
        if result.task not in tasks:
            yield f"{where}: Task should be {' or '.join(sorted(tasks))}"
            continue
        if result.dataset != TRAINING_DATA[name.dataset]:
            yield (
                f"{where}: Dataset should be {TRAINING_DATA[name.dataset]}, "
                f"got {result.dataset!r}"
            )
        known: Sequence[Any] = METRICS[result.task]
        if result.source == "measured here":
            known = (*known, DURATION)
        for metric, value in result.metrics.items():
            if metric not in known:
                names = ", ".join(known)
                yield f"{where}: unknown metric {metric!r}, known are {names}"
            elif metric == DURATION and not 0 < value < math.inf:
                yield f"{where}: {metric} should be a duration, got {value}"
            elif metric != DURATION and not 0 < value <= 100:
                yield f"{where}: {metric} should be in percent, got {value}"
        run = (result.task, result.source, result.hardware)
        if run in seen:
            yield f"{where}: stands there twice from {result.source}"
        seen.add(run)


def _check_paper_numbers(model: Model) -> Iterator[str]:
    for title, value in (
        ("Paper Parameters", model.paper_parameters),
        ("Paper FLOPs", model.paper_flops),
    ):
        if value is not None and not _PRINTED.fullmatch(value):
            yield f"{title} should read like 24.9M or 2.1G, got {value!r}"


def _check_weights(path: Path, model: Model, name: ConfigName) -> Iterator[str]:
    released = get_family(path.parent.name).released_weights
    addresses = {spell_size(arch): address for arch, address in released.items()}
    due = addresses.get(name.size) if has_flops(path) else None
    if model.weights != due:
        yield f"Weights should be {due or 'left out'}, got {model.weights!r}"
