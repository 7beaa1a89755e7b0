_base_ = [
    "../_base_/backbones/vip_mini.py",
    "../_base_/digit_scenes/models/retinanet_fpn.py",
    "../_base_/digit_scenes/datasets/detection.py",
    "../_base_/digit_scenes/schedules/8e.py",
    "../_base_/digit_scenes/runtimes/det.py",
]

model = dict(
    backbone=_base_.backbone,
    neck=dict(in_channels=_base_.widths[1:]),
)
