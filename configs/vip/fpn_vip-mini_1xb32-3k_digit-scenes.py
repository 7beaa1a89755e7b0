_base_ = [
    "../_base_/digit_scenes/models/semantic-fpn.py",
    "../_base_/digit_scenes/datasets/segmentation.py",
    "../_base_/digit_scenes/schedules/3k.py",
    "../_base_/digit_scenes/runtimes/seg.py",
]

model = dict(
    # At the paper's std of 0.02 branches this narrow would be nearly silent.
    init_cfg=dict(type="Xavier", layer="Linear", distribution="uniform"),
    # The crops of 64 pixels in patches of 8, which the pyramid makes of those of 7.
    backbone=dict(type="mlp_backbones.VisionPermutator", arch="mini", image_size=56),
    neck=dict(in_channels=[48, 96, 144, 144]),
)
