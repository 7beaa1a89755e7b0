_base_ = ["imagenet_bs128_224.py"]

# The test of timm at a crop ratio of 0.9: 224 of a shorter side of 248 pixels.
resize = dict(_base_.test_pipeline[1], scale=248)
test_pipeline = [_base_.test_pipeline[0], resize, *_base_.test_pipeline[2:]]
val_pipeline = [_base_.val_pipeline[0], *test_pipeline[1:]]
tta_pipeline = [
    _base_.tta_pipeline[0],
    dict(
        type="TestTimeAug",
        transforms=[[resize], *_base_.tta_pipeline[1].transforms[1:]],
    ),
]

val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
