_base_ = [
    "../_base_/backbones/gf-net_mini.py",
    "../_base_/digit_scenes/models/semantic-fpn.py",
    "../_base_/digit_scenes/datasets/segmentation.py",
    "../_base_/digit_scenes/schedules/3k.py",
    "../_base_/digit_scenes/runtimes/seg.py",
]

model = dict(
    # Digits are as large in whole scenes as in the crops: so the filters stay, too.
    backbone=dict(**_base_.backbone, image_size=64, filter_resize="kernel"),
    neck=dict(in_channels=_base_.widths),
)
