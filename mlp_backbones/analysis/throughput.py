"""Images per second of a model."""

import platform
import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from mlp_backbones.analysis.models import tensors_in


@dataclass(frozen=True)
class Throughput:
    """A measured speed, with what is needed to compare it.

    Attributes:
        images_per_second: From the median time.
        seconds: Time of each repetition for one batch.
        batch_size: Images in a batch.
        shape: Height and width of the images, px.
        training: Forward and backward, otherwise forward alone.
        device: Name of the processor.
        num_threads: CPU threads of torch.
        torch: Version of torch.
    """

    images_per_second: float
    seconds: list[float]
    batch_size: int
    shape: tuple[int, int]
    training: bool
    device: str
    num_threads: int
    torch: str


def measure_throughput(
    model: nn.Module,
    shape: tuple[int, int],
    batch_size: int = 1,
    repeats: int = 10,
    warmup: int = 3,
    training: bool = False,
    device: str = "cpu",
    dtype: str = "float32",
    channels_last: bool = False,
) -> Throughput:
    """Measure how many images a model takes each second.

    Args:
        model: Takes images, (B, 3, H, W).
        shape: H and W.
        batch_size: B.
        repeats: Batches that are measured, each by itself.
        warmup: Batches before these.
        training: Run forward and backward in train mode.
        device: As torch takes it.
        dtype: ``float32``, or ``float16`` or ``bfloat16`` for autocast.
        channels_last: Memory format of the input.

    Raises:
        ValueError: If a count is below 1 or the dtype is unknown.
    """
    for name, value in (("batch_size", batch_size), ("repeats", repeats)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"dtype must be float32, float16 or bfloat16, got {dtype!r}")
    target = torch.device(device)
    model = model.to(target).train(training)
    images = torch.randn(batch_size, 3, *shape, device=target)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    autocast = (
        nullcontext()
        if dtype == "float32"
        else torch.autocast(target.type, getattr(torch, dtype))
    )

    def step() -> None:
        with autocast:
            outputs = tensors_in(model(images))
        if training:
            model.zero_grad(set_to_none=True)
            sums = [out.float().sum() for out in outputs if out.requires_grad]
            torch.stack(sums).sum().backward()
        if target.type == "cuda":
            torch.cuda.synchronize(target)

    seconds = []
    with nullcontext() if training else torch.inference_mode():
        for index in range(warmup + repeats):
            start = time.perf_counter()
            step()
            if index >= warmup:
                seconds.append(time.perf_counter() - start)
    return Throughput(
        images_per_second=batch_size / statistics.median(seconds),
        seconds=seconds,
        batch_size=batch_size,
        shape=shape,
        training=training,
        device=_device_name(target),
        num_threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()})"
