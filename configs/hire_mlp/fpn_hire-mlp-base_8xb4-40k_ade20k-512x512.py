_base_ = [
    "../_base_/models/semantic-fpn.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_40k.py",
    "../_base_/default_runtime_seg.py",
]

sync_bn = "torch"  # batch norms, in distributed training
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
model = dict(
    backbone=dict(
        type="mlp_backbones.HireMLP",
        arch="base",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="official"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
