_base_ = [
    "../_base_/models/mask-rcnn_fpn.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime_det.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.CycleMLP",
        arch="b1",
        init_cfg=dict(type="Pretrained", checkpoint="official"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
