_base_ = [
    "../_base_/models/retinanet_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime_det.py",
]

# No weights of this size have been published: give a checkpoint of your own ImageNet
# training as model.backbone.init_cfg, see docs/recipes.md.
model = dict(
    backbone=dict(
        type="mlp_backbones.S2MLP",
        arch="wide",
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[384, 768, 768]),
)
