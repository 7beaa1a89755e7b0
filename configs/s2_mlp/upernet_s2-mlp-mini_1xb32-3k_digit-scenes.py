_base_ = [
    "../_base_/digit_scenes/models/upernet.py",
    "../_base_/digit_scenes/datasets/segmentation.py",
    "../_base_/digit_scenes/schedules/3k.py",
    "../_base_/digit_scenes/runtimes/seg.py",
]

model = dict(
    backbone=dict(type="mlp_backbones.S2MLP", arch="mini"),
    decode_head=dict(in_channels=[40, 80, 160, 160]),
    auxiliary_head=dict(in_channels=160),
)
