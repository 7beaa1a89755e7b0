_base_ = ["imagenet_bs1024_adamw_300e.py"]

# The recipe of Vision Permutator and DynaMixer: 20 epochs of warm-up to 2e-3 for 2048
# images, cosine to 1e-5.
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=5e-4,
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

auto_scale_lr = dict(base_batch_size=2048)
