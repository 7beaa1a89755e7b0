"""A mixer of tokens that can be followed by hand."""

import torch
from torch import Tensor

from mlp_backbones.layers import GridMixer, resize_tokens


class SumMixer(GridMixer):
    """Adds to each token the weighted sum of all."""

    def __init__(self, grid_size: tuple[int, int], **options: object) -> None:
        super().__init__(grid_size, **options)
        self.weight = torch.nn.Parameter(torch.ones(grid_size[0] * grid_size[1]))
        self.calls = 0

    def mix(
        self, x: Tensor, weights: tuple[Tensor, ...], mask: Tensor | None
    ) -> Tensor:
        if mask is not None:
            x = x * mask
        total = (x.flatten(1, 2) * weights[0][:, None]).sum(1)
        return x + total[:, None, None]

    def resize_weights(self, size: tuple[int, int]) -> tuple[Tensor, ...]:
        self.calls += 1
        return (resize_tokens(self.weight, 0, self.grid_size, size, scale=True),)
