"""What can be counted and read from a config: its part of a metafile's entry."""

from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from dev.zoo.naming import TRAINING_DATA
from mlp_backbones.analysis.complexity import measure_complexity
from mlp_backbones.building import count_parameters
from mlp_backbones.config_names import parse_config_name

__all__ = ["Facts", "count_flops", "has_flops", "images_per_step", "read_facts"]


@dataclass(frozen=True)
class Facts:
    """What a config says of itself.

    Attributes:
        parameters: Number of parameters of the whole model.
        batch_size: Images a step, on all GPUs together.
        epochs: Length of the training, or None where it is counted in iterations.
        iterations: Length of the training, or None where it is counted in epochs.
        training_data: Such as ``COCO``.
    """

    parameters: int
    batch_size: int
    epochs: int | None
    iterations: int | None
    training_data: str


def read_facts(path: str | Path, config: Config) -> Facts:
    """Read and count what an entry states, but for the multiply-adds.

    Args:
        path: The config's file, whose name says the data set.
        config: What it holds.

    Raises:
        ValueError: If the name does not follow the rule or names unknown data.
    """
    dataset = parse_config_name(path).dataset
    if dataset not in TRAINING_DATA:
        known = ", ".join(TRAINING_DATA)
        raise ValueError(f"{path}: unknown data set {dataset!r}, known are {known}")
    return Facts(
        parameters=count_parameters(config),
        batch_size=images_per_step(config),
        epochs=config.train_cfg.get("max_epochs"),
        iterations=config.train_cfg.get("max_iters"),
        training_data=TRAINING_DATA[dataset],
    )


def images_per_step(config: Config) -> int:
    """Count the images behind one step of the optimizer, on all GPUs together.

    They are more than those of one batch where gradients are accumulated.

    Args:
        config: Any config with ``auto_scale_lr``.
    """
    batches = (config.get("optim_wrapper") or {}).get("accumulative_counts", 1)
    return config.auto_scale_lr.base_batch_size * batches


def has_flops(path: str | Path) -> bool:
    """Return whether an entry states multiply-adds: that of an ImageNet classifier."""
    return parse_config_name(path).dataset == "in1k"


def count_flops(config: Config) -> int:
    """Count the multiply-adds of one image, which papers call FLOPs.

    Args:
        config: A classifier's config; its test pipeline says the size of the image.

    Raises:
        ValueError: If the test pipeline crops to no fixed size.
    """
    side = _crop_size(config)
    return measure_complexity(config, (side, side)).multiply_adds


def _crop_size(config: Config) -> int:
    for step in config.test_dataloader.dataset.pipeline:
        if step.type.endswith("CenterCrop"):
            return step.crop_size
    raise ValueError(f"no CenterCrop in the test pipeline of {config.filename}")
