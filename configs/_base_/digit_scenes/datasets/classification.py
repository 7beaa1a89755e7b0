dataset_type = "CustomDataset"
data_root = "data/digit_scenes/cls"
data_preprocessor = dict(
    num_classes=10,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

# No flips anywhere: a mirrored digit is no digit.
train_pipeline = [
    dict(type="mlp_backbones.LoadImage"),
    dict(type="RandomCrop", crop_size=64, padding=6, padding_mode="reflect"),
    dict(type="PackInputs"),
]
# Named with their scope: mmpretrain's inferencer may follow another package's.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="mmpretrain.ResizeEdge", scale=64, edge="short"),
    dict(type="mmpretrain.CenterCrop", crop_size=64),
    dict(type="mmpretrain.PackInputs"),
]
val_pipeline = [dict(type="mlp_backbones.LoadImage"), *test_pipeline[1:]]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="ResizeEdge", scale=scale, edge="short") for scale in (64, 72)],
            [dict(type="CenterCrop", crop_size=64)],
            [dict(type="PackInputs")],
        ],
    ),
]

train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix="train",
        with_label=True,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix="val",
        with_label=True,
        pipeline=val_pipeline,
    ),
)
test_dataloader = dict(
    val_dataloader, dataset=dict(val_dataloader["dataset"], pipeline=test_pipeline)
)

val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator
