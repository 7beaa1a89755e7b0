_base_ = [
    "../_base_/digit_scenes/models/retinanet_fpn.py",
    "../_base_/digit_scenes/datasets/detection.py",
    "../_base_/digit_scenes/schedules/8e.py",
    "../_base_/digit_scenes/runtimes/det.py",
]

model = dict(
    backbone=dict(type="mlp_backbones.MSMLP", arch="mini"),
    neck=dict(in_channels=[80, 120, 180]),
)
