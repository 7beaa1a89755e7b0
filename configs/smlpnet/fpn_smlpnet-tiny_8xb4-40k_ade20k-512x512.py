_base_ = [
    "../_base_/models/semantic-fpn.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_40k.py",
    "../_base_/default_runtime_seg.py",
]

sync_bn = "torch"  # batch norms, in distributed training
model = dict(
    backbone=dict(
        type="mlp_backbones.SMLPNet",
        arch="tiny",
        shift_windows=True,
    ),
    neck=dict(in_channels=[80, 160, 320, 640]),
)
