_base_ = [
    "../_base_/models/retinanet_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime_det.py",
]

# No weights of this size have been published: give a checkpoint of your own ImageNet
# training as model.backbone.init_cfg, see docs/recipes.md.
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        type="mlp_backbones.GMLP",
        arch="ti16",
        shift_windows=True,
    ),
    neck=dict(in_channels=[64, 128, 128]),
)
