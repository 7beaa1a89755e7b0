"""How the images were normalised that weights were trained on."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["CENTERED", "IMAGENET", "Preprocessing"]

_TOP = 255  # of the pixel values that OpenMMLab's data_preprocessor takes


@dataclass(frozen=True)
class Preprocessing:
    """Mean and standard deviation that images are normalised with, channels in RGB.

    Attributes:
        mean: Mean of each channel, for pixel values in ``value_range``, as timm and
            torchvision state it.
        std: Standard deviation of each channel, likewise.
        value_range: Lowest and highest pixel value before the normalisation.
        channel_order: Order of the channels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: tuple[float, float] = (0.0, 1.0)
    channel_order: str = "RGB"

    def data_preprocessor(self) -> dict[str, list[float]]:
        """Return ``mean`` and ``std`` as OpenMMLab's ``data_preprocessor`` takes them.

        It works on pixel values from 0 to 255; ``bgr_to_rgb=True`` (mmdet, mmseg) or
        ``to_rgb=True`` (mmpretrain) belongs beside them.
        """
        return {
            "mean": [round(_TOP * value, 4) for value in self.mean],
            "std": [round(_TOP * value, 4) for value in self.std],
        }

    def for_channels(self, in_channels: int) -> "Preprocessing":
        """Return what fits images of another number of channels.

        One channel has the means of the three; more than three repeat them, as the
        weights of the stem are repeated.

        Args:
            in_channels: Channels of the image.
        """
        if in_channels == len(self.mean):
            return self
        return Preprocessing(
            _spread(self.mean, in_channels),
            _spread(self.std, in_channels),
            self.value_range,
            "gray" if in_channels == 1 else "any",
        )

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise images in RGB.

        Args:
            images: (B, C, H, W), bytes from 0 to 255 or floats from 0 to 1.

        Raises:
            TypeError: If the values are integers, but no bytes.
            ValueError: If floats are far above 1.
        """
        if images.dtype == torch.uint8:
            images = images.to(torch.get_default_dtype()) / _TOP
        elif not images.is_floating_point():
            raise TypeError(f"images must be uint8 or floats, got {images.dtype}")
        elif images.numel() and images.max() > 2:  # bicubic resizing overshoots a bit
            raise ValueError(
                "floating-point images must hold values from 0 to 1, got "
                f"{images.max().item():g}; give bytes (uint8) or divide by {_TOP}"
            )
        mean, std = (
            images.new_tensor(values)[:, None, None]  # (C, 1, 1)
            for values in (self.mean, self.std)
        )
        return (images - mean) / std

    def difference(self, settings: Any) -> str | None:
        """Say how a ``data_preprocessor`` differs, or None if it does not.

        Args:
            settings: OpenMMLab's: ``mean`` and ``std`` for pixel values from 0 to 255,
                and ``bgr_to_rgb``, ``rgb_to_bgr`` or ``to_rgb``.
        """
        wanted = self.data_preprocessor()
        parts = []
        for key, neutral in (("mean", 0.0), ("std", 1.0)):
            value = settings.get(key)
            values = [neutral] if value is None else list(value)
            if len(values) == 1:
                values *= len(wanted[key])
            if len(values) != len(wanted[key]) or any(
                abs(a - b) > 0.05 for a, b in zip(values, wanted[key], strict=False)
            ):
                parts.append(f"{key}={value} where they want {wanted[key]}")
        turned = settings.get("bgr_to_rgb") or settings.get("to_rgb")
        if not turned or settings.get("rgb_to_bgr"):
            parts.append("channels in BGR where they want RGB (bgr_to_rgb=True)")
        return ", ".join(parts) or None


def _spread(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[index % len(values)] for index in range(channels))


IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's training images, as most weights want."""

CENTERED = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Pixel values brought to -1 ... 1."""
