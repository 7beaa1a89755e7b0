"""A tiny data set and a tiny stock model for each task, to run the tools on."""

import json
from pathlib import Path

import cv2
import numpy as np

NUM_IMAGES = 6
SIZE = 64

RUNTIME = """
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=1),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='{hook}'))
env_cfg = dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
               dist_cfg=dict(backend='gloo'))
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='{visualizer}', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False, window_size=1)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05))
param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=[100])]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=8)
randomness = dict(seed=0)
load_from = None
resume = False
default_scope = '{scope}'

def loader(dataset, train):
    return dict(
        batch_size=2, num_workers=0, persistent_workers=False,
        sampler=dict(type='InfiniteSampler' if train else 'DefaultSampler',
                     shuffle=train),
        dataset=dataset)
"""


def make_data(folder: Path) -> None:
    """Write bright squares on noise as COCO, ADE-style and ImageFolder data.

    Image `i` holds one square of class `i % 2`; its side is known exactly, so boxes,
    masks and classes are right by construction.
    """
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(NUM_IMAGES):
        image = generator.integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
        label, left, top, side = index % 2, 8 + 3 * index, 10 + 2 * index, 24
        image[top : top + side, left : left + side, 2 * label] = 255
        mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
        mask[top : top + side, left : left + side] = label + 1
        name = f"{index:03d}"
        for target, array in (
            (f"images/{name}.jpg", image),
            (f"masks/{name}.png", mask),
            (f"classes/{'ab'[label]}/{name}.jpg", image),
        ):
            file = folder / target
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), array)
        images.append(
            {"id": index, "file_name": f"{name}.jpg", "width": SIZE, "height": SIZE}
        )
        right, bottom = left + side, top + side
        annotations.append(
            {
                "id": index + 1,
                "image_id": index,
                "category_id": label,
                "bbox": [left, top, side, side],
                "area": side * side,
                "iscrowd": 0,
                "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
            }
        )
    categories = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(coco))


DETECTION = """
norm = dict(type='BN', requires_grad=True)
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[64.] * 3, std=[64.] * 3,
        bgr_to_rgb=True, pad_size_divisor=32),
    backbone=dict(
        type='ResNet', depth=18, base_channels=8, num_stages=4,
        out_indices=(0, 1, 2, 3), norm_cfg=norm, style='pytorch'),
    neck=dict(
        type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, start_level=1,
        add_extra_convs='on_input', num_outs=3),
    bbox_head=dict(
        type='RetinaHead', num_classes=2, in_channels=16, stacked_convs=1,
        feat_channels=16,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4,
                      min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1,
        debug=False),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.0,
                  nms=dict(type='nms', iou_threshold=0.5), max_per_img=10))
def pipeline(train):
    return [
        dict(type='LoadImageFromFile'),
        *([] if train else [dict(type='Resize', scale=(64, 64), keep_ratio=True)]),
        dict(type='LoadAnnotations', with_bbox=True),
        *([dict(type='Resize', scale=(64, 64), keep_ratio=True)] if train else []),
        dict(type='PackDetInputs', meta_keys=(
            'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
def dataset(train):
    return dict(
        type='CocoDataset', data_root='{data}/', ann_file='coco.json',
        metainfo=dict(classes=('a', 'b')), data_prefix=dict(img='images/'),
        pipeline=pipeline(train), test_mode=not train)
train_dataloader = loader(dataset(True), True)
val_dataloader = loader(dataset(False), False)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file='{data}/coco.json', metric='bbox')
test_evaluator = val_evaluator
del norm, pipeline, dataset, loader
"""

SEGMENTATION = """
norm = dict(type='BN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[64.] * 3, std=[64.] * 3,
        bgr_to_rgb=True, pad_val=0, seg_pad_val=255, size=(64, 64)),
    backbone=dict(
        type='ResNet', depth=18, base_channels=8, num_stages=4,
        out_indices=(0, 1, 2, 3), norm_cfg=norm, style='pytorch'),
    decode_head=dict(
        type='FCNHead', in_channels=64, in_index=3, channels=16, num_convs=1,
        num_classes=3, norm_cfg=norm, align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False)),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')]
dataset = dict(
    type='BaseSegDataset', data_root='{data}', img_suffix='.jpg', seg_map_suffix='.png',
    metainfo=dict(classes=('ground', 'a', 'b'),
                  palette=[[0, 0, 0], [255, 0, 0], [0, 0, 255]]),
    data_prefix=dict(img_path='images', seg_map_path='masks'), pipeline=pipeline)
train_dataloader = loader(dataset, True)
val_dataloader = loader(dataset, False)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
del norm, dataset, pipeline, loader
"""

CLASSIFICATION = """
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8,
                  out_indices=(3,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=64, topk=(1,),
              loss=dict(type='CrossEntropyLoss')))
data_preprocessor = dict(num_classes=2, mean=[64.] * 3, std=[64.] * 3, to_rgb=True)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
dataset = dict(
    type='ImageNet', data_root='{data}/classes', split='', pipeline=pipeline,
    metainfo=dict(classes=('a', 'b')))
train_dataloader = loader(dataset, True)
val_dataloader = loader(dataset, False)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
del dataset, pipeline, loader
"""

TASKS = {
    "detection": (DETECTION, "mmdet", "DetVisualizationHook", "DetLocalVisualizer"),
    "segmentation": (
        SEGMENTATION, "mmseg", "SegVisualizationHook", "SegLocalVisualizer",
    ),
    "classification": (
        CLASSIFICATION, "mmpretrain", "VisualizationHook", "UniversalVisualizer",
    ),
}  # fmt: skip


def write_config(task: str, folder: Path) -> Path:
    """Write the config of a task for the data that `make_data` put into a folder."""
    body, scope, hook, visualizer = TASKS[task]
    runtime = RUNTIME
    for name, value in (("scope", scope), ("hook", hook), ("visualizer", visualizer)):
        runtime = runtime.replace(f"{{{name}}}", value)
    file = folder / f"{task}.py"
    file.write_text(runtime + body.replace("{data}", str(folder)))
    return file
