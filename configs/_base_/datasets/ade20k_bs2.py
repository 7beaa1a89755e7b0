_base_ = ["ade20k.py"]

# Two images for each GPU, as UperNet takes them.
train_dataloader = dict(batch_size=2)
