backbone = dict(
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
    layer_scale=0.1,
)
widths = [32, 64, 128, 192]
