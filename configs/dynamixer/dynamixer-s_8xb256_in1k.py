_base_ = [
    "../_base_/models/image-classifier.py",
    "../_base_/datasets/imagenet_bs128_224_crop90.py",
    "../_base_/schedules/imagenet_bs2048_adamw_300e.py",
    "../_base_/default_runtime_cls_ema.py",
]

train_dataloader = dict(batch_size=256)
model = dict(
    backbone=dict(
        type="mlp_backbones.DynaMixer",
        arch="s",
        pyramid=False,
        drop_path_rate=0.1,
    ),
    head=dict(in_channels=384),
)
