"""What is special to circulant channel-specific token mixing."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlp_backbones.backbones import CCSMLP
from mlp_backbones.backbones.ccs_mlp import (
    HOSTS,
    CirculantMixer,
    circulant,
    correlate_by_fft,
    correlate_by_product,
)
from mlp_backbones.layers import Affine, LayerScale

FORMS = (correlate_by_product, correlate_by_fft)
ARCH = {
    "embed_dim": 16,
    "depth": 4,
    "patch_size": 16,
    "mlp_ratio": 2,
    "ccs_groups": 4,
}


def build(host: str, **options: object) -> CCSMLP:
    torch.manual_seed(0)
    backbone = CCSMLP({"host": host, **ARCH}, **options)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return backbone


def build_mixer(
    grid_size: tuple[int, int], groups: int = 1, **options
) -> CirculantMixer:
    arguments = {"grid": "interpolate", "lift": "embed", **options}
    mixer = CirculantMixer(groups, grid_size, **arguments)
    torch.manual_seed(0)
    nn.init.normal_(mixer.weight)
    return mixer.eval()


def by_index(x: Tensor, weight: Tensor) -> Tensor:
    """Equation 5 of the paper."""
    _, num_tokens, dim = x.shape
    y = torch.zeros_like(x)
    for i in range(num_tokens):
        for c in range(dim):
            for j in range(num_tokens):
                value = weight[c % len(weight), j] * x[:, (i + j) % num_tokens, c]
                y[:, i, c] += value
    return y


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("num_tokens", "groups"), [(6, 2), (7, 3), (9, 1), (1, 6)])
def test_tokens_are_correlated_circularly(form, num_tokens: int, groups: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, num_tokens, 6, dtype=torch.float64)
    weight = torch.randn(groups, num_tokens, dtype=torch.float64)
    torch.testing.assert_close(form(x, weight), by_index(x, weight))


def test_the_matrix_is_the_papers() -> None:
    (matrix,) = circulant(torch.tensor([[0.0, 1.0, 2.0, 3.0]]))
    # the paper multiplies it from the right, so that its columns are the rows here
    assert matrix[0].tolist() == [0, 1, 2, 3]
    assert matrix[:, 0].tolist() == [0, 3, 2, 1]


@pytest.mark.parametrize("num_tokens", [15, 16])
def test_both_forms_have_the_same_gradients(num_tokens: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, num_tokens, 6, dtype=torch.float64)
    weight = torch.randn(3, num_tokens, dtype=torch.float64)
    results = []
    for form in FORMS:
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        form(*leaves).pow(3).sum().backward()
        results.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("side", [3, 9])  # 81 tokens are mixed by transforms
def test_the_line_of_tokens_runs_on_in_the_next_row(side: int) -> None:
    mixer = build_mixer((side, side))
    with torch.no_grad():
        mixer.weight.zero_()
        mixer.weight[0, 1] = 1.0  # each token takes what its right neighbour holds
        x = torch.arange(float(side * side)).view(1, side, side, 1)
        expected = x.flatten().roll(-1).view(x.shape)
        torch.testing.assert_close(mixer(x), expected)


def test_large_maps_never_hold_a_matrix_of_all_tokens() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    mixer = build_mixer((16, 16))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        mixer(torch.randn(1, 16, 16, 4))
    assert counter.get_total_flops() == 0  # transforms count as nothing


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_transforms_compute_in_single_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 81, 8).to(dtype), torch.randn(4, 81)
    with torch.autocast("cpu", dtype=dtype):
        mixed = correlate_by_fft(x, weight)
    assert mixed.dtype is dtype
    torch.testing.assert_close(mixed, correlate_by_fft(x.float(), weight).to(dtype))


def offset_weights(mixer: CirculantMixer, size: tuple[int, int]) -> Tensor:
    """What a token hears from the others, by their offset to it; (H, W), 0 inside."""
    height, width = size
    x = torch.eye(height * width).view(height * width, height, width, 1)
    with torch.no_grad():
        heard = mixer(x)[:, height // 2, width // 2, 0]
    return heard.view(height, width)


@pytest.mark.parametrize(
    ("old", "new"),
    [((4, 6), (7, 9)), ((5, 3), (6, 8)), ((6, 7), (4, 5)), ((4, 6), (10, 3))],
)
def test_embedding_keeps_offsets_in_tokens(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    mixer = build_mixer(old)
    before, after = offset_weights(mixer, old), offset_weights(mixer, new)
    for row in range(-(new[0] // 2), new[0] - new[0] // 2):
        for column in range(-(new[1] // 2), new[1] - new[1] // 2):
            place = row + old[0] // 2, column + old[1] // 2
            inside = all(0 <= at < side for at, side in zip(place, old, strict=True))
            expected = before[place] if inside else torch.tensor(0.0)
            found = after[row + new[0] // 2, column + new[1] // 2]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("new", [(12, 16), (13, 17), (24, 11)])
def test_resizing_keeps_offsets_relative_to_the_map(new: tuple[int, int]) -> None:
    old = (12, 16)

    def bump(size: tuple[int, int], centre: tuple[float, float]) -> Tensor:
        rows, columns = (
            (torch.arange(side) - side // 2) / side - at
            for side, at in zip(size, centre, strict=True)
        )
        return torch.exp(-25 * (rows[:, None] ** 2 + columns**2))

    mixer = build_mixer(old, lift="resize")
    for centre in ((0.0, 0.0), (0.125, -0.0625)):
        kernel = bump(old, centre)
        with torch.no_grad():
            # the vector: offset (row, column) stands at row * width + column
            for row in range(12):
                for column in range(16):
                    at = (row - 6) * 16 + column - 8
                    mixer.weight[0, at % 192] = kernel[row, column]
        scale = old[0] * old[1] / (new[0] * new[1])
        expected = bump(new, centre) * scale
        difference = (offset_weights(mixer, new) - expected).abs().max()
        assert difference < 0.04 * expected.max()  # half a token off: 0.1


@pytest.mark.parametrize("new", [(12, 9), (6, 18), (12, 18)])
def test_resizing_keeps_the_response_to_a_constant_map(new: tuple[int, int]) -> None:
    mixer = build_mixer((6, 9), lift="resize")
    with torch.no_grad():
        response = mixer(torch.ones(1, *new, 1))
        expected = mixer.weight.sum().expand(response.shape)
    torch.testing.assert_close(response, expected)


def test_resizing_is_bicubic() -> None:
    """Between odd grids torch's own interpolation leaves the offset 0 in its place."""
    old, new = (9, 11), (13, 15)
    mixer = build_mixer(old, lift="resize")
    kernel = offset_weights(mixer, old)[None, None]
    expected = F.interpolate(kernel, new, mode="bicubic")[0, 0] * (9 * 11 / (13 * 15))
    inner = (slice(3, -3), slice(3, -3))  # torch repeats the border
    torch.testing.assert_close(offset_weights(mixer, new)[inner], expected[inner])


@pytest.mark.parametrize("lift", ["embed", "resize"])
def test_lifts_change_nothing_at_the_training_size(lift: str) -> None:
    mixer = build_mixer((5, 6), groups=2, lift=lift)
    other = build_mixer((5, 6), groups=2, grid="window")
    x = torch.randn(2, 5, 6, 8)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), other(x), rtol=0, atol=0)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("lift", ["embed", "resize"])
@pytest.mark.parametrize("size", [(160, 144), (33, 47)])
def test_hosts_train_at_other_sizes(
    host: str, lift: str, size: tuple[int, int]
) -> None:
    backbone = build(host, lift=lift, image_size=64, drop_path_rate=0.1).train()
    # a dropped branch has no gradient: ten samples are not all dropped
    maps = backbone(torch.randn(10, 3, *size))
    sum(feature.square().mean() for feature in maps).backward()
    for name, parameter in backbone.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_hosts_keep_all_but_the_token_mixing() -> None:
    mixer = CCSMLP({"host": "mlp_mixer", **ARCH}, image_size=64, pyramid=False)
    resmlp = CCSMLP({"host": "resmlp", **ARCH}, image_size=64, pyramid=False)
    block = mixer.stages[0].blocks[0]
    assert not any(isinstance(part, LayerScale) for part in mixer.modules())
    assert block.norm1.eps == block.norm2.eps == mixer.out_norms["3"].eps == 1e-6
    assert isinstance(resmlp.stages[0].blocks[0].layer_scale2, LayerScale)
    assert isinstance(resmlp.out_norms["3"], Affine)
    assert not any(isinstance(module, nn.LayerNorm) for module in resmlp.modules())
    levels = CCSMLP({"host": "resmlp", **ARCH}, image_size=64)
    assert all(isinstance(norm, nn.LayerNorm) for norm in levels.out_norms.values())


@pytest.mark.parametrize(
    ("host", "rates"),
    [("mlp_mixer", [0.0, 0.1, 0.2, 0.3]), ("resmlp", [0.3, 0.3, 0.3, 0.3])],
)
def test_stochastic_depth_is_the_hosts(host: str, rates: list[float]) -> None:
    backbone = CCSMLP({"host": host, **ARCH}, image_size=64, drop_path_rate=0.3)
    found = [
        getattr(block.drop_path, "drop_prob", 0.0)
        for stage in backbone.stages
        for block in stage.blocks
    ]
    assert found == pytest.approx(rates)


def test_vectors_start_as_linear_layers_do() -> None:
    backbone = CCSMLP({"host": "resmlp", **ARCH, "ccs_groups": 16})
    for module in backbone.modules():
        if isinstance(module, CirculantMixer):
            bound = module.weight.shape[1] ** -0.5
            assert module.weight.abs().max() <= bound
            assert module.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_all_groups_have_their_own_channels() -> None:
    """A change of one vector reaches every fourth channel and no other."""
    mixer = build_mixer((3, 3), groups=4)
    x = torch.randn(1, 3, 3, 12)
    with torch.no_grad():
        before = mixer(x)
        mixer.weight[1] += 1.0
        changed = (mixer(x) - before).abs().amax((0, 1, 2)) > 1e-4
    assert changed.nonzero().flatten().tolist() == [1, 5, 9]


@pytest.mark.slow
@pytest.mark.parametrize("lift", ["embed", "resize"])
def test_onnx_agrees_where_transforms_would_be_used(lift: str, tmp_path) -> None:
    import numpy as np
    import onnxruntime

    backbone = build("resmlp", lift=lift, image_size=64).eval()
    x = torch.randn(1, 3, 144, 128)
    file = str(tmp_path / "backbone.onnx")
    torch.onnx.export(backbone, (x,), file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        expected = backbone(x)
    for output, feature in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output, feature.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("lift", ["embed", "resize"])
def test_transforms_compile_and_export(lift: str) -> None:
    mixer = build_mixer((4, 4), groups=2, lift=lift)
    x = torch.randn(2, 9, 8, 4)
    with torch.no_grad():
        expected = mixer(x)
        torch.compiler.reset()
        compiled = torch.compile(mixer, fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
        program = torch.export.export(mixer, (x,))
        torch.testing.assert_close(program.module()(x), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_maps_train_under_autocast(dtype: torch.dtype) -> None:
    backbone = build("resmlp", image_size=64).train()
    with torch.autocast("cpu", dtype=dtype):
        maps = backbone(torch.randn(1, 3, 144, 128))
        loss = sum(feature.float().square().mean() for feature in maps)
    loss.backward()
    for name, parameter in backbone.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(
    ("arch", "options", "words"),
    [
        ({"host": "vit"}, {}, "host.*vit"),
        ({"ccs_groups": 3}, {}, "ccs_groups.*3"),
        ({"ccs_groups": 0}, {}, "ccs_groups.*0"),
        ({}, {"lift": "stretch"}, "lift.*stretch"),
        ({}, {"init_scale": "small"}, "init_scale.*small"),
    ],
)
def test_wrong_arguments_are_named(arch: dict, options: dict, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        CCSMLP({"host": "mlp_mixer", **ARCH, **arch}, image_size=64, **options)
