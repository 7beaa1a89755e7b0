_base_ = [
    "../_base_/models/digit_scenes_retinanet_fpn.py",
    "../_base_/datasets/digit_scenes_detection.py",
    "../_base_/schedules/digit_scenes_8e.py",
    "../_base_/digit_scenes_runtime_det.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.S2MLP",
        arch=dict(
            embed_dim=160,
            depth=6,
            patch_size=16,
            mlp_ratio=4,
            norm="ln",
        ),
    ),
    neck=dict(in_channels=[80, 160, 160]),
)
