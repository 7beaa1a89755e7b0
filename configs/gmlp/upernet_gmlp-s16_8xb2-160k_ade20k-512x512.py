_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/ade20k_bs2.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/default_runtime_seg.py",
]

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        type="mlp_backbones.GMLP",
        arch="s16",
        shift_windows=True,
        drop_path_rate=0.05,
        init_cfg=dict(type="Pretrained", checkpoint="official"),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 256]),
    auxiliary_head=dict(in_channels=256),
)
