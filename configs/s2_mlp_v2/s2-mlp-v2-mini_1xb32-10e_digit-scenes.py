_base_ = [
    "../_base_/backbones/s2-mlp-v2_mini.py",
    "../_base_/digit_scenes/models/image-classifier.py",
    "../_base_/digit_scenes/datasets/classification.py",
    "../_base_/digit_scenes/schedules/10e.py",
    "../_base_/digit_scenes/runtimes/cls.py",
]

auto_scale_lr = dict(base_batch_size=32)
model = dict(
    init_cfg=_base_.linear_init,
    backbone=dict(**_base_.backbone, pyramid=False),
    head=dict(in_channels=_base_.widths[-1]),
)
