_base_ = ["default_runtime_cls.py"]

# A moving average of the weights with a decay of 0.99996, which is tested and saved.
custom_hooks = [
    dict(type="mlp_backbones.FiniteGuardHook"),
    dict(type="mlp_backbones.PlainCheckpointHook"),
    dict(type="EMAHook", momentum=4e-5, priority="ABOVE_NORMAL"),
]
