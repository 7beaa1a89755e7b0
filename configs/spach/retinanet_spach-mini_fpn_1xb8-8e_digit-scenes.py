_base_ = [
    "../_base_/models/digit_scenes_retinanet_fpn.py",
    "../_base_/datasets/digit_scenes_detection.py",
    "../_base_/schedules/digit_scenes_8e.py",
    "../_base_/digit_scenes_runtime_det.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.SPACH",
        arch=dict(
            embed_dims=(32, 64, 128, 192),
            net_arch=(
                (("pass", 2),),
                (("mlp", 2),),
                (("mlp", 1), ("attn", 1)),
                (("attn", 1),),
            ),
            num_heads=4,
            mlp_ratio=4,
            token_ratio=0.5,
            patch_size=4,
            stem_type="conv1",
            multi_stage=True,
        ),
        image_size=192,
        layer_scale=0.1,
    ),
    neck=dict(in_channels=[64, 128, 192]),
)
