_base_ = [
    "../_base_/models/mask-rcnn_fpn.py",
    "../_base_/datasets/coco_instance_multi-scale.py",
    "../_base_/schedules/adamw_3x_swin.py",
    "../_base_/default_runtime_det.py",
]

# No weights of this size have been published for this class: give a checkpoint of your
# own ImageNet training as model.backbone.init_cfg, see docs/recipes.md.
model = dict(
    backbone=dict(
        type="mlp_backbones.CycleMLP",
        arch="base",
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
