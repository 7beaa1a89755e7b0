_base_ = ["imagenet_bs1024_adamw_300e.py"]

# 20 epochs of warm-up instead of 5.
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=20,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min=1e-5,
        T_max=280,
        by_epoch=True,
        begin=20,
        end=300,
    ),
]
