"""Weights that a run would take over, held against its model before it is built."""

import ast
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mlp_backbones.backbones import MLPBackbone
from mlp_backbones.checkpoints.compare import compare_state_dicts, find_state_dict
from mlp_backbones.checkpoints.download import hash_of
from mlp_backbones.checkpoints.load import load_pretrained
from mlp_backbones.checkpoints.read import CheckpointError, read_checkpoint, read_file
from mlp_backbones.preflight.card import step_size

# A detector of another size fits in some tensors by chance.
_LEAST_SHARE = 0.5


class WeightsError(ValueError):
    """Weights that cannot be what the user wants; the message is one line."""


@dataclass
class WeightsFacts:
    """What a file of weights gives to a model.

    Attributes:
        use: ``load_from``, ``resume``, ``test`` or the place of an ``init_cfg``.
        file: File or address.
        sha256: Hash of a local file.
        taken: Tensors that the model takes over.
        left: Tensors of the file that it does not.
        missing: Tensors of the model that start otherwise.
        warnings: What is not certain to be a mistake.
    """

    use: str
    file: str
    sha256: str | None = None
    taken: int | None = None
    left: int | None = None
    missing: int | None = None
    warnings: list[str] = field(default_factory=list)


def check_whole_model(
    file: str,
    use: str,
    model: nn.Module | None,
    *,
    classes: Sequence[str] | None = None,
    config: Config | None = None,
    images: int | None = None,
) -> WeightsFacts:
    """Look at the weights of a whole model before a run takes them over.

    Args:
        file: Checkpoint; only local files are opened here.
        use: ``load_from``, ``resume`` or ``test``.
        model: The config's model, which may be on the meta device; None if it could
            not be built.
        classes: Names of the data's classes, as far as they are known.
        config: Of the run, for what a resumed run must have in common.
        images: That an epoch of the run shows, where it is known.

    Raises:
        WeightsError: If the file is no checkpoint of its kind, holds values that are no
            numbers, or fits nothing; for a test, if it does not fit exactly.
    """
    facts = WeightsFacts(use, file)
    path = Path(file).expanduser()
    if not path.is_file():
        return facts
    facts.sha256 = hash_of(path)
    content = read_file(path)
    tensors = _tensors_of(content)
    if not tensors:
        raise WeightsError(
            f"{file} holds no state dict, neither plain nor under 'state_dict' or "
            "'model'"
        )
    meta = content.get("meta") if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    if use == "resume":
        _check_training(file, content, meta)
        if config is not None:
            _check_batch_size(file, meta, config)
            _check_images(file, meta, config, images)
    _check_finite(file, tensors, model)
    if model is not None:
        _compare(facts, model, tensors)
    if use in ("resume", "test"):
        _check_classes(file, use, meta, classes)
    return facts


def _tensors_of(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    found = find_state_dict(content)
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _check_training(file: str, content: Any, meta: Mapping[str, Any]) -> None:
    missing = [f"meta.{name}" for name in ("epoch", "iter") if name not in meta]
    for name in ("optimizer", "message_hub"):
        if name not in content:
            missing.append(name)
    if missing:
        raise WeightsError(
            f"{file} is no checkpoint of a training that could be resumed: it has no "
            f"{missing[0]}; to start from its weights use --cfg-options "
            f"load_from={file}"
        )


def _check_finite(
    file: str, tensors: Mapping[str, Tensor], model: nn.Module | None
) -> None:
    parameters = None
    if model is not None:
        parameters = {name for name, _ in model.named_parameters()}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
            continue
        # Masks of attention may hold -inf.
        has_nan = bool(torch.isnan(tensor).any())
        if has_nan or parameters is None or name in parameters:
            number = int((~torch.isfinite(tensor)).sum())
            raise WeightsError(
                f"{file}: {name} holds {number} values that are NaN or infinite; take "
                "an earlier checkpoint"
            )


def _compare(
    facts: WeightsFacts, model: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    mismatches = compare_state_dicts(model, tensors)
    wrong = {name for name, *_ in mismatches.wrong_shapes}
    lost = wrong | set(mismatches.unknown)
    facts.taken = len(tensors) - len(lost)
    facts.left = len(lost)
    facts.missing = len(mismatches.missing) + len(wrong)
    if facts.use == "test":
        if mismatches:
            raise WeightsError(mismatches.describe(facts.file))
        return
    own = [name for name in model.state_dict() if name.startswith("backbone.")]
    own = [name for name in own if not name.endswith("num_batches_tracked")]
    fitting = [name for name in own if name in tensors and name not in wrong]
    if own and len(fitting) < _LEAST_SHARE * len(own):
        raise WeightsError(
            f"{facts.use} {facts.file}: {len(fitting)} of {len(own)} tensors of the "
            "backbone fit, so it would start from random weights; weights of a "
            "backbone alone go to model.backbone.init_cfg.checkpoint "
            "(model.backbone.init_cfg.type=Pretrained)"
        )
    if facts.use == "resume" and mismatches:
        raise WeightsError(mismatches.describe(facts.file))
    if mismatches:
        facts.warnings.append(
            f"{facts.use} {facts.file}: {facts.taken} tensors are taken over, "
            f"{facts.left} left aside, {facts.missing} of the model start anew"
        )


def _check_classes(
    file: str, use: str, meta: Mapping[str, Any], classes: Sequence[str] | None
) -> None:
    inner = meta.get("dataset_meta")
    inner = inner if isinstance(inner, Mapping) else meta
    known = inner.get("classes", inner.get("CLASSES"))
    if classes is None or not isinstance(known, (list, tuple)) or not known:
        return
    known, classes = [str(name) for name in known], [str(name) for name in classes]
    if known == classes:
        return
    pairs = zip(known, classes, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if first is None:
        detail = "the rest agrees"
    else:
        detail = f"number {first} is {known[first]!r} there and {classes[first]!r} here"
    raise WeightsError(
        f"{file} was trained on {len(known)} classes, the data of this {use} have "
        f"{len(classes)}: {detail}; set metainfo.classes of the data sets"
    )


def _check_batch_size(file: str, meta: Mapping[str, Any], config: Config) -> None:
    """Refuse to go on with other batches: epochs and schedules would not fit."""
    before = _batch_size_in(str(meta.get("cfg", "")))
    now = (config.get("train_dataloader") or {}).get("batch_size")
    if before is not None and now is not None and before != now:
        raise WeightsError(
            f"{file} was written with train_dataloader.batch_size={before}, this run "
            f"has {now}: epochs and learning rates would not go on where they were; "
            f"set it to {before}, or start anew with load_from={file}"
        )


def _batch_size_in(text: str) -> int | None:
    """Read the batch size from the text of a config without running it."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return None
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and any(
                getattr(one, "id", "") == "train_dataloader" for one in node.targets
            )
        ):
            for keyword in node.value.keywords:
                if keyword.arg == "batch_size" and isinstance(
                    keyword.value, ast.Constant
                ):
                    number = keyword.value.value
                    return number if isinstance(number, int) else None
    return None


def _check_images(
    file: str, meta: Mapping[str, Any], config: Config, images: int | None
) -> None:
    """Refuse to go on with epochs of another length."""
    epoch, iteration = meta["epoch"], meta["iter"]
    if images is None or not epoch or iteration % epoch:
        return
    step = step_size(config)
    per_step = step["processes"] * step["batch_size"]
    before, now = iteration // epoch, math.ceil(images / per_step)
    lengths = {now, images // per_step}
    if Path(file).name != f"epoch_{epoch}.pth":  # perhaps saved within an epoch
        within = [n for n in lengths if n * epoch <= iteration < n * (epoch + 1)]
        before = within[0] if within else before
    if before not in lengths:
        raise WeightsError(
            f"{file} was written by a run of {before} iterations per epoch, this one "
            f"has {now} ({images} images, {per_step} per iteration): images were added "
            f"or removed, or the number of GPUs is another; restore them, or start "
            f"anew with load_from={file}"
        )


def check_initialisation(config: Config, model: nn.Module | None) -> list[WeightsFacts]:
    """Look at every ``init_cfg`` of type ``Pretrained`` whose file is on this disk.

    Args:
        config: A whole config.
        model: Its model on the meta device, or None.

    Raises:
        WeightsError: If a file is missing, unreadable or fits nothing.
    """
    found = []
    for path, settings in _pretrained(config.model, ("model",)):
        place = ".".join((*path, "init_cfg.checkpoint"))
        file = settings.get("checkpoint")
        if not isinstance(file, (str, Path)):
            raise WeightsError(f"{place} must be a file or an address, got {file!r}")
        facts = WeightsFacts(place, str(file))
        found.append(facts)
        local = Path(file).expanduser()
        if "://" in str(file) or str(file) == "official":
            continue
        if not local.is_file():
            raise WeightsError(f"{place}: {file} does not exist")
        facts.sha256 = hash_of(local)
        module: Any = model
        for name in path[1:]:
            module = None if module is None else getattr(module, name, None)
        _check_part(facts, module, settings)
    return found


def _check_part(facts: WeightsFacts, module: Any, settings: Mapping[str, Any]) -> None:
    """Compare a file with the part of the model that takes it over."""
    tensors = read_checkpoint(facts.file)
    prefix = settings.get("prefix")
    _check_finite(facts.file, tensors, None)
    if isinstance(module, MLPBackbone):
        try:  # the loader itself, whose checks name the tensors
            with _silence():
                load_pretrained(module, facts.file, prefix=prefix)
        except CheckpointError as error:
            raise WeightsError(f"{facts.use}: {error}") from error
        except (NotImplementedError, RuntimeError):  # what needs values
            return
    if not isinstance(module, nn.Module):
        return
    named = {
        name.removeprefix(f"{prefix}.") if prefix else name: tensor
        for name, tensor in tensors.items()
        if not prefix or name.startswith(prefix)
    }
    own = {
        name: value
        for name, value in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    fitting = [n for n in own if n in named and named[n].shape == own[n].shape]
    if isinstance(module, MLPBackbone):
        facts.taken = len(tensors)
        return
    facts.taken, facts.left = len(fitting), len(named) - len(fitting)
    facts.missing = len(own) - len(fitting)
    if own and fitting and len(fitting) < _LEAST_SHARE * len(own):
        facts.warnings.append(
            f"{facts.use}: {len(fitting)} of {len(own)} tensors of "
            f"{type(module).__name__} fit {facts.file}"
        )
    if own and not fitting:
        raise WeightsError(
            f"{facts.use}: {len(fitting)} of {len(own)} tensors of "
            f"{type(module).__name__} fit {facts.file}, so it would start from random "
            "weights; a prefix in init_cfg names the part of the file to take"
        )


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what the loader says for the loading itself."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _pretrained(
    node: Any, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        init = node.get("init_cfg")
        several = init if isinstance(init, (list, tuple)) else [init]
        for one in several:
            if isinstance(one, Mapping) and one.get("type") == "Pretrained":
                yield path, one
        for name, child in node.items():
            if name != "init_cfg":
                yield from _pretrained(child, (*path, str(name)))
    elif isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            yield from _pretrained(child, (*path, str(index)))
