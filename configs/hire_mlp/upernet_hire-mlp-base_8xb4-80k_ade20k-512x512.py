_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_80k_upernet.py",
    "../_base_/default_runtime_seg.py",
]

sync_bn = "torch"  # batch norms, in distributed training
model = dict(
    backbone=dict(
        type="mlp_backbones.HireMLP",
        arch="base",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="official"),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
