_base_ = [
    "../_base_/models/semantic-fpn.py",
    "../_base_/datasets/ade20k_bs2.py",
    "../_base_/schedules/adamw_80k.py",
    "../_base_/default_runtime_seg.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.GFNet",
        arch="s",
        drop_path_rate=0.15,
    ),
    neck=dict(in_channels=[96, 192, 384, 384]),
)
