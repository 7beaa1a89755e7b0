"""Agreement with official code: reference cases, parameter counts, FLOPs."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.analysis import get_model_complexity_info

from mlp_backbones import get_model, list_models
from mlp_backbones.models import families
from mlp_backbones.testing import find_reference_dir, load_reference_case

_FOLDER = find_reference_dir() or Path("reference cases are not here")
CASES = sorted(
    file for family in families() for file in (_FOLDER / family).glob("*.safetensors")
)


def test_reference_cases_are_here_for_every_family(reference_dir: Path) -> None:
    for family in families():
        assert any(case.parent.name == family for case in CASES), family


def _in_every_grid_mode() -> list:
    cases = []
    for file in CASES:
        modes = families()[file.parent.name].grid_modes or (None,)
        if "_resize_" in file.stem:  # official weights on another grid than their own
            modes = ("interpolate",)
        cases += [
            pytest.param(file, mode, id=f"{file.parent.name}-{file.stem}-{mode}")
            for mode in modes
        ]
    return cases


@pytest.mark.parametrize(("file", "mode"), _in_every_grid_mode())
def test_outputs_and_input_gradient_are_the_official_ones(
    file: Path, mode: str | None
) -> None:
    case = load_reference_case(file, **({"grid": mode} if mode else {}))
    image = case.input.clone().requires_grad_()
    logits = case.model(image)
    (logits * case.expected["grad.weight"]).sum().backward()
    found = {
        "out.logits": logits,
        "grad.input": image.grad,
        **{
            f"out.stage{index}": stage
            for index, stage in enumerate(case.stages(case.input))
        },
    }
    recorded = case.description["outputs"].keys()
    # what goes beyond the classifier (aux.*) is tested with its family
    assert found.keys() == {key for key in recorded if not key.startswith("aux.")}
    for name, tensor in found.items():
        difference = (tensor - case.expected[name]).abs().max().item()
        assert difference <= case.tolerance, f"{name} is off by {difference}"


@pytest.mark.parametrize("file", CASES, ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_cases_can_fail(file: Path) -> None:
    """Swapping two weights of one shape must be seen in the logits."""
    case = load_reference_case(file)
    weights = case.model.state_dict()
    first = next(
        k for k, v in weights.items() if ".blocks." in k and v.ndim == 1 and v.std() > 0
    )
    weights[first] = weights[first].flip(0)
    case.model.load_state_dict(weights)
    with torch.no_grad():
        difference = (case.model(case.input) - case.expected["out.logits"]).abs().max()
    assert difference > 10 * case.tolerance


def _official_variants(family: str, reference_dir: Path) -> dict[str, int]:
    """Return parameter counts with 1000 classes by the official name."""
    folder = reference_dir / family
    files = [folder / name for name in ("official_variants.json", "variants.json")]
    variants = json.loads(next(f for f in files if f.is_file()).read_text())
    return {name: facts["params"] for name, facts in variants.items()}


@pytest.mark.parametrize("family", sorted(families()))
def test_official_parameter_counts(family: str, reference_dir: Path) -> None:
    official = _official_variants(family, reference_dir)
    assert official
    for name, params in official.items():
        with torch.device("meta"):
            model = get_model(name)
        assert sum(p.numel() for p in model.parameters()) == params, name


# billions of multiply-adds at 224, and thousands of parameters, of the fact sheets
GMACS = {
    "cycle_mlp_b1": (2.1, 2.13),
    "cycle_mlp_b2": (3.9, 3.89),
    "cycle_mlp_b3": (6.9, 6.85),
    "cycle_mlp_b4": (10.1, 10.06),
    "cycle_mlp_b5": (12.3, 12.27),
}


@pytest.mark.parametrize("name", sorted(GMACS))
def test_flops_by_mmengine_are_the_papers(name: str) -> None:
    model = get_model(name).eval()
    counted = get_model_complexity_info(model, (3, 224, 224), show_table=False)
    gmacs = counted["flops"] / 1e9
    for stated in GMACS[name]:
        assert gmacs == pytest.approx(stated, rel=0.02)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cycle_mlp_tiny", 32_372_152),
        ("cycle_mlp_small", 55_445_560),
        ("cycle_mlp_base", 98_159_016),
    ],
)
def test_parameter_counts_of_sizes_never_released(name: str, parameters: int) -> None:
    assert name in list_models()
    with torch.device("meta"):
        model = get_model(name)
    assert sum(p.numel() for p in model.parameters()) == parameters
