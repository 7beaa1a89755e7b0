_base_ = ["upernet.py"]

norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(192, 192)),
    decode_head=dict(channels=64, num_classes=11, norm_cfg=norm_cfg),
    auxiliary_head=dict(channels=64, num_classes=11, norm_cfg=norm_cfg),
)
