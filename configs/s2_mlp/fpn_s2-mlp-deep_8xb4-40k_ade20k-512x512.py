_base_ = [
    "../_base_/models/semantic-fpn.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_40k.py",
    "../_base_/default_runtime_seg.py",
]

# No weights of this size have been published: give a checkpoint of your own ImageNet
# training as model.backbone.init_cfg, see docs/recipes.md.
model = dict(
    backbone=dict(
        type="mlp_backbones.S2MLP",
        arch="deep",
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[96, 192, 384, 384]),
)
