"""Pictures of what a model predicts on its test set."""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mlp_backbones.building import build_model
from mlp_backbones.engine.pictures import (
    PictureFolder,
    draw_prediction,
    make_visualizer,
)


def save_prediction_pictures(
    config: Config,
    checkpoint: str,
    out_dir: Path,
    num_images: int = 8,
    score_threshold: float = 0.3,
) -> list[Path]:
    """Run a model on the first images of its test set and draw what it says.

    Args:
        config: A whole config.
        checkpoint: Its weights.
        out_dir: Folder for the pictures, made if need be.
        num_images: How many.
        score_threshold: Detections below it are left out.

    Returns:
        The pictures.

    Raises:
        ValueError: If ``num_images`` is below 1 or the weights do not fit.
    """
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, got {num_images}")
    init_default_scope(config.default_scope)
    model: Any = build_model(config, checkpoint=checkpoint).eval()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    loader_config = config.test_dataloader.copy()
    loader_config.update(batch_size=1, num_workers=0, persistent_workers=False)
    loader_config.pop("prefetch_factor", None)
    loader = Runner.build_dataloader(loader_config)
    visualizer = make_visualizer(loader.dataset.metainfo)
    pictures = PictureFolder(out_dir)
    files = []
    for batch, _ in zip(loader, range(num_images), strict=False):
        with torch.no_grad():
            sample = model.test_step(batch)[0]
        files.append(pictures.file_for(sample.img_path))
        draw_prediction(visualizer, sample, files[-1], score_threshold)
    return files
