# From scratch on a CPU.
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=8, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        flat_decay_mult=0.0, custom_keys={"pos_embed": dict(decay_mult=0.0)}
    ),
    clip_grad=dict(max_norm=5.0, norm_type=2),
)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=0.05,
        by_epoch=True,
        begin=0,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min=2e-5,
        T_max=7,
        by_epoch=True,
        begin=1,
        end=8,
        convert_to_iter_based=True,
    ),
]

auto_scale_lr = dict(enable=False, base_batch_size=8)
