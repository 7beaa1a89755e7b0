_base_ = [
    "../_base_/backbones/ms-mlp_mini.py",
    "../_base_/models/digit_scenes_upernet.py",
    "../_base_/datasets/digit_scenes_segmentation.py",
    "../_base_/schedules/digit_scenes_3k.py",
    "../_base_/digit_scenes_runtime_seg.py",
]

model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.widths),
    auxiliary_head=dict(in_channels=_base_.widths[2]),
)
