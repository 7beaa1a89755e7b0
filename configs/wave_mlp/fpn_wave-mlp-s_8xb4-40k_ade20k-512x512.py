_base_ = [
    "../_base_/models/semantic-fpn.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_40k.py",
    "../_base_/default_runtime_seg.py",
]

sync_bn = "torch"  # batch norms, in distributed training
optim_wrapper = dict(optimizer=dict(lr=1e-4))
model = dict(
    backbone=dict(
        type="mlp_backbones.WaveMLP",
        arch="s",
        init_cfg=dict(type="Pretrained", checkpoint="official"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
