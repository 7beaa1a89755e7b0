_base_ = [
    "../_base_/backbones/spach_mini.py",
    "../_base_/models/digit_scenes_image-classifier.py",
    "../_base_/datasets/digit_scenes_classification.py",
    "../_base_/schedules/digit_scenes_10e.py",
    "../_base_/digit_scenes_runtime_cls.py",
]

auto_scale_lr = dict(base_batch_size=32)
model = dict(
    backbone=dict(**_base_.backbone, pyramid=False, image_size=64),
    head=dict(in_channels=_base_.widths[-1]),
)
