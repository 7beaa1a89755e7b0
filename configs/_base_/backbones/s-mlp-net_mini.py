backbone = dict(
    type="mlp_backbones.SMLPNet",
    arch=dict(
        embed_dims=(32, 64, 128, 192),
        depths=(2, 2, 2, 1),
        mlp_ratios=(3, 3, 3, 3),
    ),
)
widths = [32, 64, 128, 192]
