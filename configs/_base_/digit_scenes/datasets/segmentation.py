dataset_type = "BaseSegDataset"
data_root = "data/digit_scenes/ade"
metainfo = dict(
    classes=("background", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
    palette=[
        [0, 0, 0],
        [230, 25, 75],
        [60, 180, 75],
        [255, 225, 25],
        [0, 130, 200],
        [245, 130, 48],
        [145, 30, 180],
        [70, 240, 240],
        [240, 50, 230],
        [210, 245, 60],
        [250, 190, 212],
    ],
)

# No flips anywhere: a mirrored digit is no digit.
train_pipeline = [
    dict(type="mlp_backbones.LoadImage"),
    dict(
        type="mlp_backbones.CheckAnnotations",
        load=dict(type="LoadAnnotations"),
        num_classes=11,
    ),
    dict(type="Resize", scale=(192, 192), keep_ratio=True),
    # Crops with ink in them: in whole scenes the digits are hardly ever told apart.
    dict(type="RandomCrop", crop_size=(64, 64), cat_max_ratio=0.8),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(192, 192), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
val_pipeline = [dict(type="mlp_backbones.LoadImage"), *test_pipeline[1:]]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(type="Resize", scale_factor=factor, keep_ratio=True)
                for factor in [1.0, 1.25]
            ],
            [dict(type="LoadAnnotations")],
            [dict(type="PackSegInputs")],
        ],
    ),
]

train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        metainfo=metainfo,
        data_root=data_root,
        data_prefix=dict(
            img_path="images/training", seg_map_path="annotations/training"
        ),
        img_suffix=".jpg",
        seg_map_suffix=".png",
        reduce_zero_label=False,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        metainfo=metainfo,
        data_root=data_root,
        data_prefix=dict(
            img_path="images/validation", seg_map_path="annotations/validation"
        ),
        img_suffix=".jpg",
        seg_map_suffix=".png",
        reduce_zero_label=False,
        pipeline=val_pipeline,
    ),
)
test_dataloader = dict(
    val_dataloader, dataset=dict(val_dataloader["dataset"], pipeline=test_pipeline)
)

val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
