_base_ = [
    "../_base_/models/image-classifier.py",
    "../_base_/datasets/imagenet_bs128_224_repeat-aug.py",
    "../_base_/schedules/imagenet_bs1024_adamw_300e_warmup20.py",
    "../_base_/default_runtime_cls.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.SPACH",
        arch="s_conv",
        pyramid=False,
        drop_path_rate=0.1,
    ),
    head=dict(in_channels=512),
)
