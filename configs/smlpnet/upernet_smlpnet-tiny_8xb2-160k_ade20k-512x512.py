_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/ade20k_bs2.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/default_runtime_seg.py",
]

sync_bn = "torch"  # batch norms, in distributed training
model = dict(
    backbone=dict(
        type="mlp_backbones.SMLPNet",
        arch="tiny",
        shift_windows=True,
    ),
    decode_head=dict(in_channels=[80, 160, 320, 640]),
    auxiliary_head=dict(in_channels=320),
)
