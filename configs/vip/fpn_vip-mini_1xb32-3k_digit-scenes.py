_base_ = [
    "../_base_/backbones/vip_mini.py",
    "../_base_/digit_scenes/models/semantic-fpn.py",
    "../_base_/digit_scenes/datasets/segmentation.py",
    "../_base_/digit_scenes/schedules/3k.py",
    "../_base_/digit_scenes/runtimes/seg.py",
]

model = dict(
    init_cfg=_base_.linear_init,
    # The crops of 64 pixels in patches of 8, which the pyramid makes of those of 7.
    backbone=dict(**_base_.backbone, image_size=56),
    neck=dict(in_channels=_base_.widths),
)
