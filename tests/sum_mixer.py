"""A mixer of tokens that can be followed by hand."""

import torch
from torch import Tensor

from mlp_backbones.layers import GridMixer


class SumMixer(GridMixer):
    """Adds to each token the weighted sum of all."""

    def __init__(self, grid_size: tuple[int, int], **options: object) -> None:
        super().__init__(grid_size, **options)
        self.weight = torch.nn.Parameter(torch.ones(grid_size[0] * grid_size[1]))

    def mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        total = (x.flatten(1, 2) * self.weight[:, None]).sum(1)
        return x + total[:, None, None]
