backbone = dict(
    type="mlp_backbones.ConvMLP",
    arch=dict(
        embed_dims=(32, 64, 128, 192),
        depths=(1, 2, 2, 2),
        mlp_ratios=(2, 2, 2),
    ),
)
widths = [32, 64, 128, 192]
