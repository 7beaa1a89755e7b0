_base_ = [
    "../_base_/models/image-classifier.py",
    "../_base_/datasets/imagenet_bs128_224_crop90_repeat-aug.py",
    "../_base_/schedules/imagenet_bs1024_lamb_400e.py",
    "../_base_/default_runtime_cls.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.ResMLP",
        arch="s36",
        pyramid=False,
        drop_path_rate=0.1,
    ),
    head=dict(in_channels=384),
)
