_base_ = [
    "../_base_/models/retinanet_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime_det.py",
]

sync_bn = "torch"  # batch norms, in distributed training
model = dict(
    backbone=dict(
        type="mlp_backbones.WaveMLP",
        arch="t_dw",
        init_cfg=dict(type="Pretrained", checkpoint="official"),
    ),
    neck=dict(in_channels=[128, 320, 512]),
)
