_base_ = ["../../default_runtime_seg.py"]

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=500, max_keep_ckpts=1),
    visualization=dict(draw=False),
)
randomness = dict(seed=0)
