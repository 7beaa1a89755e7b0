"""S2-MLP-Deep: the shift as one copy, beside slices written into a clone."""

import copy

from torch import Tensor, nn

from mlp_backbones.backbones import S2MLP
from mlp_backbones.backbones.s2_mlp import SpatialShiftMixer


class PlainMixer(nn.Module):
    """Algorithm 1 of the paper, read from the map as it came."""

    def __init__(self, mixer: SpatialShiftMixer) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = mixer.fc1, mixer.act, mixer.fc2

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc1(x))
        quarter = x.shape[-1] // 4
        y = x.clone()
        y[:, 1:, :, :quarter] = x[:, :-1, :, :quarter]
        y[:, :-1, :, quarter : 2 * quarter] = x[:, 1:, :, quarter : 2 * quarter]
        y[:, :, 1:, 2 * quarter : 3 * quarter] = x[:, :, :-1, 2 * quarter : 3 * quarter]
        y[:, :, :-1, 3 * quarter :] = x[:, :, 1:, 3 * quarter :]
        return self.fc2(y)


def forms() -> dict[str, nn.Module]:
    """Build both forms with the same weights."""
    ours = S2MLP("deep", **S2MLP.classifier_arguments, out_indices=(3,))
    plain = copy.deepcopy(ours)
    for stage in plain.stages:
        for block in stage.blocks:
            block.mixer = PlainMixer(block.mixer)
    return {"ours": ours, "plain": plain}
