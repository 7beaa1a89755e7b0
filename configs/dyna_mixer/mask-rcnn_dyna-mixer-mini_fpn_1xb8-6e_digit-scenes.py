_base_ = [
    "../_base_/backbones/dyna-mixer_mini.py",
    "../_base_/models/digit_scenes_mask-rcnn_fpn.py",
    "../_base_/datasets/digit_scenes_instance.py",
    "../_base_/schedules/digit_scenes_6e.py",
    "../_base_/digit_scenes_runtime_det.py",
]

model = dict(
    backbone=_base_.backbone,
    neck=dict(in_channels=_base_.widths),
)
