_base_ = [
    "../_base_/backbones/spach_mini.py",
    "../_base_/digit_scenes/models/upernet.py",
    "../_base_/digit_scenes/datasets/segmentation.py",
    "../_base_/digit_scenes/schedules/3k.py",
    "../_base_/digit_scenes/runtimes/seg.py",
]

model = dict(
    backbone=dict(**_base_.backbone, image_size=64),
    decode_head=dict(in_channels=_base_.widths),
    auxiliary_head=dict(in_channels=_base_.widths[2]),
)
