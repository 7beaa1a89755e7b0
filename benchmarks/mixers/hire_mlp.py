"""Hire-MLP-Tiny: strided convolutions, beside rolled, padded and regrouped maps."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlp_backbones.backbones import HireMLP
from mlp_backbones.backbones.hire_mlp import HireMixer, RegionMLP
from mlp_backbones.layers.map_norm import apply_norm


class PlainBranch(nn.Module):
    """Roll, pad, regroup, two channel FCs, and all of it back."""

    def __init__(self, branch: RegionMLP) -> None:
        super().__init__()
        self.axis, self.shift = branch.axis, branch.shift
        self.region_size = branch.region_size
        self.bias = branch.bias
        self.reduce, self.norm, self.expand = branch.reduce, branch.norm, branch.expand

    def forward(self, x: Tensor) -> Tensor:
        if self.axis == 2:
            x = x.transpose(1, 2)
        size = x.shape[1]
        x = x.roll(self.shift, 1)
        x = torch.cat((x, x[:, : -size % self.region_size]), 1)
        # (B, N, W, C) -> (B, N/r, W, C*r)
        x = x.unflatten(1, (-1, self.region_size)).permute(0, 1, 3, 4, 2).flatten(3)
        hidden = F.linear(x, self.reduce.weight.flatten(1))
        hidden = F.relu(apply_norm(self.norm, hidden))
        bias = self.bias.t().flatten()
        x = F.linear(hidden, self.expand.weight.flatten(1).t(), bias)
        # (B, N/r, W, C*r) -> (B, N, W, C)
        x = x.unflatten(3, (-1, self.region_size)).permute(0, 1, 4, 2, 3).flatten(1, 2)
        x = x[:, :size].roll(-self.shift, 1)
        return x.transpose(1, 2) if self.axis == 2 else x


class PlainMixer(nn.Module):
    """The three branches weighed, multiplied and added one by one."""

    def __init__(self, mixer: HireMixer) -> None:
        super().__init__()
        self.along_height = PlainBranch(mixer.along_height)
        self.along_width = PlainBranch(mixer.along_width)
        self.channel, self.reweight = mixer.channel, mixer.reweight
        self.proj = mixer.proj

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.along_height(x), self.along_width(x)
        channel = self.channel(x)
        pooled = (height + width + channel).mean((1, 2))
        logits = self.reweight.fc2(F.gelu(self.reweight.fc1(pooled)))
        weights = logits.unflatten(1, (-1, 3)).softmax(-1)[:, None, None]
        height, width = height * weights[..., 0], width * weights[..., 1]
        return self.proj(height + width + channel * weights[..., 2])


def forms() -> dict[str, nn.Module]:
    """Build both forms with the same weights."""
    ours = HireMLP("tiny", **HireMLP.classifier_arguments, out_indices=(3,))
    plain = copy.deepcopy(ours)
    for stage in plain.stages:
        for block in stage.blocks:
            block.mixer = PlainMixer(block.mixer)
    return {"ours": ours, "plain": plain}
