_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/datasets/ade20k_bs2.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/default_runtime_seg.py",
]

# The authors' weights lie where no program can fetch them, see README.md: give a
# downloaded file as model.backbone.init_cfg, see docs/recipes.md.
model = dict(
    backbone=dict(
        type="mlp_backbones.ASMLP",
        arch="base",
        shift_size=5,
        drop_path_rate=0.5,
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
