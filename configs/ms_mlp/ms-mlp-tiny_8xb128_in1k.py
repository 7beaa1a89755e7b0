_base_ = [
    "../_base_/models/image-classifier.py",
    "../_base_/datasets/imagenet_bs128_224.py",
    "../_base_/schedules/imagenet_bs1024_adamw_300e_swin.py",
    "../_base_/default_runtime_cls.py",
]

model = dict(
    backbone=dict(
        type="mlp_backbones.MSMLP",
        arch="tiny",
        out_norm=False,
        drop_path_rate=0.1,
    ),
    neck=dict(type="mlp_backbones.PooledNorm", norm=768, norm_eps=1e-6),
    head=dict(in_channels=768),
)
