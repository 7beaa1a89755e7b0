_base_ = [
    "../_base_/digit_scenes/models/mask-rcnn_fpn.py",
    "../_base_/digit_scenes/datasets/instance.py",
    "../_base_/digit_scenes/schedules/6e.py",
    "../_base_/digit_scenes/runtimes/det.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.GMLP", arch="mini", image_size=96, shift_windows=True
    ),
    neck=dict(in_channels=[48, 96, 96, 96]),
)
