"""DynaMixer-S: weights of all lines in one product, beside the paper's algorithm."""

import copy

from torch import Tensor, nn

from mlp_backbones.backbones import DynaMixer
from mlp_backbones.backbones.dynamixer import DynamicMix, DynamicMixer


class PlainMix(nn.Module):
    """Algorithm 1 of the paper on sequences (N, L, C)."""

    def __init__(self, mix: DynamicMix) -> None:
        super().__init__()
        self.compress, self.generate, self.out = mix.compress, mix.generate, mix.out
        self.num_heads = mix.num_heads

    def forward(self, x: Tensor) -> Tensor:
        number, length, dim = x.shape
        heads = self.num_heads
        reduced = self.compress(x).reshape(number, length, heads, -1)
        reduced = reduced.permute(0, 2, 1, 3).reshape(number, heads, -1)
        weights = self.generate(reduced).reshape(number, heads, length, length)
        weights = weights.softmax(-2)
        values = x.reshape(number, length, heads, dim // heads).permute(0, 2, 3, 1)
        mixed = (values @ weights).permute(0, 3, 1, 2).reshape(number, length, dim)
        return self.out(mixed)


class PlainMixer(nn.Module):
    """The paper's section 3.3: copies of columns and rows, then the blend."""

    def __init__(self, mixer: DynamicMixer) -> None:
        super().__init__()
        self.channel, self.reweight, self.proj = (
            mixer.channel,
            mixer.reweight,
            mixer.proj,
        )
        self.height, self.width = (
            PlainMix(mixer.along_height),
            PlainMix(mixer.along_width),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        columns = x.permute(0, 2, 1, 3).reshape(batch * width, height, dim)
        columns = self.height(columns).reshape(batch, width, height, dim)
        columns = columns.permute(0, 2, 1, 3)
        rows = self.width(x.reshape(batch * height, width, dim)).reshape(x.shape)
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
    ours = DynaMixer("s", pyramid=False, out_indices=(3,))
    plain = copy.deepcopy(ours)
    for stage in plain.stages:
        for block in stage.blocks:
            block.mixer = PlainMixer(block.mixer)
    return {"ours": ours, "plain": plain}
