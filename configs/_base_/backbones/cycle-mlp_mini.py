backbone = dict(
    type="mlp_backbones.CycleMLP",
    arch=dict(
        embed_dims=(32, 64, 128, 192),
        depths=(2, 2, 2, 1),
        mlp_ratios=(4, 4, 4, 4),
    ),
)
widths = [32, 64, 128, 192]
# For segmentation and classification: the paper's std of 0.02 leaves the branches of
# a network this narrow nearly silent.
linear_init = dict(type="Xavier", layer="Linear", distribution="uniform")
