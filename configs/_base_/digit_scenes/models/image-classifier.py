_base_ = ["../../models/image-classifier.py"]

model = dict(
    head=dict(
        num_classes=10,
        loss=dict(_delete_=True, type="CrossEntropyLoss"),
        topk=(1,),
    ),
    train_cfg=None,
)
