_base_ = [
    f"{__import__('mlp_backbones').config_dir()}/_base_/{part}.py"
    for part in (
        "models/digit_scenes_retinanet_fpn",
        "datasets/digit_scenes_detection",
        "schedules/digit_scenes_8e",
        "digit_scenes_runtime_det",
    )
]
custom_imports = dict(imports=["my_mixer"])

model = dict(
    backbone=dict(type="MyMixer", arch="tiny"),
    neck=dict(in_channels=[64, 128, 192]),
)
