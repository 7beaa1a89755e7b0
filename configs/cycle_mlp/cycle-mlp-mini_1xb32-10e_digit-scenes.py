_base_ = [
    "../_base_/models/digit_scenes_image-classifier.py",
    "../_base_/datasets/digit_scenes_classification.py",
    "../_base_/schedules/digit_scenes_10e.py",
    "../_base_/digit_scenes_runtime_cls.py",
]

optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=32)
model = dict(
    backbone=dict(
        type="mlp_backbones.CycleMLP",
        arch=dict(
            embed_dims=(32, 64, 128, 192),
            depths=(2, 2, 2, 1),
            mlp_ratios=(4, 4, 4, 4),
        ),
    ),
    head=dict(in_channels=192),
)
