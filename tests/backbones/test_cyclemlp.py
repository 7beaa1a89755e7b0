"""What is special to CycleMLP."""

import copy

import pytest
import torch

from mlp_backbones.backbones import CycleMLP

ARCH = {
    "embed_dims": (8, 12, 16, 20),
    "depths": (1, 2, 2, 1),
    "mlp_ratios": (4, 4, 2, 2),
}


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.4])
@pytest.mark.parametrize("autocast", [False, True])
def test_recomputation_changes_nothing(drop_path_rate: float, autocast: bool) -> None:
    stored = CycleMLP(ARCH, recompute=False, drop_path_rate=drop_path_rate).train()
    lean = CycleMLP(ARCH, recompute=True, drop_path_rate=drop_path_rate).train()
    lean.load_state_dict(stored.state_dict())
    x = torch.randn(2, 3, 64, 96)
    gradients = []
    for backbone in (stored, lean):
        torch.manual_seed(5)
        image = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = sum(f.float().square().mean() for f in backbone(image))
        loss.backward()
        gradients.append([image.grad, *(p.grad for p in backbone.parameters())])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_recomputation_multiplies_no_matrix_twice_in_the_late_stages() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    def backward_flops(recompute: bool, out_indices: tuple[int, ...]) -> int:
        backbone = CycleMLP(ARCH, recompute=recompute, out_indices=out_indices).train()
        loss = sum(f.square().mean() for f in backbone(torch.randn(1, 3, 64, 64)))
        with FlopCounterMode(display=False) as counter:
            loss.backward()
        counts = counter.get_flop_counts()["Global"]
        return sum(n for op, n in counts.items() if "convolution" not in str(op))

    early = backward_flops(True, (1,)) - backward_flops(False, (1,))
    whole = backward_flops(True, (3,)) - backward_flops(False, (3,))
    assert early > 0  # the first two stages run their three branches again
    assert whole == early


@pytest.mark.parametrize("cycle", [1, 2, 5])
def test_other_cycles_run(cycle: int) -> None:
    backbone = CycleMLP(ARCH, cycle=cycle).eval()
    usual = CycleMLP(ARCH).eval()
    usual.load_state_dict(backbone.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(backbone(x)[-1], usual(x)[-1])


def test_official_arithmetic_of_sizes() -> None:
    backbone = CycleMLP(ARCH).eval()
    for height, width in ((75, 106), (32, 32), (33, 34), (224, 225), (63, 161)):
        with torch.no_grad():
            maps = backbone(torch.zeros(1, 3, height, width))
        expected = [((height + 1) // 4, (width + 1) // 4)]
        for _ in range(3):
            expected.append(tuple(-(-side // 2) for side in expected[-1]))
        assert [tuple(feature.shape[2:]) for feature in maps] == expected


def test_skip_lam_divides_both_branches() -> None:
    backbone = CycleMLP(ARCH, skip_lam=2.0)
    block = backbone.stages[0].blocks[0]
    x = torch.randn(1, 8, 8, 8)
    half = x + block.mixer(block.norm1(x)) / 2
    torch.testing.assert_close(block(x), half + block.mlp(block.norm2(half)) / 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"cycle": 0}, "0"), ({"cycle": 2.5}, "2.5"), ({"skip_lam": 0}, "skip_lam")],
)
def test_wrong_values_are_named(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CycleMLP(ARCH, **options)


def test_initialisation_is_the_official_one() -> None:
    backbone = CycleMLP("b1")
    for name, parameter in backbone.named_parameters():
        if "proj" in name and parameter.ndim == 4:  # stem and downsampling
            bound = (parameter[0].numel()) ** -0.5
            assert parameter.abs().max() <= bound * 1.001
            assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        elif parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith("bias") and "downsample" not in name and "stem" not in name:
            assert not parameter.any(), name


def test_constants_are_not_parameters() -> None:
    backbone = CycleMLP(ARCH)
    assert not any("taps" in name for name in backbone.state_dict())
    twin = copy.deepcopy(backbone).double()
    assert twin(torch.zeros(1, 3, 32, 32, dtype=torch.float64))[0].dtype is torch.double
