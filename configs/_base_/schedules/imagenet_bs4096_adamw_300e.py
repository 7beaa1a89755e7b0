_base_ = ["imagenet_bs1024_adamw_300e.py"]

# The recipe of gMLP: four batches of 1024 make a step of 4096 images, 10,000 steps (32
# epochs) of warm-up, gradients clipped at 1.
optim_wrapper = dict(
    accumulative_counts=4,
    optimizer=dict(eps=1e-6),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=32,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min=1e-5,
        T_max=268,
        by_epoch=True,
        begin=32,
        end=300,
    ),
]
