_base_ = [
    "../_base_/backbones/g-mlp_mini.py",
    "../_base_/digit_scenes/models/semantic-fpn.py",
    "../_base_/digit_scenes/datasets/segmentation.py",
    "../_base_/digit_scenes/schedules/3k.py",
    "../_base_/digit_scenes/runtimes/seg.py",
]

model = dict(
    backbone=dict(**_base_.backbone, image_size=64),
    neck=dict(in_channels=_base_.widths),
)
