"""One way through all checks of a run: config, model, data, classes, weights."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from mmengine.config import Config
from mmengine.runner.checkpoint import find_latest_checkpoint

from mlp_backbones.config_names import TASKS
from mlp_backbones.preflight.card import (
    RunCard,
    git_commit,
    learning_rate,
    precision_of,
    step_size,
    versions,
)
from mlp_backbones.preflight.keys import Mistake, find_mistakes
from mlp_backbones.preflight.model import (
    ModelFacts,
    class_mistakes,
    classes_of,
    try_model,
)
from mlp_backbones.preflight.schedule import find_schedule_mistakes
from mlp_backbones.preflight.weights import (
    WeightsError,
    check_initialisation,
    check_whole_model,
)
from mlp_backbones.preprocessing import check_preprocessing


class PreflightError(ValueError):
    """A run that is refused; the message is one line.

    Attributes:
        place: The key of the config that is wrong, or an empty text.
    """

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message)
        self.place = place


def check_config(config: Config) -> list[str]:
    """Hold keys, values and schedule of a config against what reads them.

    Args:
        config: A whole config with ``default_scope``.

    Returns:
        Warnings.

    Raises:
        PreflightError: At the first mistake; the message says how many others there
            are.
    """
    content = config.to_dict()
    return _judge([*find_mistakes(config), *find_schedule_mistakes(content)], config)


def _judge(mistakes: Sequence[Mistake], config: Config) -> list[str]:
    certain = [one for one in mistakes if one.is_certain]
    if certain:
        others = len(certain) - 1
        more = f" (and {others} more)" if others else ""
        file = f"{config.filename}: " if config.filename else ""
        raise PreflightError(f"{file}{certain[0].message}{more}", certain[0].place)
    return [one.message for one in mistakes]


def run_preflight(
    config: Config,
    tool: str,
    splits: Sequence[str],
    *,
    read_data: Callable[[Config, Sequence[str]], Any] | None,
    checkpoint: str | None = None,
) -> RunCard:
    """Check a run and describe it; nothing of it is built.

    Args:
        config: As the run gets it.
        tool: ``train`` or ``test``.
        splits: Whose data are in use.
        read_data: Checks the data of these splits and returns a report, or None; the
            argument is None where the user does not want it.
        checkpoint: Weights that are tested.

    Returns:
        The run card.

    Raises:
        PreflightError: If the run cannot be what the user wants.
    """
    card = RunCard(
        tool=tool,
        config=str(config.filename),
        task=TASKS[config.default_scope],
        work_dir=str(config.get("work_dir")),
    )
    card.warnings += check_config(config)
    facts = try_model(config)
    card.warnings += _judge(facts.mistakes, config)
    card.notes += facts.notes
    card.head_classes = facts.num_classes
    _check_classes(card, config, splits, facts)
    report = None if read_data is None else read_data(config, splits)
    _add_data(card, config, facts, _as_dicts(report))
    try:
        _check_weights(card, config, facts.model, checkpoint)
    except WeightsError as error:
        raise PreflightError(str(error)) from error
    if tool == "train":
        card.images_per_step = step_size(config)
        card.learning_rate = learning_rate(config, card.images_per_step)
    card.precision = precision_of(config, tool)
    card.seed = (config.get("randomness") or {}).get("seed")
    card.versions, card.git_commit = versions(), git_commit()
    return card


def _check_classes(
    card: RunCard, config: Config, splits: Sequence[str], facts: ModelFacts
) -> None:
    """Compare heads and data before any file is read, as far as the config tells."""
    for split in splits:
        loader = config.get(f"{split}_dataloader") or {}
        found = classes_of(loader.get("dataset"), config.default_scope)
        if found is None:
            continue
        names, source = [str(name) for name in found[0]], f"{split}: {found[1]}"
        mistakes = class_mistakes(
            facts.num_classes, names, source, config.default_scope
        )
        card.warnings += _judge(list(mistakes), config)
        if card.classes is None:
            card.classes = {"number": len(names), "names": names, "source": source}


def _as_dicts(report: Any) -> list[dict[str, Any]]:
    datasets = getattr(report, "datasets", report) or ()
    return [asdict(one) for one in datasets if is_dataclass(one)]  # type: ignore[arg-type]


def _add_data(
    card: RunCard, config: Config, facts: ModelFacts, datasets: list[dict[str, Any]]
) -> None:
    """Note what the checks of the data found; compare its classes with the heads'."""
    card.datasets = datasets
    for one in datasets:
        card.warnings += [
            w for w in one.get("warnings") or () if w not in card.warnings
        ]
        if not one.get("classes"):
            continue
        names = [str(name) for name in one["classes"]]
        source = one.get("class_source") or one["source"]
        mistakes = class_mistakes(
            facts.num_classes, names, source, config.default_scope
        )
        _judge(list(mistakes), config)
        card.classes = {"number": len(names), "names": names, "source": source}


def _images_of_epoch(card: RunCard, config: Config) -> int | None:
    """Count the images that an epoch shows, where the data set says it plainly."""
    own = [one for one in card.datasets if one["split"] == "train"]
    loader = config.get("train_dataloader") or {}
    sampler = str((loader.get("sampler") or {}).get("type", ""))
    dataset = loader.get("dataset") or {}
    plain = "dataset" not in dataset and "datasets" not in dataset
    # Older checks count images that the loader leaves out.
    if len(own) != 1 or not plain or "num_objects" not in own[0]:
        return None
    return own[0]["num_images"] if sampler == "DefaultSampler" else None


def _check_weights(
    card: RunCard, config: Config, model: Any, checkpoint: str | None
) -> None:
    use, file = "test", checkpoint
    if checkpoint is None:
        use = "resume" if config.get("resume") else "load_from"
        file = config.get("load_from")
        if file is None and use == "resume":
            file = find_latest_checkpoint(card.work_dir)
    names = None if card.classes is None else card.classes["names"]
    found = []
    if use != "test":
        found += check_initialisation(config, model)
    if file is not None:
        found.append(
            check_whole_model(
                str(file),
                use,
                model,
                classes=names,
                config=config,
                images=_images_of_epoch(card, config),
            )
        )
    if use != "resume":  # a run that goes on was told at its start
        _check_normalisation(card, config, file)
    for facts in found:
        card.warnings += facts.warnings
        entry = asdict(facts)
        del entry["warnings"]
        card.weights.append(entry)


def _check_normalisation(card: RunCard, config: Config, file: Any) -> None:
    try:
        warning = check_preprocessing(config, None if file is None else str(file))
    except ValueError as error:
        raise PreflightError(str(error), "data_preprocessor") from error
    if warning is not None:
        card.warnings.append(warning)
