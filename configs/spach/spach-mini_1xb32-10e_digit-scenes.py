_base_ = [
    "../_base_/digit_scenes/models/image-classifier.py",
    "../_base_/digit_scenes/datasets/classification.py",
    "../_base_/digit_scenes/schedules/10e.py",
    "../_base_/digit_scenes/runtimes/cls.py",
]

auto_scale_lr = dict(base_batch_size=32)
model = dict(
    backbone=dict(
        type="mlp_backbones.SPACH",
        arch="mini",
        layer_scale=0.1,
        pyramid=False,
        image_size=64,
    ),
    head=dict(in_channels=192),
)
