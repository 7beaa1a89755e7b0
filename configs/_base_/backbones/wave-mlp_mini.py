backbone = dict(
    type="mlp_backbones.WaveMLP",
    arch=dict(
        embed_dims=(32, 64, 128, 192),
        depths=(1, 2, 2, 1),
        mlp_ratios=(4, 4, 4, 4),
        phase="pointwise",
        norm="batch_norm",
        downsample_norm=True,
        window=7,
    ),
)
widths = [32, 64, 128, 192]
