backbone = dict(
    type="mlp_backbones.S2MLP",
    arch=dict(
        embed_dim=160,
        depth=6,
        patch_size=16,
        mlp_ratio=4,
        norm="ln",
    ),
)
widths = [40, 80, 160, 160]
