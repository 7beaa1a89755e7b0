backbone = dict(
    type="mlp_backbones.CSMixer",
    arch=dict(
        embed_dims=(32, 64, 128, 192),
        depths=(2, 2, 2, 1),
        num_heads=(2, 2, 4, 6),
        reduced_dims=(2, 2, 2, 2),
        group_sizes=(6, 6, 6, 6),
        mlp_ratio=4,
    ),
)
widths = [32, 64, 128, 192]
