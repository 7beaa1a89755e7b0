_base_ = [
    "../_base_/models/semantic-fpn.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_40k.py",
    "../_base_/default_runtime_seg.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.ConvMLP",
        arch="s",
        taps="detector",
        out_norm=False,
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="official"),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
