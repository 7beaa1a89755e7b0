_base_ = [
    "../_base_/backbones/s2-mlp-v2_mini.py",
    "../_base_/digit_scenes/models/semantic-fpn.py",
    "../_base_/digit_scenes/datasets/segmentation.py",
    "../_base_/digit_scenes/schedules/3k.py",
    "../_base_/digit_scenes/runtimes/seg.py",
]

model = dict(
    init_cfg=_base_.linear_init,
    backbone=_base_.backbone,
    neck=dict(in_channels=_base_.widths),
)
