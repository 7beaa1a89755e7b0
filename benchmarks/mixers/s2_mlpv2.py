"""S2-MLPv2-Small/7: no shifted maps, beside the paper's equations one by one."""

import copy

from torch import Tensor, nn

from mlp_backbones.backbones import S2MLPv2
from mlp_backbones.backbones.s2_mlpv2 import SplitShiftMixer


class PlainMixer(nn.Module):
    """Equations 6 to 10 of the paper, shifts read from the map as it came."""

    def __init__(self, mixer: SplitShiftMixer) -> None:
        super().__init__()
        self.fc1, self.split, self.fc2 = mixer.fc1, mixer.split, mixer.fc2

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.fc1(x).chunk(3, -1)
        first, second = shift_rows_first(first), shift_columns_first(second)
        pooled = (first + second + third).mean((1, 2))
        weights = self.split(pooled)[:, None, None].chunk(3, -1)
        blended = first * weights[0] + second * weights[1] + third * weights[2]
        return self.fc2(blended)


def shift_rows_first(x: Tensor) -> Tensor:
    """Move quarters of the channels down, up, right and left."""
    quarter = x.shape[-1] // 4
    y = x.clone()
    y[:, 1:, :, :quarter] = x[:, :-1, :, :quarter]
    y[:, :-1, :, quarter : 2 * quarter] = x[:, 1:, :, quarter : 2 * quarter]
    y[:, :, 1:, 2 * quarter : 3 * quarter] = x[:, :, :-1, 2 * quarter : 3 * quarter]
    y[:, :, :-1, 3 * quarter :] = x[:, :, 1:, 3 * quarter :]
    return y


def shift_columns_first(x: Tensor) -> Tensor:
    """Move quarters of the channels right, left, down and up."""
    return shift_rows_first(x.transpose(1, 2)).transpose(1, 2)


def forms() -> dict[str, nn.Module]:
    """Build both forms with the same weights."""
    ours = S2MLPv2("small7", **S2MLPv2.classifier_arguments, out_indices=(3,))
    plain = copy.deepcopy(ours)
    for stage in plain.stages:
        for block in stage.blocks:
            block.mixer = PlainMixer(block.mixer)
    return {"ours": ours, "plain": plain}
