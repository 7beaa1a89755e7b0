_base_ = [
    "../_base_/models/retinanet_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime_det.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.GFNet",
        arch="h_s",
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[192, 384, 768]),
)
