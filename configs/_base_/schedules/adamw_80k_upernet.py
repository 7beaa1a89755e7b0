_base_ = ["adamw_160k.py"]

# The recipe of Hire-MLP for UperNet: half the steps of twice the images, at twice the
# rate, and the same decay for all parameters.
train_cfg = dict(max_iters=80000, val_interval=8000)
optim_wrapper = dict(optimizer=dict(lr=1.2e-4), paramwise_cfg=None)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=800),
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=800, end=80000),
]

auto_scale_lr = dict(base_batch_size=32)
