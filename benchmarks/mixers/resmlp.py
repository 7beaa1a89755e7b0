"""ResMLP-S12: fused scales and left products, beside the formulas one by one."""

import copy

from torch import Tensor, nn

from mlp_backbones.backbones import ResMLP
from mlp_backbones.layers import MixerBlock


class PlainBlock(nn.Module):
    """A block as the paper writes it, on transposed tokens."""

    def __init__(self, block: MixerBlock) -> None:
        super().__init__()
        self.scale1, self.scale2 = block.layer_scale1.gamma, block.layer_scale2.gamma
        self.norm1 = block.norm1
        self.mixer = nn.Linear(*block.mixer.weight.shape)
        self.mixer.weight, self.mixer.bias = block.mixer.weight, block.mixer.bias
        self.norm2, self.mlp = block.norm2, block.mlp

    def forward(self, x: Tensor) -> Tensor:
        tokens = (self.norm1.alpha * x + self.norm1.beta).flatten(1, 2)
        mixed = self.mixer(tokens.transpose(1, 2)).transpose(1, 2)
        x = x + self.scale1 * mixed.unflatten(1, x.shape[1:3])
        return x + self.scale2 * self.mlp(self.norm2.alpha * x + self.norm2.beta)


def forms() -> dict[str, nn.Module]:
    """Build both forms with the same weights."""
    ours = ResMLP("s12", **ResMLP.classifier_arguments, out_indices=(3,))
    plain = copy.deepcopy(ours)
    for stage in plain.stages:
        for index, block in enumerate(stage.blocks):
            stage.blocks[index] = PlainBlock(block)
    return {"ours": ours, "plain": plain}
