_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/ade20k_bs2.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/default_runtime_seg.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.GFNet",
        arch="h_s",
        drop_path_rate=0.2,
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
