_base_ = ["imagenet_bs1024_adamw_300e.py"]

# The recipe of GFNet: gradients clipped at 1.
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
