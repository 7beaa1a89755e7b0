_base_ = [
    "../_base_/models/mask-rcnn_fpn.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime_det.py",
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
    neck=dict(in_channels=[128, 256, 512, 512]),
)
