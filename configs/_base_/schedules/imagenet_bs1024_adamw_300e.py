# DeiT style: 5 epochs of warm-up from 1e-6, cosine to 1e-5, no decay for biases, norms
# and other scales of single channels.
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=300, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        flat_decay_mult=0.0, custom_keys={"pos_embed": dict(decay_mult=0.0)}
    ),
)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min=1e-5,
        T_max=295,
        by_epoch=True,
        begin=5,
        end=300,
    ),
]

auto_scale_lr = dict(enable=False, base_batch_size=1024)
