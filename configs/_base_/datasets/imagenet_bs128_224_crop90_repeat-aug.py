_base_ = ["imagenet_bs128_224_crop90.py"]

# Repeated augmentation: each image three times in a step, augmented anew.
train_dataloader = dict(sampler=dict(type="RepeatAugSampler", shuffle=True))
