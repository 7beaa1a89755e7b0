backbone = dict(
    type="mlp_backbones.ResMLP",
    arch=dict(
        embed_dim=128,
        depth=8,
        patch_size=8,
        mlp_ratio=3,
        init_scale=0.1,
    ),
)
widths = [64, 128, 128, 128]
