_base_ = [
    "../_base_/digit_scenes/models/upernet.py",
    "../_base_/digit_scenes/datasets/segmentation.py",
    "../_base_/digit_scenes/schedules/3k.py",
    "../_base_/digit_scenes/runtimes/seg.py",
]

model = dict(
    backbone=dict(type="mlp_backbones.ConvMLP", arch="mini"),
    decode_head=dict(in_channels=[32, 64, 128, 192]),
    auxiliary_head=dict(in_channels=128),
)
