_base_ = [
    "../_base_/models/digit_scenes_retinanet_fpn.py",
    "../_base_/datasets/digit_scenes_detection.py",
    "../_base_/schedules/digit_scenes_8e.py",
    "../_base_/digit_scenes_runtime_det.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.S2MLPv2",
        arch=dict(
            embed_dims=(96, 128, 128, 128),
            depths=(3, 2, 2, 1),
            transitions=(True, False, False, False),
            patch_size=7,
            mlp_ratios=(3, 3, 3, 3),
        ),
    ),
    neck=dict(in_channels=[96, 128, 128]),
)
