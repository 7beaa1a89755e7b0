"""GFNet: filters over the last axes of the map, in the authors' order of steps."""

import copy

import torch
from torch import Tensor, nn

from mlp_backbones import get_model
from mlp_backbones.backbones.gfnet import GlobalFilter


class PlainFilter(nn.Module):
    """Orthonormal transforms over rows and columns of a channels-last map."""

    def __init__(self, layer: GlobalFilter) -> None:
        super().__init__()
        self.complex_weight = nn.Parameter(layer.complex_weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1:3]
        spectrum = torch.fft.rfft2(x.float(), dim=(1, 2), norm="ortho")
        spectrum = spectrum * torch.view_as_complex(self.complex_weight)
        return torch.fft.irfft2(spectrum, s=size, dim=(1, 2), norm="ortho")


def forms() -> dict[str, nn.Module]:
    """Build the trunk of GFNet-Ti twice."""
    ours = get_model("gfnet_ti").backbone
    plain = copy.deepcopy(ours)
    for block in plain.modules():
        if isinstance(getattr(block, "mixer", None), GlobalFilter):
            block.mixer = PlainFilter(block.mixer)
    return {"ours": ours, "plain": plain}
