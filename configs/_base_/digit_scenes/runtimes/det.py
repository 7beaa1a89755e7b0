_base_ = ["../../default_runtime_det.py"]

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=5, max_keep_ckpts=1),
    visualization=dict(draw=False),
)
randomness = dict(seed=0)
