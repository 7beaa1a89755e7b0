_base_ = ["../../models/upernet.py"]

norm_cfg = dict(type="BN", requires_grad=True)
# Most pixels are background: at full weight little else is learnt.
class_weight = [0.5] + [1.0] * 10
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    decode_head=dict(
        channels=64,
        num_classes=11,
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
        loss_decode=dict(class_weight=class_weight),
    ),
    auxiliary_head=dict(
        channels=64,
        num_classes=11,
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
        loss_decode=dict(class_weight=class_weight),
    ),
)
