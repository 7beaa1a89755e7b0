_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/ade20k_bs2.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/default_runtime_seg.py",
]

# No weights of this size can be fetched: give a checkpoint of ImageNet training as
# model.backbone.init_cfg, see docs/recipes.md.
model = dict(
    backbone=dict(
        type="mlp_backbones.DynaMixer",
        arch="m",
        shift_windows=True,
        drop_path_rate=0.1,
    ),
    decode_head=dict(in_channels=[128, 256, 512, 512]),
    auxiliary_head=dict(in_channels=512),
)
