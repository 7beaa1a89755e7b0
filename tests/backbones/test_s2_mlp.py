"""What is special to S2-MLP."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlp_backbones import get_model
from mlp_backbones.backbones import S2MLP
from mlp_backbones.backbones.s2_mlp import SpatialShiftMixer, affine_scale
from mlp_backbones.checkpoints import CheckpointError, load_pretrained
from mlp_backbones.layers import Affine

LN = {"embed_dim": 16, "depth": 5, "patch_size": 16, "mlp_ratio": 2, "norm": "ln"}
AFFINE = {**LN, "norm": "affine"}
CLASSIFIER = {"pyramid": False, "out_indices": (-1,)}


def randomise(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def mix_by_loop(mixer: SpatialShiftMixer, x: Tensor) -> Tensor:
    """Algorithm 1 of the paper, read from the unshifted map, cell by cell."""
    _, height, width, dim = x.shape
    before = F.gelu(F.linear(x, mixer.fc1.weight, mixer.fc1.bias))
    after = torch.empty_like(before)
    q1, q2, q3 = dim // 4, dim // 2, 3 * dim // 4
    for h in range(height):
        for w in range(width):
            after[:, h, w, :q1] = before[:, max(h - 1, 0), w, :q1]
            after[:, h, w, q1:q2] = before[:, min(h + 1, height - 1), w, q1:q2]
            after[:, h, w, q2:q3] = before[:, h, max(w - 1, 0), q2:q3]
            after[:, h, w, q3:] = before[:, h, min(w + 1, width - 1), q3:]
    return F.linear(after, mixer.fc2.weight, mixer.fc2.bias)


@pytest.mark.parametrize("dim", [16, 30])
@pytest.mark.parametrize("size", [(4, 7), (1, 3), (1, 1)])
def test_mixer_is_the_papers(dim: int, size: tuple[int, int]) -> None:
    mixer = randomise(SpatialShiftMixer(dim))
    x = torch.randn(2, *size, dim)
    torch.testing.assert_close(mixer(x), mix_by_loop(mixer, x))


@pytest.mark.parametrize("position", ["post", "pre"])
@pytest.mark.parametrize("arch", [LN, AFFINE], ids=["ln", "affine"])
def test_norms_stand_where_they_should(position: str, arch: dict[str, Any]) -> None:
    block = randomise(S2MLP(arch, norm_position=position)).stages[1].blocks[0]
    x = torch.randn(2, 3, 4, 16)
    if position == "post":
        y = x + block.norm1(mix_by_loop(block.mixer, x))
        expected = y + block.norm2(block.mlp.fc2(F.gelu(block.mlp.fc1(y))))
    else:
        y = x + mix_by_loop(block.mixer, block.norm1(x))
        expected = y + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(y))))
    torch.testing.assert_close(block(x), expected)


def test_affine_scales_and_offsets_channels() -> None:
    norm = randomise(Affine(5))
    x = torch.randn(2, 3, 4, 5)
    for channel in range(5):
        expected = x[..., channel] * norm.alpha[channel] + norm.beta[channel]
        torch.testing.assert_close(norm(x)[..., channel], expected)


@pytest.mark.parametrize(
    ("depth", "scale"), [(12, 0.1), (18, 0.1), (19, 1e-5), (24, 1e-5), (36, 1e-6)]
)
def test_affine_norms_of_branches_start_small(depth: int, scale: float) -> None:
    assert affine_scale(depth) == scale
    backbone = S2MLP({**AFFINE, "depth": depth}, pyramid=False)
    starts = {name: p for name, p in backbone.named_parameters() if "alpha" in name}
    assert len(starts) == 2 * depth + 1 + 4
    for name, alpha in starts.items():
        inside = name.startswith("stages.")
        assert alpha.tolist() == pytest.approx([scale if inside else 1.0] * 16), name


def test_affine_norms_in_front_of_branches_start_at_one() -> None:
    backbone = S2MLP({**AFFINE, "depth": 36}, norm_position="pre")
    alphas = [p for name, p in backbone.named_parameters() if "alpha" in name]
    assert all((alpha == 1).all() for alpha in alphas)


def test_the_classifier_has_no_final_norm_unless_asked_for() -> None:
    with torch.device("meta"):
        usual, normed = (
            get_model("s2_mlp_deep"),
            get_model("s2_mlp_deep", out_norm=True),
        )
    assert not list(usual.backbone.out_norms.parameters())
    own = dict(normed.backbone.out_norms.named_parameters())
    assert own.keys() == {"3.alpha", "3.beta"}


def test_levels_pass_layer_norms_also_where_the_blocks_have_none() -> None:
    backbone = randomise(S2MLP(AFFINE))
    assert not any(isinstance(m, nn.LayerNorm) for m in backbone.stages.modules())
    assert all(isinstance(m, nn.LayerNorm) for m in backbone.out_norms.values())
    maps = backbone(torch.randn(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (4, 16, 16),
        (8, 8, 8),
        (16, 4, 4),
        (16, 2, 2),
    ]


def test_stages_end_after_quarters_of_the_depth() -> None:
    assert [len(stage.blocks) for stage in S2MLP(LN).stages] == [1, 1, 1, 2]


def test_a_remainder_of_the_image_is_dropped_by_the_official_network() -> None:
    backbone = randomise(S2MLP(LN, pyramid=False)).eval()
    x = torch.randn(1, 3, 79, 50)
    with torch.no_grad():
        whole, cut = backbone(x), backbone(x[:, :, :64, :48])
    assert whole[-1].shape == (1, 16, 4, 3)
    torch.testing.assert_close(whole, cut)


def test_the_reach_grows_by_one_token_a_block() -> None:
    backbone = randomise(S2MLP(LN, pyramid=False, stem_norm=False)).eval()
    x = torch.randn(1, 3, 16 * 13, 16 * 13)
    other = x.clone()
    other[:, :, 16 * 6 : 16 * 7, 16 * 6 : 16 * 7] += 1  # the token at row 6, column 6
    with torch.no_grad():
        changed = backbone(x)[-1] != backbone(other)[-1]
    rows, columns = changed[0].any(0).nonzero().unbind(1)
    distances = (rows - 6).abs() + (columns - 6).abs()
    assert distances.max() == 5


def official_names(backbone: S2MLP) -> dict[str, Tensor]:
    """The fact sheet's names, written down here once more by hand."""
    named, number = {}, 0
    stem = "patch_embed.proj"
    named[f"{stem}.weight"] = backbone.stem.proj.weight
    named[f"{stem}.bias"] = backbone.stem.proj.bias
    for key, value in backbone.stem.norm.named_parameters():
        named[f"patch_embed.norm.{key}"] = value
    for stage in backbone.stages:
        for block in stage.blocks:
            for key, value in block.named_parameters():
                named[f"blocks.{number}.{key}"] = value
            number += 1
    for key, value in backbone.out_norms["3"].named_parameters():
        named[f"norm.{key}"] = value
    return {key: value.detach().clone() for key, value in named.items()}


@pytest.mark.parametrize("arch", [LN, AFFINE], ids=["ln", "affine"])
def test_weights_under_the_sheets_names_load(arch: dict[str, Any], tmp_path) -> None:
    source = randomise(S2MLP(arch, **CLASSIFIER)).eval()
    file = tmp_path / "s2.pth"
    torch.save(official_names(source), file)
    target = S2MLP(arch, **CLASSIFIER).eval()
    load_pretrained(target, file)
    x = torch.randn(1, 3, 64, 48)
    torch.testing.assert_close(target(x), source(x))
    pyramid = S2MLP(arch, out_indices=(3,))
    load_pretrained(pyramid, file)
    last = pyramid.stages[3].blocks[1].mixer.fc2.weight
    assert torch.equal(last, source.stages[3].blocks[1].mixer.fc2.weight)


def reimplementation_names(backbone: S2MLP) -> dict[str, Tensor]:
    """The names of the re-implementation, after the fact sheet."""
    places = {"norm1": "0.norm", "mixer.fc1": "0.fn.0", "mixer.fc2": "0.fn.3"}
    places |= {"norm2": "1.norm", "mlp.fc1": "1.fn.0", "mlp.fc2": "1.fn.3"}
    named = {}
    for key, value in official_names(backbone).items():
        if key.startswith("patch_embed."):
            key = key.replace("patch_embed.proj", "stages.0.0")
        elif key.startswith("blocks."):
            _, number, *place, kind = key.split(".")
            key = f"stages.0.1.model.{number}.{places['.'.join(place)]}.{kind}"
        named[key] = value
    return named


def test_weights_of_the_reimplementation_load_where_the_norms_fit(tmp_path) -> None:
    options = {"out_norm": False, "norm_position": "pre", **CLASSIFIER}
    source = randomise(S2MLP(LN, **options, stem_norm=True)).eval()
    source.stem.norm = nn.Identity()
    file = tmp_path / "jittor.pth"
    torch.save(reimplementation_names(source), file)
    target = S2MLP(LN, **options, stem_norm=False).eval()
    load_pretrained(target, file)
    x = torch.randn(1, 3, 64, 48)
    torch.testing.assert_close(target(x), source(x))
    with pytest.raises(CheckpointError, match="norm_position='pre'"):
        load_pretrained(S2MLP(LN, out_norm=False, **CLASSIFIER), file)


def test_no_constant_is_saved() -> None:
    backbone = S2MLP(LN)
    parameters = {name for name, _ in backbone.named_parameters()}
    assert set(backbone.state_dict()) == parameters
    twin = copy.deepcopy(backbone).double()
    assert twin(torch.zeros(1, 3, 32, 32, dtype=torch.float64))[0].dtype is torch.double


def test_initialisation() -> None:
    backbone = S2MLP("wide", pyramid=False, out_indices=(0,))
    for name, parameter in backbone.named_parameters():
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif "stages" in name and "bias" in name:
            assert not parameter.any(), name


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"arch": {**LN, "norm": "bn"}}, ValueError, "'bn'"),
        ({"arch": {**LN, "norm": 1}}, ValueError, "norm"),
        ({"arch": {**LN, "mlp_ratio": 0}}, ValueError, "mlp_ratio"),
        ({"arch": {**LN, "embed_dim": 18}}, ValueError, "18"),
        ({"norm_position": "middle"}, ValueError, "middle"),
        ({"stem_norm": 1}, TypeError, "1"),
        ({"pyramid": "yes"}, TypeError, "yes"),
    ],
)
def test_wrong_values_are_named(options: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        S2MLP(**{"arch": LN, **options})
