"""What the name of a config promises, and the order of configs in lists."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mlp_backbones.config_names import TASKS, ConfigName, parse_config_name
from mlp_backbones.factory import get_family
from mlp_backbones.registry import MODELS

__all__ = [
    "DATASETS",
    "DURATION",
    "HEADS",
    "METRICS",
    "TRAINING_DATA",
    "Head",
    "find_name_faults",
    "schedule_length",
    "sort_key",
    "spell_size",
]


@dataclass(frozen=True)
class Head:
    """A head by the word of the config's name.

    Attributes:
        title: How tables call it.
        task: Of model-index.
        scope: ``default_scope`` of its configs.
        model: Type of the model.
        part: Key of the head in the model.
        head: Type of the head.
        neck: The word for the neck in the name.
        neck_type: Type of the neck; None where there is none, or the family decides.
    """

    title: str
    task: str
    scope: str
    model: str
    part: str
    head: str
    neck: str | None = None
    neck_type: str | None = None


HEADS: dict[str | None, Head] = {
    "retinanet": Head(
        title="RetinaNet",
        task="Object Detection",
        scope="mmdet",
        model="RetinaNet",
        part="bbox_head",
        head="RetinaHead",
        neck="fpn",
        neck_type="FPN",
    ),
    "mask-rcnn": Head(
        title="Mask R-CNN",
        task="Instance Segmentation",
        scope="mmdet",
        model="MaskRCNN",
        part="roi_head",
        head="StandardRoIHead",
        neck="fpn",
        neck_type="FPN",
    ),
    "fpn": Head(
        title="Semantic FPN",
        task="Semantic Segmentation",
        scope="mmseg",
        model="EncoderDecoder",
        part="decode_head",
        head="FPNHead",
        neck_type="FPN",
    ),
    "upernet": Head(
        title="UperNet",
        task="Semantic Segmentation",
        scope="mmseg",
        model="EncoderDecoder",
        part="decode_head",
        head="UPerHead",
    ),
    None: Head(
        title="Classification",
        task="Image Classification",
        scope="mmpretrain",
        model="ImageClassifier",
        part="head",
        head="LinearClsHead",
    ),
}
"""The heads in the order of the tables; None is a classifier."""

DATASETS: dict[tuple[str, str], tuple[str, str, int]] = {
    ("in1k", "mmpretrain"): ("ImageNet", "data/imagenet", 1000),
    ("coco", "mmdet"): ("CocoDataset", "data/coco/", 80),
    ("ade20k-512x512", "mmseg"): (
        "ADE20KDataset",
        "data/ade/ADEChallengeData2016",
        150,
    ),
    ("digit-scenes", "mmpretrain"): ("CustomDataset", "data/digit_scenes/cls", 10),
    ("digit-scenes", "mmdet"): ("CocoDataset", "data/digit_scenes/", 10),
    # The background is a class of its own.
    ("digit-scenes", "mmseg"): ("BaseSegDataset", "data/digit_scenes/ade", 11),
}
"""Type, folder and number of classes by the name's data set and the scope."""

TRAINING_DATA = {
    "in1k": "ImageNet-1k",
    "coco": "COCO",
    "ade20k-512x512": "ADE20K",
    "digit-scenes": "Digit Scenes",
}
"""How metafiles call the data set of a name."""

METRICS = {
    "Object Detection": ("box AP", "box AP50", "box AP75"),
    "Instance Segmentation": ("mask AP", "mask AP50", "mask AP75"),
    "Semantic Segmentation": ("mIoU", "mIoU(ms+flip)"),
    "Image Classification": ("Top 1 Accuracy", "Top 5 Accuracy"),
}
"""Names of a task's metrics, all in percent."""

DURATION = "Minutes"
"""The metric for how long a training here took."""

_EPOCHS = {None: 300, "1x": 12, "3x": 36}


def schedule_length(schedule: str | None) -> tuple[str, int]:
    """Return the key of ``train_cfg`` and the length that a schedule stands for.

    Args:
        schedule: Such as ``1x``, ``20e`` or ``40k``; None is ImageNet's.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> schedule_length("40k")
        ('max_iters', 40000)
    """
    if schedule is None or schedule in _EPOCHS:
        return "max_epochs", _EPOCHS[schedule]
    number, unit = schedule[:-1], schedule[-1]
    if not number.isdigit() or unit not in "ek":
        raise ValueError(
            f"unknown schedule {schedule!r}: 1x, 3x, a number of epochs such as 20e or "
            "of thousand iterations such as 40k are known"
        )
    if unit == "e":
        return "max_epochs", int(number)
    return "max_iters", 1000 * int(number)


def spell_size(arch: str) -> str:
    """Return a size as the names of configs spell it."""
    return arch.replace("_", "-")


def sort_key(path: str | Path) -> tuple:
    """Return the place of a config among those of its family.

    By data set, head and schedule, sizes in the order of the family's table.

    Args:
        path: The config's file.

    Raises:
        ValueError: If the name does not follow the rule.
    """
    name = parse_config_name(path)
    sizes = [spell_size(a) for a in get_family(Path(path).parent.name).arch_settings]
    return (
        _place(name.dataset, list(TRAINING_DATA)),
        _place(name.head, list(HEADS)),
        schedule_length(name.schedule),
        _place(name.size, sizes),
        name.size,
        name.batch * name.gpus,
    )


def _place(value: object, known: list) -> int:
    return known.index(value) if value in known else len(known)


def find_name_faults(path: str | Path, config: Config) -> list[str]:
    """Compare what a name says with what the config holds.

    Args:
        path: The config's file.
        config: What it holds.

    Returns:
        One phrase for each disagreement, with both values.
    """
    try:
        name = parse_config_name(path)
        length = schedule_length(name.schedule)
    except ValueError as error:
        return [str(error)]
    if name.head not in HEADS:
        known = ", ".join(word for word in HEADS if word)
        return [f"unknown head {name.head!r} in the name, known are {known}"]
    head = HEADS[name.head]
    if (name.dataset, head.scope) not in DATASETS:
        return [f"no data set {name.dataset!r} for {head.title}"]
    return [
        f"the name says {what} {promised}, the config {found}"
        for what, promised, found in _compare(config, name, head, length)
        if promised != found
    ]


def _compare(
    config: Config, name: ConfigName, head: Head, length: tuple[str, int]
) -> Iterator[tuple[str, object, object]]:
    """Yield what is compared, what the name promises and what is there."""
    model = config.model
    cls = MODELS.get(model.backbone.type)
    yield "scope", head.scope, config.default_scope
    yield "model", head.model, _plain_type(model)
    yield head.part, head.head, _plain_type(model.get(head.part))
    yield "family", name.family, spell_size(cls.family) if cls else model.backbone.type
    yield "size", *_compare_sizes(cls, model.backbone.get("arch"), name.size)
    yield "neck", name.neck, head.neck
    neck = head.neck_type
    if name.head is None and cls is not None:
        pooled = cls.norm_after_pool
        neck = "mlp_backbones.PooledNorm" if pooled else "GlobalAveragePooling"
    yield "neck", neck, _plain_type(model.get("neck"))
    yield "batch of a GPU", name.batch, config.train_dataloader.batch_size
    total = config.auto_scale_lr.base_batch_size
    yield "batch of all GPUs", name.gpus * name.batch, total
    yield "length", length, (length[0], config.train_cfg.get(length[0]))
    kind, root, num_classes = DATASETS[name.dataset, head.scope]
    for split in ("train", "val", "test"):
        dataset = config[f"{split}_dataloader"].dataset
        yield (
            f"{split} data",
            (kind, root),
            (
                _plain_type(dataset),
                dataset.data_root,
            ),
        )
    yield "classes", {num_classes}, set(_count_classes(model))


def _plain_type(part: Mapping[str, Any] | None) -> str | None:
    """Return a type without the scope of the package that owns the task."""
    if not part:
        return None
    scope, _, name = part["type"].rpartition(".")
    return name if scope in TASKS else part["type"]


def _compare_sizes(cls: type | None, arch: object, size: str) -> tuple[object, object]:
    if isinstance(arch, str):
        return size, spell_size(arch)
    # A size of our own must not go by the name of one of the paper's.
    sizes = {spell_size(known) for known in getattr(cls, "arch_settings", ())}
    return size, "one of its own" if size in sizes else size


def _count_classes(model: Config) -> Iterator[int]:
    parts = [model, model.get("roi_head") or {}]
    keys = ("head", "bbox_head", "mask_head", "decode_head", "auxiliary_head")
    for part in parts:
        for key in keys:
            if part.get(key):
                yield part[key].num_classes
