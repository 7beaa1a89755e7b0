backbone = dict(
    type="mlp_backbones.CCSMLP",
    arch=dict(
        host="res_mlp",
        embed_dim=128,
        depth=8,
        patch_size=8,
        mlp_ratio=3,
        ccs_groups=8,
    ),
    init_scale=0.1,
)
widths = [64, 128, 128, 128]
