_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/ade20k_bs2.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/default_runtime_seg.py",
]

# No weights of this size have been published for this class: give a checkpoint of your
# own ImageNet training as model.backbone.init_cfg, see docs/recipes.md.
model = dict(
    backbone=dict(
        type="mlp_backbones.CycleMLP",
        arch="tiny",
        drop_path_rate=0.3,
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
