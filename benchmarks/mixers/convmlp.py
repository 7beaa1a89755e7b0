"""ConvMLP-S: one memory layout from the stem on, beside channels first and swaps."""

import copy

from torch import Tensor, nn

from mlp_backbones.backbones import ConvMLP
from mlp_backbones.backbones.convmlp import ConvBlock, DepthwiseMixer


class PlainMixer(nn.Module):
    """The depthwise convolution on a map that is swapped in memory and back."""

    def __init__(self, mixer: DepthwiseMixer) -> None:
        super().__init__()
        self.norm, self.conv = mixer.norm, mixer.conv

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x).permute(0, 3, 1, 2).contiguous()
        return self.conv(x).permute(0, 2, 3, 1).contiguous()


class PlainConvBlocks(nn.Module):
    """The convolutional stage on a channels-first map."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2).contiguous()  # once for all blocks
        for block in self.blocks:
            x = x + self._branch(block, x)
        return x.permute(0, 2, 3, 1)

    def _branch(self, block: ConvBlock, x: Tensor) -> Tensor:
        x = block.norm1(block.conv1(x)).relu()
        x = block.norm2(block.conv2(x)).relu()
        return block.norm3(block.conv3(x)).relu()


def forms() -> dict[str, nn.Module]:
    """Build both forms with the same weights."""
    ours = ConvMLP("s", **ConvMLP.classifier_arguments, out_indices=(3,))
    plain = copy.deepcopy(ours)
    first, *others = plain.stages
    first.blocks = nn.ModuleList([PlainConvBlocks(first.blocks)])
    for stage in others:
        for block in stage.blocks:
            block.mixer = PlainMixer(block.mixer)
    return {"ours": ours, "plain": plain}
