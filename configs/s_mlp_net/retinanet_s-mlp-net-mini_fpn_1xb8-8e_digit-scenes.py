_base_ = [
    "../_base_/models/digit_scenes_retinanet_fpn.py",
    "../_base_/datasets/digit_scenes_detection.py",
    "../_base_/schedules/digit_scenes_8e.py",
    "../_base_/digit_scenes_runtime_det.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.SMLPNet",
        arch=dict(
            embed_dims=(32, 64, 128, 192), depths=(2, 2, 2, 1), mlp_ratios=(3, 3, 3, 3)
        ),
        image_size=192,
    ),
    neck=dict(in_channels=[64, 128, 192]),
)
