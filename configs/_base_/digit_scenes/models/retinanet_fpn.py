_base_ = ["../../models/retinanet_fpn.py"]

# Anchors from 24 to 272 px, near to square, as the boxes of turned digits are.
model = dict(
    neck=dict(out_channels=64, add_extra_convs="on_output", num_outs=4),
    bbox_head=dict(
        num_classes=10,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(
            octave_base_scale=3,
            scales_per_octave=2,
            ratios=[1.0, 1.8],
            strides=[8, 16, 32, 64],
        ),
    ),
    test_cfg=dict(nms_pre=200, max_per_img=50),
)
