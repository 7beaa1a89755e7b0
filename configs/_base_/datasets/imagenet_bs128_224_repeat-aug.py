_base_ = ["imagenet_bs128_224.py"]

# Repeated augmentation: each image three times in a step, augmented anew.
train_dataloader = dict(sampler=dict(type="RepeatAugSampler", shuffle=True))
