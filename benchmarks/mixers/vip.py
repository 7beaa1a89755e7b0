"""ViP-Small/7: lines read and blended where they lie, beside the paper's code."""

import copy

from torch import Tensor, nn

from mlp_backbones.backbones import VisionPermutator
from mlp_backbones.backbones.vip import PermuteMixer


class PlainMixer(nn.Module):
    """Algorithm 1 of the paper with weighted branches: permute, map, permute back."""

    def __init__(self, mixer: PermuteMixer) -> None:
        super().__init__()
        self.channel, self.reweight, self.proj = (
            mixer.channel,
            mixer.reweight,
            mixer.proj,
        )
        self.height, self.width = mixer.along_height, mixer.along_width
        self.num_segments = mixer.num_segments

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        num, size = self.num_segments, dim // self.num_segments
        columns = x.reshape(batch, height, width, num, size).permute(0, 3, 2, 1, 4)
        columns = self.height(columns.reshape(batch, num, width, height * size))
        columns = columns.reshape(batch, num, width, height, size)
        columns = columns.permute(0, 3, 2, 1, 4).reshape(x.shape)
        rows = x.reshape(batch, height, width, num, size).permute(0, 1, 3, 2, 4)
        rows = self.width(rows.reshape(batch, height, num, width * size))
        rows = rows.reshape(batch, height, num, width, size)
        rows = rows.permute(0, 1, 3, 2, 4).reshape(x.shape)
        channels = self.channel(x)
        pooled = (columns + rows + channels).permute(0, 3, 1, 2).flatten(2).mean(2)
        weights = self.reweight.fc2(self.reweight.act(self.reweight.fc1(pooled)))
        weights = weights.reshape(batch, dim, 3).permute(2, 0, 1).softmax(0)
        weights = weights[:, :, None, None]
        return self.proj(
            columns * weights[0] + rows * weights[1] + channels * weights[2]
        )


def forms() -> dict[str, nn.Module]:
    """Build both forms with the same weights."""
    ours = VisionPermutator("s7", pyramid=False, out_indices=(3,))
    plain = copy.deepcopy(ours)
    for stage in plain.stages:
        for block in stage.blocks:
            block.mixer = PlainMixer(block.mixer)
    return {"ours": ours, "plain": plain}
