"""MS-MLP-Tiny: kernels added or scaled where they can be, beside ten convolutions."""

import copy

import torch
from torch import Tensor, nn

from mlp_backbones.backbones import MSMLP
from mlp_backbones.backbones.ms_mlp import MixShift


class PlainMixer(nn.Module):
    """Every group rolled and filtered once for each axis, as the release has it."""

    def __init__(self, mixer: MixShift) -> None:
        super().__init__()
        self.along_width, self.along_height = mixer.along_width, mixer.along_height
        self.group_dims, self.shift_dist = mixer.group_dims, mixer.shift_dist

    def forward(self, x: Tensor) -> Tensor:
        groups = x.permute(0, 3, 1, 2).split(self.group_dims, dim=1)
        along_width, along_height = (
            torch.cat(
                [
                    layer(group.roll(distance, axis))
                    for group, distance, layer in zip(
                        groups, self.shift_dist, layers, strict=True
                    )
                ],
                dim=1,
            )
            for layers, axis in ((self.along_width, 3), (self.along_height, 2))
        )
        return (along_width + along_height).permute(0, 2, 3, 1)


def forms() -> dict[str, nn.Module]:
    """Build both forms with the same weights."""
    ours = MSMLP("tiny", **MSMLP.classifier_arguments, out_indices=(3,))
    plain = copy.deepcopy(ours)
    for stage in plain.stages:
        for block in stage.blocks:
            block.mixer = PlainMixer(block.mixer)
    return {"ours": ours, "plain": plain}
