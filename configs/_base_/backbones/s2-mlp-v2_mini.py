backbone = dict(
    type="mlp_backbones.S2MLPv2",
    arch=dict(
        embed_dims=(96, 128, 128, 128),
        depths=(3, 2, 2, 1),
        transitions=(True, False, False, False),
        patch_size=7,
        mlp_ratios=(3, 3, 3, 3),
    ),
)
widths = [48, 96, 128, 128]
# For segmentation and classification: the paper's std of 0.02 leaves the branches of
# a network this narrow nearly silent.
linear_init = dict(type="Xavier", layer="Linear", distribution="uniform")
