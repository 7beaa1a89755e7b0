_base_ = [
    "../_base_/backbones/s2-mlp_mini.py",
    "../_base_/digit_scenes/models/semantic-fpn.py",
    "../_base_/digit_scenes/datasets/segmentation.py",
    "../_base_/digit_scenes/schedules/3k.py",
    "../_base_/digit_scenes/runtimes/seg.py",
]

model = dict(
    backbone=_base_.backbone,
    neck=dict(in_channels=_base_.widths),
)
