_base_ = ["imagenet_bs128_224_crop90.py"]

# The recipe of GFNet: no random erasing.
train_pipeline = [
    step for step in _base_.train_pipeline if step["type"] != "RandomErasing"
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
