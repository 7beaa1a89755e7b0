_base_ = [
    "../_base_/digit_scenes/models/upernet.py",
    "../_base_/digit_scenes/datasets/segmentation.py",
    "../_base_/digit_scenes/schedules/3k.py",
    "../_base_/digit_scenes/runtimes/seg.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.CCSMLP", arch="mini", init_scale=0.1, image_size=64
    ),
    decode_head=dict(in_channels=[64, 128, 128, 128]),
    auxiliary_head=dict(in_channels=128),
)
