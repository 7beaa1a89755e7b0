_base_ = [
    "../_base_/backbones/hire-mlp_mini.py",
    "../_base_/models/digit_scenes_image-classifier.py",
    "../_base_/datasets/digit_scenes_classification.py",
    "../_base_/schedules/digit_scenes_10e.py",
    "../_base_/digit_scenes_runtime_cls.py",
]

auto_scale_lr = dict(base_batch_size=32)
model = dict(
    init_cfg=_base_.linear_init,
    backbone=_base_.backbone,
    head=dict(in_channels=_base_.widths[-1]),
)
