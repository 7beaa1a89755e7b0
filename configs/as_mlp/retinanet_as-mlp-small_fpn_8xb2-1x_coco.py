_base_ = [
    "../_base_/models/retinanet_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/adamw_1x_swin.py",
    "../_base_/default_runtime_det.py",
]

# The authors' weights lie where no program can fetch them, see README.md: give a
# downloaded file as model.backbone.init_cfg, see docs/recipes.md.
model = dict(
    backbone=dict(
        type="mlp_backbones.ASMLP",
        arch="small",
        shift_size=5,
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[192, 384, 768]),
)
