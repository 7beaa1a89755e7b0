_base_ = [
    "../_base_/models/image-classifier.py",
    "../_base_/datasets/imagenet_bs128_224.py",
    "../_base_/schedules/imagenet_bs1024_adamw_300e.py",
    "../_base_/default_runtime_cls.py",
]

# What the paper states beyond the base: clipping at 1, and the rate of its table 1.
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
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
