_base_ = [
    "../_base_/backbones/mlp-mixer_mini.py",
    "../_base_/digit_scenes/models/mask-rcnn_fpn.py",
    "../_base_/digit_scenes/datasets/instance.py",
    "../_base_/digit_scenes/schedules/6e.py",
    "../_base_/digit_scenes/runtimes/det.py",
]

model = dict(
    backbone=dict(**_base_.backbone, image_size=96, shift_windows=True),
    neck=dict(in_channels=_base_.widths),
)
