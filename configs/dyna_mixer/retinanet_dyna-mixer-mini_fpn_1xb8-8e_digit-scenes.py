_base_ = [
    "../_base_/models/digit_scenes_retinanet_fpn.py",
    "../_base_/datasets/digit_scenes_detection.py",
    "../_base_/schedules/digit_scenes_8e.py",
    "../_base_/digit_scenes_runtime_det.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.DynaMixer",
        arch=dict(
            embed_dims=(96, 144, 144, 144),
            depths=(3, 2, 2, 1),
            resolutions=(24, 12, 12, 12),
            num_heads=(8, 8, 8, 8),
            reduced_dims=(2, 2, 2, 2),
            transitions=(True, False, False, False),
            mlp_ratios=(3, 3, 3, 3),
            patch_size=7,
        ),
    ),
    neck=dict(in_channels=[96, 144, 144]),
)
