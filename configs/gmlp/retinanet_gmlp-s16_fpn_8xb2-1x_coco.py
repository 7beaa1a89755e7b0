_base_ = [
    "../_base_/models/retinanet_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime_det.py",
]

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        type="mlp_backbones.GMLP",
        arch="s16",
        shift_windows=True,
        init_cfg=dict(type="Pretrained", checkpoint="official"),
    ),
    neck=dict(in_channels=[128, 256, 256]),
)
