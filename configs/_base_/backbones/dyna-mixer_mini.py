backbone = dict(
    type="mlp_backbones.DynaMixer",
    arch=dict(
        embed_dims=(96, 144, 144, 144),
        depths=(3, 2, 2, 1),
        resolutions=(24, 12, 12, 12),
        num_heads=(8, 8, 8, 8),
        reduced_dims=(2, 2, 2, 2),
        transitions=(True, False, False, False),
        mlp_ratios=(3, 3, 3, 3),
        patch_size=7,
    ),
)
widths = [48, 96, 144, 144]
# For segmentation and classification: the paper's std of 0.02 leaves the branches of
# a network this narrow nearly silent.
linear_init = dict(type="Xavier", layer="Linear", distribution="uniform")
