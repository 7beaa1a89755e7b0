_base_ = [
    "../_base_/models/digit_scenes_retinanet_fpn.py",
    "../_base_/datasets/digit_scenes_detection.py",
    "../_base_/schedules/digit_scenes_8e.py",
    "../_base_/digit_scenes_runtime_det.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.ResMLP",
        arch=dict(
            embed_dim=128,
            depth=8,
            patch_size=8,
            mlp_ratio=3,
            init_scale=0.1,
        ),
        image_size=96,
        shift_windows=True,
    ),
    neck=dict(in_channels=[128, 128, 128]),
)
