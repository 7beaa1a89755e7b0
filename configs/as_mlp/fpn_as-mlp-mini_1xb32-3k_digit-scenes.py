_base_ = [
    "../_base_/digit_scenes/models/semantic-fpn.py",
    "../_base_/digit_scenes/datasets/segmentation.py",
    "../_base_/digit_scenes/schedules/3k.py",
    "../_base_/digit_scenes/runtimes/seg.py",
]

model = dict(
    backbone=dict(type="mlp_backbones.ASMLP", arch="mini"),
    neck=dict(in_channels=[32, 64, 128, 192]),
)
