"""AS-MLP-T: shifts along one axis, beside chunks of a map padded on all sides."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlp_backbones.backbones import ASMLP
from mlp_backbones.backbones.as_mlp import AxialShiftMixer
from mlp_backbones.layers.map_norm import apply_norm


class PlainMixer(nn.Module):
    """The mixer with the shift as padding, rolls and two cuts."""

    def __init__(self, mixer: AxialShiftMixer) -> None:
        super().__init__()
        self.shift_size = mixer.shift_along_width.shift_size
        self.proj_in, self.norm_in = mixer.proj_in, mixer.norm_in
        self.along_width, self.along_height = mixer.along_width, mixer.along_height
        self.norm_out, self.proj_out = mixer.norm_out, mixer.proj_out

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(apply_norm(self.norm_in, self.proj_in(x)))
        along_width = F.gelu(self.along_width(self.shift(x, 2)))
        along_height = F.gelu(self.along_height(self.shift(x, 1)))
        return self.proj_out(apply_norm(self.norm_out, along_width + along_height))

    def shift(self, x: Tensor, axis: int) -> Tensor:
        reach = self.shift_size // 2
        padded = F.pad(x, (0, 0, reach, reach, reach, reach))
        groups = padded.chunk(self.shift_size, dim=-1)
        moved = [g.roll(i - reach, axis) for i, g in enumerate(groups)]
        shifted = torch.cat(moved, dim=-1)
        return shifted.narrow(1, reach, x.shape[1]).narrow(2, reach, x.shape[2])


def forms() -> dict[str, nn.Module]:
    """Build both forms with the same weights."""
    ours = ASMLP("tiny", **ASMLP.classifier_arguments, out_indices=(3,))
    plain = copy.deepcopy(ours)
    for stage in plain.stages:
        for block in stage.blocks:
            block.mixer = PlainMixer(block.mixer)
    return {"ours": ours, "plain": plain}
