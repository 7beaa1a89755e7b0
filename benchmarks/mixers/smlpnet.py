"""sMLPNet-Tiny: axial maps as products in place, beside permuted 1x1 convolutions."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlp_backbones.backbones import SMLPNet
from mlp_backbones.backbones.smlpnet import SparseMixer


class PlainMixer(nn.Module):
    """The release's operations one by one, on (B, C, H, W)."""

    def __init__(self, mixer: SparseMixer) -> None:
        super().__init__()
        self.act, self.dwconv, self.norm = mixer.act, mixer.dwconv, mixer.norm
        self.along_width, self.along_height = mixer.along_width, mixer.along_height
        self.fuse = mixer.fuse

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        x = self.act(self.norm(self.dwconv(self.act(x))))
        row = self.along_width.weight[:, :, None, None]
        column = self.along_height.weight[:, :, None, None]
        # the mixed axis becomes the channels of a 1x1 convolution
        rows = F.conv2d(x.permute(0, 3, 1, 2), row, self.along_width.bias)
        columns = F.conv2d(x.permute(0, 2, 1, 3), column, self.along_height.bias)
        parts = (x, rows.permute(0, 2, 3, 1), columns.permute(0, 2, 1, 3))
        x = F.conv2d(torch.cat(parts, dim=1), self.fuse.weight[:, :, None, None])
        return x.permute(0, 2, 3, 1)


def forms() -> dict[str, nn.Module]:
    """Build both forms with the same weights."""
    ours = SMLPNet("tiny", **SMLPNet.classifier_arguments, out_indices=(3,))
    plain = copy.deepcopy(ours)
    for stage in plain.stages:
        for block in stage.blocks:
            block.mixer = PlainMixer(block.mixer)
    return {"ours": ours, "plain": plain}
