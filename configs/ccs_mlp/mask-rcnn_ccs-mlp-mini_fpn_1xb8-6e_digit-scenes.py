_base_ = [
    "../_base_/digit_scenes/models/mask-rcnn_fpn.py",
    "../_base_/digit_scenes/datasets/instance.py",
    "../_base_/digit_scenes/schedules/6e.py",
    "../_base_/digit_scenes/runtimes/det.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.CCSMLP", arch="mini", init_scale=0.1, image_size=96
    ),
    neck=dict(in_channels=[64, 128, 128, 128]),
)
