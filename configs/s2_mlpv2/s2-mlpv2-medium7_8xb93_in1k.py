_base_ = [
    "../_base_/models/image-classifier.py",
    "../_base_/datasets/imagenet_bs128_224.py",
    "../_base_/schedules/imagenet_bs1024_adamw_300e_lr2e-3.py",
    "../_base_/default_runtime_cls_ema.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.S2MLPv2",
        arch="medium7",
        pyramid=False,
        drop_path_rate=0.1,
    ),
    head=dict(in_channels=512),
)
train_dataloader = dict(batch_size=93)  # 744 images a step, as in the paper
auto_scale_lr = dict(base_batch_size=744)
