_base_ = [
    "../_base_/models/image-classifier.py",
    "../_base_/datasets/imagenet_bs128_224_autoaugment.py",
    "../_base_/schedules/imagenet_bs4096_adamw_300e.py",
    "../_base_/default_runtime_cls.py",
]

data_preprocessor = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])
model = dict(
    backbone=dict(
        type="mlp_backbones.GMLP",
        arch="s16",
        pyramid=False,
        drop_path_rate=0.05,
    ),
    head=dict(in_channels=256),
)
