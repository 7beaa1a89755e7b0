backbone = dict(
    type="mlp_backbones.MlpMixer",
    arch=dict(
        embed_dim=128,
        depth=6,
        patch_size=8,
        tokens_mlp_dim=72,
        channels_mlp_dim=384,
        gated=False,
    ),
)
widths = [64, 128, 128, 128]
