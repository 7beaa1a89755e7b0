_base_ = [
    "../_base_/models/image-classifier.py",
    "../_base_/datasets/imagenet_bs128_224.py",
    "../_base_/schedules/imagenet_bs2048_adamw_300e.py",
    "../_base_/default_runtime_cls_ema.py",
]

train_dataloader = dict(batch_size=64)
model = dict(
    backbone=dict(
        type="mlp_backbones.DynaMixer",
        arch="l",
        pyramid=False,
        drop_path_rate=0.3,
    ),
    head=dict(in_channels=512),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
# From 1e-6, as at the rate of the other sizes.
param_scheduler = [
    dict(_base_.param_scheduler[0], start_factor=1e-3),
    _base_.param_scheduler[1],
]
auto_scale_lr = dict(base_batch_size=512)
