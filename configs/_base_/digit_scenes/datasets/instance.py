_base_ = ["boxes.py"]

# Masks beside the boxes; without test-time augmentation, since mmdet merges no masks.
train_pipeline = [
    _base_.train_pipeline[0],
    dict(
        type="mlp_backbones.CheckAnnotations",
        load=dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    ),
    *_base_.train_pipeline[2:],
]
test_pipeline = [
    *_base_.test_pipeline[:2],
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    *_base_.test_pipeline[3:],
]
val_pipeline = [_base_.val_pipeline[0], *test_pipeline[1:]]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

val_evaluator = dict(metric=["bbox", "segm"])
test_evaluator = val_evaluator
