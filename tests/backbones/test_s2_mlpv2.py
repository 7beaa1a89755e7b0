"""What is special to S2-MLPv2."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlp_backbones.backbones import S2MLPv2
from mlp_backbones.backbones.s2_mlpv2 import SplitShiftMixer
from mlp_backbones.checkpoints import load_pretrained

ARCH = {
    "embed_dims": (8, 8, 16, 16),
    "depths": (1, 2, 1, 2),
    "transitions": (False, True, False, False),
    "patch_size": 7,
    "mlp_ratios": (3, 3, 3, 2),
}
CLASSIFIER = {"pyramid": False, "out_indices": (-1,)}


def randomise(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def read(x: Tensor, h: int, w: int) -> Tensor:
    """Read a cell, or the one at the border where there is none."""
    return x[:, min(max(h, 0), x.shape[1] - 1), min(max(w, 0), x.shape[2] - 1)]


def mix_by_loop(mixer: SplitShiftMixer, x: Tensor) -> Tensor:
    """Equations 6 to 10 of the paper, cell by cell and channel by channel."""
    batch, height, width, dim = x.shape
    q1, q2, q3 = dim // 4, dim // 2, 3 * dim // 4
    u = F.linear(x, mixer.fc1.weight, mixer.fc1.bias)
    x1, x2, x3 = u[..., :dim], u[..., dim : 2 * dim], u[..., 2 * dim :]
    v1, v2 = torch.empty_like(x1), torch.empty_like(x2)
    for h in range(height):
        for w in range(width):
            down, up = (h - 1, w), (h + 1, w)
            right, left = (h, w - 1), (h, w + 1)
            v1[:, h, w, :q1] = read(x1, *down)[:, :q1]
            v1[:, h, w, q1:q2] = read(x1, *up)[:, q1:q2]
            v1[:, h, w, q2:q3] = read(x1, *right)[:, q2:q3]
            v1[:, h, w, q3:] = read(x1, *left)[:, q3:]
            v2[:, h, w, :q1] = read(x2, *right)[:, :q1]
            v2[:, h, w, q1:q2] = read(x2, *left)[:, q1:q2]
            v2[:, h, w, q2:q3] = read(x2, *down)[:, q2:q3]
            v2[:, h, w, q3:] = read(x2, *up)[:, q3:]
    pooled = (v1 + v2 + x3).sum((1, 2))
    if mixer.pool == "mean":
        pooled = pooled / (height * width)
    hidden = F.gelu(pooled @ mixer.split.fc1.weight.T)
    logits = hidden @ mixer.split.fc2.weight.T
    blended = torch.empty_like(x3)
    for sample in range(batch):
        for channel in range(dim):
            weights = torch.softmax(
                torch.stack([logits[sample, k * dim + channel] for k in range(3)]), 0
            )
            blended[sample, :, :, channel] = sum(
                weight * branch[sample, :, :, channel]
                for weight, branch in zip(weights, (v1, v2, x3), strict=True)
            )
    return F.linear(blended, mixer.fc2.weight, mixer.fc2.bias)


@pytest.mark.parametrize("pool", ["mean", "sum"])
@pytest.mark.parametrize("dim", [16, 30])
@pytest.mark.parametrize("size", [(4, 7), (1, 3), (1, 1)])
def test_mixer_is_the_papers(pool: str, dim: int, size: tuple[int, int]) -> None:
    mixer = randomise(SplitShiftMixer(dim, 5, pool=pool)).double()
    ours = torch.randn(2, *size, dim, dtype=torch.float64, requires_grad=True)
    loop = ours.detach().clone().requires_grad_()
    found, expected = mixer(ours), mix_by_loop(mixer, loop)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    parameters = list(mixer.parameters())
    torch.testing.assert_close(
        torch.autograd.grad((found * weight).sum(), [ours, *parameters]),
        torch.autograd.grad((expected * weight).sum(), [loop, *parameters]),
    )


def test_sum_is_mean_with_weights_of_one_grid() -> None:
    mean, total = (SplitShiftMixer(8, 3, pool=pool) for pool in ("mean", "sum"))
    total.load_state_dict(randomise(mean).state_dict())
    with torch.no_grad():
        total.split.fc1.weight /= 4 * 6
    x = torch.randn(2, 4, 6, 8)
    torch.testing.assert_close(total(x), mean(x))
    wider = torch.randn(2, 8, 6, 8)
    assert not torch.allclose(total(wider), mean(wider))


def test_no_shifted_branch_is_kept_for_the_backward_pass() -> None:
    mixer = SplitShiftMixer(8, 2)
    x = torch.randn(2, 15, 16, 8, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        mixer(x)
    parameters = {p.untyped_storage().data_ptr() for p in mixer.parameters()}
    maps = sum(size for pointer, size in kept.items() if pointer not in parameters)
    # the input, the three branches side by side, the blended map; small vectors
    assert maps <= 1.1 * 5 * x.nbytes


def test_blocks_norm_first() -> None:
    block = randomise(S2MLPv2(ARCH)).stages[0].blocks[0]
    x = torch.randn(2, 3, 4, 8)
    y = x + mix_by_loop(block.mixer, block.norm1(x))
    expected = y + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(y))))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("ratio", "expected"), [(0.25, [48, 96]), (1.0, [192, 384]), (1e-9, [1, 1])]
)
def test_width_of_the_split_attention(ratio: float, expected: list[int]) -> None:
    backbone = S2MLPv2("small7", split_ratio=ratio, out_indices=(1,), pyramid=False)
    found = [stage.blocks[0].mixer.split.fc1.out_features for stage in backbone.stages]
    assert found == expected


@pytest.mark.parametrize(
    ("arch", "native", "taps"),
    [
        ("small7", (8, 16, 16, 16), (0, 0, 3, 3)),
        ("medium7", (8, 8, 16, 16), (1, 1, 3, 3)),
        ("small14", (16, 16, 16, 16), (0, 1, 2, 3)),
    ],
)
def test_strides_and_taps_of_the_pyramid(arch, native, taps) -> None:
    with torch.device("meta"):
        backbone, official = S2MLPv2(arch), S2MLPv2(arch, pyramid=False)
    assert backbone.native_strides == native
    assert backbone.taps == taps
    assert official.native_strides == tuple(stride * 7 // 8 for stride in native)


def test_a_step_that_only_widens_is_a_product_per_token() -> None:
    arch = {**ARCH, "embed_dims": (8, 16, 16, 16), "transitions": (False,) * 4}
    backbone = S2MLPv2(arch, pyramid=False)
    assert backbone.stages[1].downsample.proj.weight.shape == (16, 8, 1, 1)
    assert backbone.stages[2].downsample is None
    maps = backbone(torch.randn(1, 3, 42, 35))
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 6, 5)] + [(16, 6, 5)] * 3


def test_a_remainder_of_the_image_is_dropped_by_the_official_network() -> None:
    backbone = randomise(S2MLPv2(ARCH, pyramid=False)).eval()
    x = torch.randn(1, 3, 48, 45)
    with torch.no_grad():
        maps, cut = backbone(x), backbone(x[:, :, :42, :42])
    assert [tuple(m.shape[2:]) for m in maps] == [(6, 6), (6, 6), (3, 3), (3, 3)]
    torch.testing.assert_close(maps, cut)


def official_names(backbone: S2MLPv2) -> dict[str, Tensor]:
    """The fact sheet's names, written down here once more by hand."""
    named = {f"patch_embed.{k}": v for k, v in backbone.stem.named_parameters()}
    for index, stage in enumerate(backbone.stages):
        for number, block in enumerate(stage.blocks):
            for key, value in block.named_parameters():
                named[f"stages.{index}.{number}.{key}"] = value
        if stage.downsample is not None:
            for key, value in stage.downsample.named_parameters():
                named[f"downsamples.{index - 1}.{key}"] = value
    for key, value in backbone.out_norms["3"].named_parameters():
        named[f"norm.{key}"] = value
    return {key: value.detach().clone() for key, value in named.items()}


@pytest.mark.parametrize("stem_norm", [False, True])
def test_weights_under_the_sheets_names_load(stem_norm: bool, tmp_path) -> None:
    source = randomise(S2MLPv2(ARCH, stem_norm=stem_norm, **CLASSIFIER)).eval()
    file = tmp_path / "s2.pth"
    torch.save(official_names(source), file)
    target = S2MLPv2(ARCH, stem_norm=stem_norm, **CLASSIFIER).eval()
    load_pretrained(target, file)
    x = torch.randn(1, 3, 63, 42)
    torch.testing.assert_close(target(x), source(x))
    pyramid = S2MLPv2(ARCH, stem_norm=stem_norm)
    load_pretrained(pyramid, file)
    assert pyramid.stem.proj.weight.shape[-2:] == (8, 8)
    assert torch.equal(
        pyramid.stages[2].downsample.proj.weight,
        source.stages[2].downsample.proj.weight,
    )


def reimplementation_names(backbone: S2MLPv2) -> dict[str, Tensor]:
    """The names of the re-implementation for ``ARCH``: levels of 3 and 3 blocks."""
    places = {"norm1": "0.norm", "mixer.fc1": "0.fn.mlp1", "mixer.fc2": "0.fn.mlp2"}
    places |= {"mixer.split.fc1": "0.fn.split_attention.mlp1"}
    places |= {"mixer.split.fc2": "0.fn.split_attention.mlp2"}
    places |= {"norm2": "1.norm", "mlp.fc1": "1.fn.0", "mlp.fc2": "1.fn.3"}
    blocks = {"0.0": "0.1.model.0", "1.0": "0.1.model.1", "1.1": "0.1.model.2"}
    blocks |= {"2.0": "1.1.model.0", "3.0": "1.1.model.1", "3.1": "1.1.model.2"}
    named = {}
    for key, value in official_names(backbone).items():
        if key.startswith("stages."):
            _, stage, number, *place, kind = key.split(".")
            block = blocks[f"{stage}.{number}"]
            key = f"stages.{block}.{places['.'.join(place)]}.{kind}"
        key = key.replace("patch_embed.proj", "stages.0.0")
        named[key.replace("downsamples.1.proj", "stages.1.0")] = value
    return named


def test_weights_of_the_reimplementation_load(tmp_path) -> None:
    options = {"out_norm": False, "split_ratio": 1.0, "split_pool": "sum", **CLASSIFIER}
    arch = {**ARCH, "mlp_ratios": (3, 3, 3, 3)}
    source = randomise(S2MLPv2(arch, **options)).eval()
    named = reimplementation_names(source)
    assert "stages.1.1.model.2.0.fn.split_attention.mlp2.weight" in named
    assert "stages.1.0.weight" in named
    file = tmp_path / "jittor.pth"
    torch.save(named, file)
    target = S2MLPv2(arch, **options).eval()
    load_pretrained(target, file)
    x = torch.randn(1, 3, 56, 42)
    torch.testing.assert_close(target(x), source(x))


def test_constants_are_not_saved() -> None:
    backbone = S2MLPv2(ARCH)
    parameters = {name for name, _ in backbone.named_parameters()}
    assert set(backbone.state_dict()) == parameters
    twin = copy.deepcopy(backbone).double()
    assert twin(torch.zeros(1, 3, 32, 32, dtype=torch.float64))[0].dtype is torch.double


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"split_ratio": 0}, ValueError, "split_ratio .* 0"),
        ({"split_ratio": True}, ValueError, "split_ratio .* True"),
        ({"split_ratio": "C"}, ValueError, "'C'"),
        ({"split_pool": "max"}, ValueError, "'max'"),
        ({"stem_norm": "yes"}, TypeError, "'yes'"),
        ({"arch": {**ARCH, "transitions": (0, 1, 0, 0)}}, TypeError, "transitions"),
        ({"arch": {**ARCH, "patch_size": (7, 7)}}, ValueError, "patch_size"),
        ({"arch": {**ARCH, "mlp_ratios": (3, 3, 3)}}, ValueError, "mlp_ratios"),
    ],
)
def test_wrong_values_are_named(options: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        S2MLPv2(**{"arch": ARCH, **options})
