_base_ = [
    "../_base_/models/semantic-fpn.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_40k.py",
    "../_base_/default_runtime_seg.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.ResMLP",
        arch="s36",
        shift_windows=True,
        init_cfg=dict(type="Pretrained", checkpoint="official"),
    ),
    neck=dict(in_channels=[96, 192, 384, 384]),
)
