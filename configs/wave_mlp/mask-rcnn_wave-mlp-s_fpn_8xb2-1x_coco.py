_base_ = [
    "../_base_/models/mask-rcnn_fpn.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime_det.py",
]

sync_bn = "torch"  # batch norms, in distributed training
model = dict(
    backbone=dict(
        type="mlp_backbones.WaveMLP",
        arch="s",
        init_cfg=dict(type="Pretrained", checkpoint="official"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
