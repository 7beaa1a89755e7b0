_base_ = ["imagenet_bs1024_adamw_300e.py"]

# The recipe of ResMLP: LAMB, a rate of 5e-3 and a decay of 0.2 for 400 epochs; the rest
# is DeiT's.
train_cfg = dict(max_epochs=400)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="Lamb", lr=5e-3, weight_decay=0.2)
)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=2e-4,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min=1e-5,
        T_max=395,
        by_epoch=True,
        begin=5,
        end=400,
    ),
]
