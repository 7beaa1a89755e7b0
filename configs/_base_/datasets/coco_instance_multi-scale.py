_base_ = ["coco_instance.py"]

# Shorter sides of 480 to 800, longer ones of at most 1333.
train_pipeline = [
    dict(type="mlp_backbones.LoadImage"),
    dict(
        type="mlp_backbones.CheckAnnotations",
        load=dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    ),
    dict(
        type="RandomChoiceResize",
        scales=[(1333, side) for side in range(480, 801, 32)],
        keep_ratio=True,
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
