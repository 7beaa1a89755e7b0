_base_ = [
    f"{__import__('mlp_backbones').config_dir()}/_base_/digit_scenes/{part}.py"
    for part in (
        "models/retinanet_fpn",
        "datasets/detection",
        "schedules/8e",
        "runtimes/det",
    )
]
custom_imports = dict(imports=["my_mixer"])

model = dict(
    backbone=dict(type="MyMixer", arch="tiny"),
    neck=dict(in_channels=[64, 128, 192]),
)
