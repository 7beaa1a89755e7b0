backbone = dict(
    type="mlp_backbones.GMLP",
    arch=dict(
        embed_dim=96,
        depth=8,
        patch_size=8,
        mlp_ratio=4,
    ),
)
widths = [48, 96, 96, 96]
