_base_ = ["imagenet_bs1024_adamw_300e.py"]

# The recipe of S2-MLPv2: 10 epochs of warm-up to 2e-3, cosine to 1e-5.
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=10,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min=1e-5,
        T_max=290,
        by_epoch=True,
        begin=10,
        end=300,
    ),
]
