"""What is special to Vision Permutator."""

import pytest
import torch
import torch.nn.functional as F
from sizes import MICRO
from torch import Tensor, nn

from mlp_backbones.backbones import VisionPermutator
from mlp_backbones.backbones.vip import PermuteMixer


def randomise(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module


def make_mixer(
    dim: int, num_segments: int, grid_size: tuple[int, int], qkv_bias: bool
) -> PermuteMixer:
    mixer = PermuteMixer(
        dim,
        num_segments=num_segments,
        grid_size=grid_size,
        qkv_bias=qkv_bias,
        grid="interpolate",
    )
    return randomise(mixer).double().eval()


def mix_by_loop(mixer: PermuteMixer, x: Tensor) -> Tensor:
    """The paper's formulas, number by number."""
    batch, height, width, dim = x.shape
    segment = dim // mixer.num_segments
    weights = [
        mixer.along_height.weight,
        mixer.along_width.weight,
        mixer.channel.weight,
    ]
    biases = [mixer.along_height.bias, mixer.along_width.bias, mixer.channel.bias]
    branches = [torch.zeros_like(x) for _ in range(3)]
    for h in range(height):
        for w in range(width):
            for c in range(dim):
                g, s = divmod(c, segment)
                for source in range(segment):
                    channel = g * segment + source
                    for k in range(height):
                        branches[0][:, h, w, c] += (
                            weights[0][h * segment + s, k * segment + source]
                            * x[:, k, w, channel]
                        )
                    for k in range(width):
                        branches[1][:, h, w, c] += (
                            weights[1][w * segment + s, k * segment + source]
                            * x[:, h, k, channel]
                        )
                branches[2][:, h, w, c] += x[:, h, w] @ weights[2][c]
                if biases[0] is not None:
                    branches[0][:, h, w, c] += biases[0][h * segment + s]
                    branches[1][:, h, w, c] += biases[1][w * segment + s]
                    branches[2][:, h, w, c] += biases[2][c]
    pooled = sum(branches).mean((1, 2))
    split = mixer.reweight
    logits = split.fc2(F.gelu(split.fc1(pooled)))
    blended = torch.zeros_like(x)
    for c in range(dim):
        shares = logits[:, 3 * c : 3 * c + 3].softmax(-1)
        for k in range(3):
            blended[..., c] += shares[:, k, None, None] * branches[k][..., c]
    return blended @ mixer.proj.weight.T + mixer.proj.bias


@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize(
    ("dim", "num_segments", "grid_size"),
    [(8, 4, (4, 4)), (12, 3, (3, 3)), (6, 2, (3, 5)), (4, 4, (2, 3))],
)
def test_the_mixer_is_the_papers(
    dim: int, num_segments: int, grid_size: tuple[int, int], qkv_bias: bool
) -> None:
    mixer = make_mixer(dim, num_segments, grid_size, qkv_bias)
    x = torch.randn(2, *grid_size, dim, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), mix_by_loop(mixer, x))


def test_resized_weights_by_loop() -> None:
    """Each pair of channels of a segment has a table that is resampled by itself."""
    mixer = make_mixer(8, 4, (4, 4), qkv_bias=True)
    weight, bias = torch.zeros(12, 12).double(), torch.zeros(12).double()
    with torch.no_grad():
        for to in range(2):
            tokens = mixer.along_height.bias[None, None, to::2]  # apart by 2
            bias[to::2] = F.interpolate(tokens, 6, mode="linear")[0, 0]
            for source in range(2):
                table = mixer.along_height.weight[to::2, source::2]
                resized = F.interpolate(table[None, None], (6, 6), mode="bilinear")
                weight[to::2, source::2] = resized[0, 0] * 4 / 6
        x = torch.randn(1, 6, 3, 8, dtype=torch.float64)
        found, _ = mixer.mix_lines(x, None)
        # (1, H, W, G, 2) -> lines (W, G, H * 2) and back
        lines = x.unflatten(-1, (4, 2))[0].permute(1, 2, 0, 3).flatten(2)
        mixed = (lines @ weight.T + bias).unflatten(-1, (6, 2)).permute(2, 0, 1, 3)
    torch.testing.assert_close(found[0], mixed.flatten(2))


def test_maps_of_one_value_keep_their_response_at_twice_the_size() -> None:
    """The scale that goes with resampling keeps sums over a line what they were."""
    mixer = make_mixer(8, 4, (4, 4), qkv_bias=False)
    token = torch.randn(8, dtype=torch.float64)
    with torch.no_grad():
        small, _ = mixer.mix_lines(token.expand(1, 4, 4, 8), None)
        large, _ = mixer.mix_lines(token.expand(1, 8, 4, 8), None)
    column = small[0, :, 0].T[None]  # (1, C, H)
    expected = F.interpolate(column, 8, mode="linear", align_corners=False)
    torch.testing.assert_close(large[0, :, 0], expected[0].T, rtol=1e-5, atol=1e-5)


def test_one_switch_is_for_the_bias_of_three_layers() -> None:
    for qkv_bias in (False, True):
        mixer = (
            VisionPermutator(MICRO["vip"], qkv_bias=qkv_bias).stages[0].blocks[0].mixer
        )
        for layer in (mixer.along_height, mixer.along_width, mixer.channel):
            assert (layer.bias is not None) is qkv_bias
        assert mixer.proj.bias is not None


def test_segments_must_divide_the_channels() -> None:
    arch = {**MICRO["vip"], "segment_dims": (5, 3, 3, 3)}
    with pytest.raises(ValueError, match="24 channels make no 5 segments"):
        VisionPermutator(arch)
