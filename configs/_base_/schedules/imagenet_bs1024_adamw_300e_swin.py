_base_ = ["imagenet_bs1024_adamw_300e_warmup20.py"]

# The recipe of Swin: 20 epochs of warm-up and clipped gradients.
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
