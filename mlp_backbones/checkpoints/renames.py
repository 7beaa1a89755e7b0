"""Renames of official state dicts that several families share."""

import re
from typing import Any

from torch import Tensor


def interleaved_stage(match: re.Match[str]) -> str:
    """Name what stands in a list of stages with the downsamplings between them.

    Args:
        match: Its first group is the place in the list: even for the blocks of a stage,
            odd for the downsampling behind them.
    """
    index = int(match[1])
    if index % 2 == 0:
        return f"stages.{index // 2}.blocks."
    return f"stages.{index // 2 + 1}.downsample."


def trailing_downsample(match: re.Match[str]) -> str:
    """Name a downsampling that stands at the end of the stage before it.

    Args:
        match: Its first group is the number of the stage before.
    """
    return f"stages.{int(match[1]) + 1}.downsample."


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
