"""Parameter counts of whole models against the papers' tables."""

import pytest
import shipped_configs
from mmengine.config import Config

from mlp_backbones.building import count_parameters

CONFIG_DIR = shipped_configs.CONFIG_DIR

# CycleMLP, arXiv 2107.10224v1, tables 5 and 6: millions as printed.
CYCLE_MLP = {
    "retinanet_cyclemlp-{}_fpn_8xb2-1x_coco": (24.9, 36.5, 48.1, 61.5, 85.9),
    "mask-rcnn_cyclemlp-{}_fpn_8xb2-1x_coco": (34.8, 46.5, 58.0, 71.5, 95.3),
    "fpn_cyclemlp-{}_8xb4-40k_ade20k-512x512": (18.9, 30.6, 42.1, 55.6, 79.4),
}
# What the authors' class has with 1000 classes.
CYCLE_MLP_CLASSIFIERS = {
    "b1": 15_155_400,
    "b2": 26_802_504,
    "b3": 38_385_720,
    "b4": 51_796_552,
    "b5": 75_747_280,
    "tiny": 32_372_152,
    "small": 55_445_560,
    "base": 98_159_016,
}


def _load(family: str, stem: str) -> Config:
    return shipped_configs.read(CONFIG_DIR / family / f"{stem}.py")


@pytest.mark.parametrize(
    ("stem", "millions"),
    [
        (stem.format(f"b{number}"), millions)
        for stem, row in CYCLE_MLP.items()
        for number, millions in enumerate(row, start=1)
    ],
)
def test_dense_models_of_cyclemlp_have_the_printed_size(stem, millions):
    count = count_parameters(_load("cyclemlp", stem))
    assert f"{count / 1e6:.1f}" == f"{millions:.1f}"


@pytest.mark.parametrize(("arch", "count"), CYCLE_MLP_CLASSIFIERS.items())
def test_classifiers_of_cyclemlp_have_the_exact_size(arch, count):
    config = _load("cyclemlp", f"cyclemlp-{arch}_8xb128_in1k")
    assert count_parameters(config) == count


def test_retinanet_is_the_stock_one_with_the_first_level_left_out():
    """Fewer maps from the backbone, same detector: only `norm0` is gone."""
    ours = _load("cyclemlp", "retinanet_cyclemlp-b1_fpn_8xb2-1x_coco")
    stock = Config(ours.to_dict())
    stock.model.backbone.out_indices = (0, 1, 2, 3)
    stock.model.neck.in_channels = [64, 128, 320, 512]
    stock.model.neck.start_level = 1
    assert count_parameters(stock) - count_parameters(ours) == 2 * 64
