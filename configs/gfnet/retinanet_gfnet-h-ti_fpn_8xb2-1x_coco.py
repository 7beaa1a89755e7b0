_base_ = [
    "../_base_/models/retinanet_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime_det.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.GFNet",
        arch="h_ti",
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[128, 256, 512]),
)
