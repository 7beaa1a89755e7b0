_base_ = ["imagenet_bs128_224.py"]

# The recipe of gMLP: AutoAugment instead of RandAugment, no random erasing.
train_pipeline = [
    *_base_.train_pipeline[:3],
    dict(
        type="AutoAugment",
        policies="imagenet",
        hparams=dict(
            pad_val=[round(x) for x in _base_.bgr_mean], interpolation="bicubic"
        ),
    ),
    dict(type="PackInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
