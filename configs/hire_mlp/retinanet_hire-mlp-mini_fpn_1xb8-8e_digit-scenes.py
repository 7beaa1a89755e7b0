_base_ = [
    "../_base_/models/digit_scenes_retinanet_fpn.py",
    "../_base_/datasets/digit_scenes_detection.py",
    "../_base_/schedules/digit_scenes_8e.py",
    "../_base_/digit_scenes_runtime_det.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.HireMLP",
        arch=dict(
            embed_dims=(32, 64, 128, 192),
            depths=(2, 2, 3, 1),
            mlp_ratios=(4, 4, 4, 4),
            region_size=(4, 3, 3, 2),
            shift_cycle=(2, 2, 3, 2),
            shift_dilation=(2, 2, 1, 1),
        ),
    ),
    neck=dict(in_channels=[64, 128, 192]),
)
