_base_ = [
    "../_base_/models/digit_scenes_upernet.py",
    "../_base_/datasets/digit_scenes_segmentation.py",
    "../_base_/schedules/digit_scenes_3k.py",
    "../_base_/digit_scenes_runtime_seg.py",
]

model = dict(
    # The paper's std of 0.02 leaves layers this narrow nearly silent.
    init_cfg=dict(type="Xavier", layer="Linear", distribution="uniform"),
    backbone=dict(
        type="mlp_backbones.CycleMLP",
        arch=dict(
            embed_dims=(32, 64, 128, 192),
            depths=(2, 2, 2, 1),
            mlp_ratios=(4, 4, 4, 4),
        ),
    ),
    decode_head=dict(in_channels=[32, 64, 128, 192]),
    auxiliary_head=dict(in_channels=128),
)
