"""The thorough check: every image and annotation decoded, as the pipeline does it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from mlp_backbones.datasets.checks.data import in_scope, unwrap
from mlp_backbones.datasets.checks.folders import LabelCounts
from mlp_backbones.datasets.checks.images import ImageLoader, ImageLooks, short_name
from mlp_backbones.datasets.checks.report import DataError, few
from mlp_backbones.registry import DATASETS, TRANSFORMS

__all__ = ["DecodeReport", "check_samples"]

_NOT_FOR_LOAD_IMAGE = (
    *("type", "skip_bad", "max_skips", "ignore_empty", "file_client_args"),
)


@dataclass(frozen=True)
class DecodeReport:
    """What decoding all of a data set has found.

    Attributes:
        problems: One line for each bad image or annotation.
        warnings: What could not be decided, with numbers.
    """

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def check_samples(
    dataset: Mapping[str, Any] | Config,
    split: str,
    scope: str | None = None,
    progress: bool = False,
) -> DecodeReport:
    """Decode every image and annotation of a data set.

    Runs the loading transforms of the data set's own pipeline, and no others: all up to
    the one that makes the image, and of the rest those that load.

    Args:
        dataset: Config of a data set or of a wrapper around some.
        split: 'train', 'val' or 'test'.
        scope: As for ``check_dataset_config``.
        progress: Show a progress bar.

    Raises:
        DataError: If the data set cannot be built at all.
    """
    problems: list[str] = []
    warnings: list[str] = []
    with in_scope(scope):
        for inner, _ in unwrap(dataset):
            found = _check_all(inner, split, progress)
            problems += found.problems
            warnings += found.warnings
    return DecodeReport(tuple(problems), tuple(warnings))


def _check_all(config: Mapping[str, Any], split: str, progress: bool) -> DecodeReport:
    from rich.progress import track

    try:
        built = DATASETS.build({**config, "pipeline": []})
        number = len(built)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{split}: {config['type']} cannot be read ({reason})") from (
            error
        )
    classes = built.metainfo.get("classes")
    pipeline = config.get("pipeline") or []
    load = _loading_transforms(pipeline, len(classes) if classes else None)
    loader = ImageLoader.of(pipeline)
    looks = ImageLooks(split, loader) if loader else None
    counts = LabelCounts(classes)
    problems: list[str] = []
    for index in track(
        range(number), description=f"{split}: decoding", disable=not progress
    ):
        sample = built.get_data_info(index)
        path = sample.get("img_path")
        try:
            if looks is not None and isinstance(path, str) and "://" not in path:
                _look(looks, path, sample)
            sample = _load(sample, load)
        except DataError as error:
            problems.append(error.line)
            continue
        mask = sample.get("gt_seg_map")
        if mask is not None and mask.dtype == "uint8":
            counts.add(mask, sample.get("seg_map_path") or str(path))
    warnings = looks.warnings if looks else []
    if counts.masks:
        folder = str(built.data_prefix.get("seg_map_path"))
        warnings += counts.absent(split, folder)
        if counts.lost:
            try:
                counts.refuse_lost(split, folder)
            except DataError as error:
                problems.append(error.line)
    if problems and len(problems) == number:
        problems.append(f"{split}: all {number} samples are bad: {few(problems, 1)}")
    return DecodeReport(tuple(problems), tuple(warnings))


def _look(looks: ImageLooks, path: str, sample: Mapping[str, Any]) -> None:
    told = (sample.get("width"), sample.get("height"))
    try:
        looks.look(
            path,
            None if None in told else told,  # type: ignore[arg-type]
            annotated=bool(sample.get("seg_map_path") or sample.get("instances")),
        )
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"{path}: cannot be read ({reason})") from error


def _load(sample: dict, load: Sequence[tuple[Any, bool]]) -> dict:
    path = sample.get("img_path", f"sample {sample.get('sample_idx')}")
    for transform, always in load:
        if not always and "img" in sample:
            continue
        try:
            loaded = transform(sample)
        except DataError:
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise DataError(
                f"{path}: {type(transform).__name__} cannot load it ({reason})"
            ) from error
        if loaded is None:
            raise DataError(f"{path}: {type(transform).__name__} gives nothing for it")
        sample = loaded
    return sample


def _loading_transforms(
    pipeline: Sequence[Mapping[str, Any]], num_classes: int | None
) -> list[tuple[Any, bool]]:
    """Return transforms, and whether each still runs once there is an image."""
    load: list[tuple[dict[str, Any], bool]] = []
    for step in pipeline:
        name = short_name(step)
        if name in ("LoadImage", "LoadImageFromFile"):
            options = {k: v for k, v in step.items() if k not in _NOT_FOR_LOAD_IMAGE}
            load.append(({**options, "type": "mlp_backbones.LoadImage"}, False))
        elif name == "CheckAnnotations":
            check = {"num_classes": num_classes, **step, "skip_bad": False}
            load.append((check, True))
        elif "Annotations" in name and "Load" in name:
            check = {"type": "mlp_backbones.CheckAnnotations", "load": dict(step)}
            load.append(({**check, "num_classes": num_classes}, True))
        else:
            load.append((dict(step), name.startswith("Load")))
    built = []
    for step, always in load:
        built.append((TRANSFORMS.build(step), always))
    return built
