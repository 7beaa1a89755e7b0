backbone = dict(
    type="mlp_backbones.ASMLP",
    arch=dict(
        embed_dims=(32, 64, 128, 192),
        depths=(2, 2, 2, 1),
    ),
)
widths = [32, 64, 128, 192]
