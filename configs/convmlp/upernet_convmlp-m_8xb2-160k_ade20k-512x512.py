_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/ade20k_bs2.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/default_runtime_seg.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.ConvMLP",
        arch="m",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="official"),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
