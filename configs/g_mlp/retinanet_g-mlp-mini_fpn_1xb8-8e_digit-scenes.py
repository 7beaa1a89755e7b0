_base_ = [
    "../_base_/models/digit_scenes_retinanet_fpn.py",
    "../_base_/datasets/digit_scenes_detection.py",
    "../_base_/schedules/digit_scenes_8e.py",
    "../_base_/digit_scenes_runtime_det.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.GMLP",
        arch=dict(
            embed_dim=96,
            depth=8,
            patch_size=8,
            mlp_ratio=4,
        ),
        image_size=96,
        shift_windows=True,
    ),
    neck=dict(in_channels=[96, 96, 96]),
)
