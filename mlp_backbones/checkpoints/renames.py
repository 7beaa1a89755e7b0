"""Renames of official state dicts that several families share."""

import re
from typing import Any

from torch import Tensor


def tell_downsamplings(weights: dict[str, Tensor], _: Any) -> dict[str, Tensor]:
    """Tell stages from downsamplings, which official files number in one list.

    Args:
        weights: Tensors by name, ``network.{j}.proj.*`` for downsamplings and
            ``network.{j}.{b}.*`` for blocks.

    Returns:
        The tensors under ``stages.{i}.downsample.*`` and ``stages.{i}.blocks.{b}.*``.
    """
    downsampling = re.compile(r"^network\.(\d+)\.proj\.")
    merges = {int(match[1]) for match in map(downsampling.match, weights) if match}

    def stage(number: str) -> int:
        return int(number) - sum(merge < int(number) for merge in merges)

    renamed = {}
    for key, tensor in weights.items():
        key = downsampling.sub(lambda m: f"stages.{stage(m[1])}.downsample.proj.", key)
        key = re.sub(
            r"^network\.(\d+)\.(\d+)\.",
            lambda m: f"stages.{stage(m[1])}.blocks.{m[2]}.",
            key,
        )
        renamed[key] = tensor
    return renamed
