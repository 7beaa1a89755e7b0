"""Replacements that the rename tables of several families share."""

import re


def interleaved_stage(match: re.Match[str]) -> str:
    """Name what stands in a list of stages and the downsamplings between them.

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
