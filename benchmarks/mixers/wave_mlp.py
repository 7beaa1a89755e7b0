"""Wave-MLP-T*: depthwise windows, beside grouped convolutions."""

import copy

import torch
from torch import Tensor, nn

from mlp_backbones.backbones import WaveMLP
from mlp_backbones.backbones.wave_mlp import PhaseAwareMixer, PhaseEstimator, WaveMix


class PlainMixer(nn.Module):
    """PATM as the release has it: stacked parts, convolutions in groups of two."""

    def __init__(self, mixer: PhaseAwareMixer) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        mixer = self.mixer
        branches = (
            self._mix(
                x,
                mixer.amplitude_along_width,
                mixer.phase_along_width,
                mixer.mix_along_width,
            ),
            self._mix(
                x,
                mixer.amplitude_along_height,
                mixer.phase_along_height,
                mixer.mix_along_height,
            ),
            mixer.channel(x),
        )
        weights = mixer.reweight((branches[0] + branches[1] + branches[2],))
        return mixer.proj(sum(b * w for b, w in zip(branches, weights, strict=True)))

    def _mix(
        self, x: Tensor, amplitude: nn.Linear, phase: PhaseEstimator, mix: WaveMix
    ) -> Tensor:
        height = amplitude(x).permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
        if isinstance(phase.fc, nn.Linear):
            angle = phase.fc(x).permute(0, 3, 1, 2)
        else:
            angle = phase.fc(x.permute(0, 3, 1, 2))
        angle = torch.relu(phase.norm(angle))
        stack = torch.cat((height * angle.cos(), height * angle.sin()), dim=1)
        return nn.Conv2d.forward(mix, stack).permute(0, 2, 3, 1)


def forms() -> dict[str, nn.Module]:
    """Build both forms with the same weights."""
    ours = WaveMLP("t_dw", **WaveMLP.classifier_arguments, out_indices=(3,))
    plain = copy.deepcopy(ours)
    for stage in plain.stages:
        for block in stage.blocks:
            block.mixer = PlainMixer(block.mixer)
    return {"ours": ours, "plain": plain}
