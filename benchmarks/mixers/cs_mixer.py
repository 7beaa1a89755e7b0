"""CS-Mixer-T: late grouping and heads as the batch, beside matrices for each group."""

import copy

from torch import Tensor, nn

from mlp_backbones.backbones import CSMixer
from mlp_backbones.backbones.cs_mixer import GroupMixer


class PlainMixer(nn.Module):
    """The formulas of the development code, on whole tokens grouped beforehand."""

    def __init__(self, mixer: GroupMixer) -> None:
        super().__init__()
        self.weight, self.bias = mixer.weight, mixer.bias
        self.value, self.squeeze = mixer.value, mixer.squeeze
        self.expand, self.proj = mixer.expand, mixer.proj
        self.num_heads, self.side = mixer.num_heads, mixer.group_size
        self.is_global = mixer.interval is None

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        side = self.side
        if self.is_global:
            x = x.reshape(batch, side, height // side, side, width // side, dim)
            order, back = (0, 2, 4, 1, 3, 5), (0, 3, 1, 4, 2, 5)
        else:
            x = x.reshape(batch, height // side, side, width // side, side, dim)
            order = back = (0, 1, 3, 2, 4, 5)
        grouped = x.permute(order).reshape(-1, side * side, dim)
        mixed = self.mix(grouped).reshape(
            batch, height // side, width // side, side, side, dim
        )
        return mixed.permute(back).reshape(batch, height, width, dim)

    def mix(self, x: Tensor) -> Tensor:
        groups, tokens, _ = x.shape
        u, v = self.value(x), self.squeeze(x)
        v = v.reshape(groups, tokens, self.num_heads, -1).transpose(1, 2)
        v = v.reshape(groups, self.num_heads, 1, -1)
        v = (v @ self.weight).squeeze(2) + self.bias  # the matrices for each group
        v = v.reshape(groups, self.num_heads, tokens, -1).transpose(1, 2)
        return self.proj(u * self.expand(v.reshape(groups, tokens, -1)))


def forms() -> dict[str, nn.Module]:
    """Build both forms with the same weights."""
    ours = CSMixer("t", **CSMixer.classifier_arguments, out_indices=(3,))
    plain = copy.deepcopy(ours)
    for stage in plain.stages:
        for block in stage.blocks:
            block.mixer = PlainMixer(block.mixer)
    return {"ours": ours, "plain": plain}
