_base_ = [
    "../_base_/models/image-classifier.py",
    "../_base_/datasets/imagenet_bs128_224.py",
    "../_base_/schedules/imagenet_bs1024_adamw_300e.py",
    "../_base_/default_runtime_cls.py",
]

# The published weights saw pixels from -1 to 1.
data_preprocessor = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])
model = dict(
    backbone=dict(
        type="mlp_backbones.MlpMixer",
        arch="s32",
        pyramid=False,
        drop_path_rate=0.1,
    ),
    head=dict(in_channels=512),
)
