"""Parameters and multiply-adds of whole models and of their backbones."""

import warnings
from dataclasses import dataclass

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from mlp_backbones.analysis.models import TensorForward
from mlp_backbones.building import build_model


@dataclass(frozen=True)
class Complexity:
    """What a model weighs and costs.

    Attributes:
        shape: Height and width of the input, px.
        num_parameters: All parameters.
        num_trainable: Those that get a gradient.
        multiply_adds: Multiply-adds of one image. Papers call this number FLOPs.
        uncounted: Operators the analyser has no rule for, with how often they occur.
    """

    shape: tuple[int, int]
    num_parameters: int
    num_trainable: int
    multiply_adds: int
    uncounted: dict[str, int]


def measure_complexity(
    config: Config, shape: tuple[int, int], backbone_only: bool = False
) -> Complexity:
    """Count parameters and multiply-adds with MMEngine's analyser.

    Args:
        config: A whole config with ``default_scope``.
        shape: Height and width of the input, px.
        backbone_only: Leave out neck and heads.

    Raises:
        ValueError: If a side is smaller than 1.
    """
    if min(shape) < 1:
        raise ValueError(f"shape must be two positive sizes, got {shape}")
    model = TensorForward(build_model(config).eval(), backbone_only)
    parameters = list(model.parameters())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.trace: sizes become constants
        analyzer = FlopAnalyzer(model, (torch.zeros(1, 3, *shape),))
        analyzer.unsupported_ops_warnings(False)
        analyzer.uncalled_modules_warnings(False)
        multiply_adds = int(analyzer.total())
        uncounted = dict(analyzer.unsupported_ops())
    return Complexity(
        shape=shape,
        num_parameters=sum(p.numel() for p in parameters),
        num_trainable=sum(p.numel() for p in parameters if p.requires_grad),
        multiply_adds=multiply_adds,
        uncounted=uncounted,
    )


def print_complexity(complexity: Complexity, title: str) -> None:
    """Print a table with the numbers and how to read them."""
    table = Table(title=title)
    table.add_column("quantity")
    table.add_column("value", justify="right")
    height, width = complexity.shape
    rows = {
        "input (height x width)": f"{height} x {width}",
        "parameters": f"{complexity.num_parameters:,}",
        "trainable parameters": f"{complexity.num_trainable:,}",
        "multiply-adds": f"{complexity.multiply_adds / 1e9:.3f} G",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console = Console()
    console.print(table)
    console.print('Multiply-adds of one image: what papers call "FLOPs".')
