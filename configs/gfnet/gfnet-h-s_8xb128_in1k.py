_base_ = [
    "../_base_/models/image-classifier.py",
    "../_base_/datasets/imagenet_bs128_224_crop90_no-erasing.py",
    "../_base_/schedules/imagenet_bs1024_adamw_300e_clip1.py",
    "../_base_/default_runtime_cls.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.GFNet",
        arch="h_s",
        pyramid=False,
        drop_path_rate=0.2,
    ),
    head=dict(in_channels=768),
)
