_base_ = [
    "../_base_/backbones/as-mlp_mini.py",
    "../_base_/digit_scenes/models/upernet.py",
    "../_base_/digit_scenes/datasets/segmentation.py",
    "../_base_/digit_scenes/schedules/3k.py",
    "../_base_/digit_scenes/runtimes/seg.py",
]

model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.widths),
    auxiliary_head=dict(in_channels=_base_.widths[2]),
)
