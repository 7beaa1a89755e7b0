backbone = dict(
    type="mlp_backbones.GFNet",
    arch=dict(
        embed_dims=(32, 64, 128, 192),
        depths=(2, 2, 2, 1),
        mlp_ratios=(4, 4, 4, 4),
        patch_size=4,
        hierarchical=True,
    ),
)
widths = [32, 64, 128, 192]
