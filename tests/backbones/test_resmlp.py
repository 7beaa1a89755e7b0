"""What is special to ResMLP."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from reference_cases import find_reference_folder
from safetensors.torch import save_file
from torch import Tensor, nn

from mlp_backbones import get_model
from mlp_backbones.backbones import ResMLP
from mlp_backbones.checkpoints import load_pretrained
from mlp_backbones.factory import Classifier
from mlp_backbones.layers import Affine, TokenLinear

ARCH = {
    "embed_dim": 8,
    "depth": 4,
    "patch_size": 16,
    "mlp_ratio": 2,
    "init_scale": 0.1,
}


def randomise(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def test_a_block_is_the_formula_of_the_paper() -> None:
    backbone = ResMLP(ARCH, image_size=(32, 48), pyramid=False)
    block = randomise(backbone.stages[0].blocks[0]).double().eval()
    tokens = torch.randn(6, 8, dtype=torch.float64)
    own = {name: p.detach() for name, p in block.named_parameters()}

    normed = own["norm1.alpha"] * tokens + own["norm1.beta"]
    mixed = torch.zeros_like(tokens)
    for n in range(6):
        for m in range(6):
            mixed[n] += own["mixer.weight"][n, m] * normed[m]
        mixed[n] += own["mixer.bias"][n]
    expected = tokens + own["layer_scale1.gamma"] * mixed
    hidden = (own["norm2.alpha"] * expected + own["norm2.beta"]) @ own[
        "mlp.fc1.weight"
    ].T + own["mlp.fc1.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    branch = hidden @ own["mlp.fc2.weight"].T + own["mlp.fc2.bias"]
    expected = expected + own["layer_scale2.gamma"] * branch

    with torch.no_grad():
        found = block(tokens.view(1, 2, 3, 8))
    torch.testing.assert_close(found.view(6, 8), expected)


def test_dropped_branches_leave_the_stream_and_kept_ones_are_rescaled() -> None:
    backbone = randomise(ResMLP(ARCH, image_size=32, drop_path_rate=0.5)).train()
    block = backbone.stages[0].blocks[0]
    block.layer_scale2.gamma.data.zero_()
    x = torch.randn(64, 2, 2, 8)
    with torch.no_grad():
        change = block(x) - x
        kept = 2 * block.layer_scale1.gamma * block.mixer(block.norm1(x))
    dropped = (change == 0).flatten(1).all(1)
    assert 10 < dropped.sum() < 54
    torch.testing.assert_close(change[~dropped], kept[~dropped], rtol=1e-4, atol=1e-4)


def test_all_blocks_share_one_stochastic_depth_rate() -> None:
    backbone = ResMLP(ARCH, image_size=32, drop_path_rate=0.2)
    rates = [
        block.drop_path.drop_prob for stage in backbone.stages for block in stage.blocks
    ]
    assert rates == [0.2] * 4


def test_the_trunk_has_no_layer_norm_and_the_levels_have() -> None:
    trunk = get_model("resmlp_s12", image_size=32).backbone
    assert not any(isinstance(module, nn.LayerNorm) for module in trunk.modules())
    assert isinstance(trunk.out_norms["3"], Affine)
    pyramid = ResMLP(ARCH, image_size=32)
    assert all(isinstance(norm, nn.LayerNorm) for norm in pyramid.out_norms.values())
    assert not any(isinstance(m, nn.LayerNorm) for m in pyramid.stages.modules())


@pytest.mark.parametrize(
    ("arch", "scale"), [("s12", 0.1), ("s24", 1e-5), ("s36", 1e-6), ("b24_8", 1e-6)]
)
def test_branches_start_at_the_official_scale(arch: str, scale: float) -> None:
    fields = {**asdict(ResMLP.arch_settings[arch]), "embed_dim": 8}
    backbone = ResMLP(fields, image_size=32)
    scales = [p for name, p in backbone.named_parameters() if ".layer_scale" in name]
    assert len(scales) == 2 * fields["depth"]
    for parameter in scales:
        torch.testing.assert_close(parameter.data, torch.full((8,), scale))


def test_initialisation_is_the_official_one() -> None:
    backbone = ResMLP({**ARCH, "embed_dim": 64}, pyramid=False)
    for name, parameter in backbone.stages.named_parameters():
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith("alpha"):
            assert (parameter == 1).all(), name
        elif not name.endswith("gamma"):
            assert not parameter.any(), name


def test_weights_of_a_finer_grid_are_the_resampled_kernels() -> None:
    """On a constant map a finer grid answers with the coarse answer, resampled."""
    mixer = randomise(TokenLinear((2, 3), grid="interpolate")).eval()
    coarse = torch.ones(1, 2, 3, 1)
    with torch.no_grad():
        expected = F.interpolate(
            mixer(coarse).permute(0, 3, 1, 2), (4, 9), mode="bilinear"
        )
        found = mixer(torch.ones(1, 4, 9, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected)


def _to_release(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    for ours, theirs in (
        ("stem.", "patch_embed."),
        (".mixer.", ".attn."),
        (".layer_scale1.gamma", ".gamma_1"),
        (".layer_scale2.gamma", ".gamma_2"),
    ):
        name = name.replace(ours, theirs)
    return name, tensor


def _to_timm(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    if name.endswith((".alpha", ".beta")):
        tensor = tensor[None, None]
    for ours, theirs in (
        (".mixer.", ".linear_tokens."),
        (".mlp.", ".mlp_channels."),
        (".layer_scale1.gamma", ".ls1"),
        (".layer_scale2.gamma", ".ls2"),
    ):
        name = name.replace(ours, theirs)
    return name, tensor


def _write(model: Classifier, file: Path, to_layout) -> None:
    names = {
        f"stages.{index}.blocks.0": f"blocks.{index}" for index in range(ARCH["depth"])
    } | {"out_norms.3": "norm", "head.fc": "head"}
    foreign = {}
    for name, tensor in model.state_dict().items():
        name = name.removeprefix("backbone.")
        for ours, theirs in names.items():
            if name.startswith(f"{ours}."):
                name = theirs + name.removeprefix(ours)
        key, value = to_layout(name, tensor)
        foreign[key] = value.contiguous()
    save_file(foreign, file)


@pytest.mark.parametrize("to_layout", [_to_release, _to_timm])
def test_both_layouts_load(to_layout, tmp_path: Path) -> None:
    def build(**options: object) -> ResMLP:
        return ResMLP(ARCH, image_size=32, out_indices=(3,), **options)

    model = randomise(Classifier(build(pyramid=False), 5)).eval()
    file = tmp_path / "foreign.safetensors"
    _write(model, file, to_layout)

    twin = Classifier(build(pyramid=False), 5).eval()
    load_pretrained(twin, file)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)

    level = build()  # its norm is of another kind than the final affine map
    load_pretrained(level, file)
    with torch.no_grad():
        expected = model.backbone.forward_stages(x)[-1]
        torch.testing.assert_close(level.forward_stages(x)[-1], expected)
    assert (level.out_norms["3"].weight == 1).all()


@pytest.mark.parametrize("file", ["official_variants.json", "other_layouts.json"])
def test_every_name_of_every_released_size_has_its_place(
    file: str, reference_dir: Path
) -> None:
    from mlp_backbones.checkpoints.layout import split_flat_blocks

    variants = json.loads((find_reference_folder("resmlp") / file).read_text())
    assert len(variants) == 4
    layouts = {"facebookresearch": "ResMLP release", "timm": "timm"}
    names = {
        "resmlp_12_224": "s12",
        "resmlp_24_224": "s24",
        "resmlp_36_224": "s36",
        "resmlp_big_24_224": "b24_8",
    } | {name: arch for arch, name in ResMLP.official_names.items()}
    for variant, facts in variants.items():
        foreign = {
            key: torch.empty(shape, device="meta")
            for key, shape in facts["keys"].items()
        }
        (layout,) = (one for one in ResMLP.checkpoint_layouts if one.matches(foreign))
        assert layout.name == layouts[facts["layout"]]
        with torch.device("meta"):
            model = get_model(f"resmlp_{names[variant]}")
        renamed = split_flat_blocks(layout.rename(foreign), model.backbone.depths)
        found = {
            key.replace("norm.", "out_norms.3.", 1)
            if key.startswith("norm.")
            else key: (tensor.squeeze().shape)
            for key, tensor in renamed.items()
        }
        assert found == {
            key.removeprefix("backbone."): tensor.squeeze().shape
            for key, tensor in model.state_dict().items()
        }


def test_the_papers_b24_has_the_papers_parameters() -> None:
    with torch.device("meta"):
        model = get_model("resmlpB_24_patch16")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(
        115.7, abs=0.05
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"init_scale": 0.0}, "init_scale.*0.0"),
        ({"init_scale": "small"}, "init_scale.*small"),
        ({"depth": 0}, "depth.*0"),
        ({"patch_size": 4.5}, "patch_size.*4.5"),
        ({"groups": 2}, "groups"),
    ],
)
def test_wrong_archs_are_named(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ResMLP({**ARCH, **change}, image_size=32)
