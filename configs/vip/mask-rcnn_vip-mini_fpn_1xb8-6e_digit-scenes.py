_base_ = [
    "../_base_/digit_scenes/models/mask-rcnn_fpn.py",
    "../_base_/digit_scenes/datasets/instance.py",
    "../_base_/digit_scenes/schedules/6e.py",
    "../_base_/digit_scenes/runtimes/det.py",
]

model = dict(
    backbone=dict(type="mlp_backbones.VisionPermutator", arch="mini"),
    neck=dict(in_channels=[48, 96, 144, 144]),
)
