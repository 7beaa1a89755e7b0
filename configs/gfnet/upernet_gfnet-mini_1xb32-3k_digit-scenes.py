_base_ = [
    "../_base_/digit_scenes/models/upernet.py",
    "../_base_/digit_scenes/datasets/segmentation.py",
    "../_base_/digit_scenes/schedules/3k.py",
    "../_base_/digit_scenes/runtimes/seg.py",
]

model = dict(
    # Digits are as large in whole scenes as in the crops: so the filters stay, too.
    backbone=dict(
        type="mlp_backbones.GFNet", arch="mini", image_size=64, filter_resize="kernel"
    ),
    decode_head=dict(in_channels=[32, 64, 128, 192]),
    auxiliary_head=dict(in_channels=128),
)
