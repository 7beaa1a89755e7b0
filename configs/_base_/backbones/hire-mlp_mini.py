backbone = dict(
    type="mlp_backbones.HireMLP",
    arch=dict(
        embed_dims=(32, 64, 128, 192),
        depths=(2, 2, 3, 1),
        mlp_ratios=(4, 4, 4, 4),
        region_size=(4, 3, 3, 2),
        shift_cycle=(2, 2, 3, 2),
        shift_dilation=(2, 2, 1, 1),
    ),
)
widths = [32, 64, 128, 192]
# For segmentation and classification: the paper's std of 0.02 leaves the branches of
# a network this narrow nearly silent.
linear_init = dict(type="Xavier", layer="Linear", distribution="uniform")
