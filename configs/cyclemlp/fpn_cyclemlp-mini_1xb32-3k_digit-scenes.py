_base_ = [
    "../_base_/digit_scenes/models/semantic-fpn.py",
    "../_base_/digit_scenes/datasets/segmentation.py",
    "../_base_/digit_scenes/schedules/3k.py",
    "../_base_/digit_scenes/runtimes/seg.py",
]

model = dict(
    # At the paper's std of 0.02 branches this narrow would be nearly silent.
    init_cfg=dict(type="Xavier", layer="Linear", distribution="uniform"),
    backbone=dict(type="mlp_backbones.CycleMLP", arch="mini"),
    neck=dict(in_channels=[32, 64, 128, 192]),
)
