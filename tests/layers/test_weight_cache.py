"""Derived weights are kept while the weights stay as they are, and no longer."""

import pytest
import torch
from sum_mixer import SumMixer


def test_kept_weights_are_computed_once_in_evaluation_only() -> None:
    mixer = SumMixer((2, 2), grid="interpolate")
    x = torch.randn(1, 4, 4, 3)
    mixer(x)
    mixer(x)
    assert mixer.calls == 2
    mixer.eval()
    mixer(x)  # gradients are wanted: nothing may be kept
    assert mixer.calls == 3
    with torch.no_grad():
        mixer(x)
        mixer(x)
    assert mixer.calls == 4
    with torch.inference_mode():
        mixer(x)
    assert mixer.calls == 4


def test_new_weights_at_an_old_address_do_not_pass_for_the_old_ones() -> None:
    mixer = SumMixer(
        (256, 256), grid="interpolate"
    ).eval()  # memory that is handed back
    x = torch.ones(1, 128, 128, 1)
    with torch.no_grad():
        for value in range(6):
            weights = {"weight": torch.full((256 * 256,), float(value))}
            out = torch.func.functional_call(mixer, weights, (x,))
            del weights
            assert out.mean().item() == pytest.approx(1 + value * 256**2)


def test_weights_of_inference_mode_are_not_kept() -> None:
    x = torch.ones(1, 4, 4, 1)
    with torch.inference_mode():
        mixer = SumMixer((2, 2), grid="interpolate").eval()
        assert mixer(x).unique().tolist() == [5.0]
        mixer.weight.mul_(2)  # nothing counts this change
        assert mixer(x).unique().tolist() == [9.0]


def test_an_ensemble_runs_under_vmap() -> None:
    mixers = [SumMixer((2, 2), grid="interpolate").eval() for _ in range(2)]
    with torch.no_grad():
        mixers[1].weight.mul_(2)
        weights, _ = torch.func.stack_module_state(mixers)
        x = torch.ones(1, 4, 4, 1)
        out = torch.func.vmap(
            lambda one: torch.func.functional_call(mixers[0], one, (x,))
        )(weights)
    assert [member.unique().tolist() for member in out] == [[5.0], [9.0]]
