backbone = dict(
    type="mlp_backbones.MSMLP",
    arch=dict(
        embed_dims=(40, 80, 120, 180),
        depths=(1, 2, 2, 1),
        mlp_ratios=(4, 4, 4, 4),
    ),
)
widths = [40, 80, 120, 180]
