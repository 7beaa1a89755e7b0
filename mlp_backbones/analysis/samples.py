"""Pictures of samples as a pipeline leaves them."""

from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mlp_backbones.engine.pictures import draw_sample, make_visualizer


def save_sample_pictures(
    config: Config, split: str, out_dir: Path, num_images: int = 10
) -> list[Path]:
    """Draw the first samples of a data set as its pipeline leaves them.

    What a batch goes through afterwards (mean and scale, mixup) is not part of it.

    Args:
        config: A whole config.
        split: ``train``, ``val`` or ``test``.
        out_dir: Folder for the pictures, made if need be.
        num_images: How many.

    Returns:
        The pictures, named by the number of the sample and its file.

    Raises:
        ValueError: If ``num_images`` is below 1 or the config has no such split.
    """
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, got {num_images}")
    loader = config.get(f"{split}_dataloader")
    if loader is None:
        raise ValueError(f"the config has no {split}_dataloader")
    init_default_scope(config.default_scope)
    dataset = DATASETS.build(loader["dataset"])
    visualizer = make_visualizer(dataset.metainfo)
    files = []
    for index in range(min(num_images, len(dataset))):
        item = dataset[index]
        sample = item["data_samples"]
        image = item["inputs"].permute(1, 2, 0).numpy()  # (3, H, W) -> (H, W, 3)
        image = image[..., ::-1].clip(0, 255).astype(np.uint8)  # the loaders give BGR
        name = Path(sample.get("img_path", "sample")).stem
        files.append(out_dir / f"{index:05d}_{name}.png")
        draw_sample(
            visualizer, image, sample, files[-1], ground_truth=True, with_labels=True
        )
    return files
