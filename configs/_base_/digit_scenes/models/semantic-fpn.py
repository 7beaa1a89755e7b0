_base_ = ["../../models/semantic-fpn.py"]

norm_cfg = dict(type="BN", requires_grad=True)
# Most pixels are background: at full weight little else is learnt.
class_weight = [0.5] + [1.0] * 10
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    neck=dict(out_channels=64),
    decode_head=dict(
        in_channels=[64, 64, 64, 64],
        channels=64,
        num_classes=11,
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
        loss_decode=dict(class_weight=class_weight),
    ),
)
