_base_ = ["imagenet_bs1024_adamw_300e.py"]

# The recipe of Swin: 20 epochs of warm-up and clipped gradients.
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
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
