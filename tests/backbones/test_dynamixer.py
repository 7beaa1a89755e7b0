"""What is special to DynaMixer."""

import pytest
import torch
import torch.nn.functional as F
from reference_cases import arguments_from_reference
from sizes import MICRO
from torch import Tensor, nn

from mlp_backbones.backbones import DynaMixer
from mlp_backbones.backbones.dynamixer import DynamicMix, DynamicMixer


def randomise(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module


def make_operation(
    length: int, dim: int = 6, num_heads: int = 3, reduced_dim: int = 2
) -> DynamicMix:
    operation = DynamicMix(
        dim, length=length, num_heads=num_heads, reduced_dim=reduced_dim
    )
    return randomise(operation).double().eval()


def mix_by_loop(operation: DynamicMix, line: Tensor, real: list[bool]) -> Tensor:
    """Steps 1 to 5 of the paper's operation on one line (L, C), number by number."""
    length, dim = line.shape
    heads = operation.num_heads
    reduced = operation.compress.out_features // heads
    size = dim // heads
    mixed = torch.zeros_like(line)
    for k in range(heads):
        vector = torch.zeros(length * reduced, dtype=line.dtype)
        for position in range(length):
            for r in range(reduced):
                unit = k * reduced + r
                vector[position * reduced + r] = (
                    operation.compress.weight[unit] @ line[position]
                    + operation.compress.bias[unit]
                )
        for j in range(length):
            exponentials = torch.zeros(length, dtype=line.dtype)
            for i in range(length):
                if real[i]:
                    unit = i * length + j
                    exponentials[i] = torch.exp(
                        operation.generate.weight[unit] @ vector
                        + operation.generate.bias[unit]
                    )
            shares = exponentials / exponentials.sum()
            for i in range(length):
                channels = slice(k * size, (k + 1) * size)
                mixed[j, channels] += shares[i] * line[i, channels]
    return mixed @ operation.out.weight.T + operation.out.bias


@pytest.mark.parametrize(
    ("length", "dim", "num_heads", "reduced_dim"),
    [(4, 6, 3, 2), (3, 8, 2, 3), (5, 4, 1, 1)],
)
def test_the_operation_is_the_papers(
    length: int, dim: int, num_heads: int, reduced_dim: int
) -> None:
    operation = make_operation(length, dim, num_heads, reduced_dim)
    x = torch.randn(2, 3, length, dim, dtype=torch.float64)
    with torch.no_grad():
        found = operation(x, None)
        for b in range(2):
            for n in range(3):
                expected = mix_by_loop(operation, x[b, n], [True] * length)
                torch.testing.assert_close(found[b, n], expected)


def test_padding_gets_no_share_of_the_weights() -> None:
    operation = make_operation(5)
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    mask = torch.ones(1, 2, 5, 1, dtype=torch.bool)
    mask[:, 1, 3:] = False
    x = x.masked_fill(~mask, 0)
    with torch.no_grad():
        shares = operation.mixing_weights(x, mask)
        found = operation(x, mask)
    assert not shares[0, 1, :, 3:].any()
    torch.testing.assert_close(shares.sum(-2), torch.ones_like(shares[..., 0, :]))
    for n in range(2):
        expected = mix_by_loop(operation, x[0, n], mask[0, n, :, 0].tolist())
        torch.testing.assert_close(found[0, n], expected)


def test_a_line_of_one_value_passes_unchanged() -> None:
    """Weights sum up to 1 over the tokens they are taken from."""
    operation = make_operation(4)
    operation.out = nn.Identity()
    x = torch.randn(1, 2, 1, 6, dtype=torch.float64).expand(1, 2, 4, 6)
    for length in (4, 7):
        line = x[:, :, :1].expand(1, 2, length, 6)
        mixed = operation(line, None)
        torch.testing.assert_close(mixed, line)


def test_the_mixer_is_the_papers() -> None:
    """Columns by one operation, rows by another, blended channel by channel."""
    mixer = DynamicMixer(
        6,
        num_heads=3,
        reduced_dim=2,
        grid_size=(3, 4),
        qkv_bias=True,
        grid="window",
    )
    mixer = randomise(mixer).double().eval()
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    with torch.no_grad():
        branches = torch.zeros(3, 2, 3, 4, 6, dtype=torch.float64)
        for b in range(2):
            for w in range(4):
                branches[0, b, :, w] = mix_by_loop(
                    mixer.along_height, x[b, :, w], [True] * 3
                )
            for h in range(3):
                branches[1, b, h] = mix_by_loop(mixer.along_width, x[b, h], [True] * 4)
        branches[2] = x @ mixer.channel.weight.T + mixer.channel.bias
        split = mixer.reweight
        logits = split.fc2(F.gelu(split.fc1(branches.sum(0).mean((1, 2)))))
        blended = torch.zeros_like(x)
        for c in range(6):
            shares = logits[:, 3 * c : 3 * c + 3].softmax(-1)
            for k in range(3):
                blended[..., c] += shares[:, k, None, None] * branches[k, ..., c]
        expected = blended @ mixer.proj.weight.T + mixer.proj.bias
        torch.testing.assert_close(mixer(x), expected)


def test_resized_layers_by_loop() -> None:
    operation = make_operation(4)
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        found = operation.mixing_weights(x, None)
        old = operation.generate.weight.view(4, 4, 4, 2)
        bias = operation.generate.bias.view(1, 1, 4, 4)
        logits = F.interpolate(bias, (6, 6), mode="bilinear").expand(1, 3, 6, 6)
        reduced = operation.compress(x)[0, 0].view(6, 3, 2)
        for r in range(2):
            grown = F.interpolate(old[None, None, ..., r], (6, 6, 6), mode="trilinear")
            grown = grown[0, 0] * 4 / 6
            logits = logits + torch.einsum("ijl,lh->hij", grown, reduced[..., r])
    torch.testing.assert_close(found[0], logits.softmax(-2))


def test_half_precision_takes_the_softmax_in_float32() -> None:
    operation = make_operation(4).to(torch.bfloat16)
    x = torch.randn(1, 2, 4, 6).to(torch.bfloat16)
    shares = operation.mixing_weights(x, None)
    assert shares.dtype is torch.float32
    torch.testing.assert_close(shares.sum(-2), torch.ones(1, 2, 3, 4))
    assert operation(x, None).dtype is torch.bfloat16


def test_only_the_channel_branch_obeys_qkv_bias() -> None:
    for qkv_bias in (False, True):
        mixer = (
            DynaMixer(MICRO["dynamixer"], qkv_bias=qkv_bias).stages[0].blocks[0].mixer
        )
        assert (mixer.channel.bias is not None) is qkv_bias
        for operation in (mixer.along_height, mixer.along_width):
            for layer in (operation.compress, operation.generate, operation.out):
                assert layer.bias is not None


def test_heads_must_divide_the_channels() -> None:
    arch = {**MICRO["dynamixer"], "num_heads": (5, 4, 4, 4)}
    with pytest.raises(ValueError, match="24 channels make no 5 heads"):
        DynaMixer(arch)


def test_the_overlapping_option_of_the_authors_code_is_refused() -> None:
    config = {**MICRO["dynamixer"], "overlap": True}
    with pytest.raises(ValueError, match="overlap"):
        arguments_from_reference(DynaMixer, config, (48, 48))
