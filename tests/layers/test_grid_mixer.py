"""Mixers whose weights belong to one token grid."""

import pytest
import torch
from sum_mixer import SumMixer


def test_windows_see_their_own_tokens_only() -> None:
    mixer = SumMixer((2, 2), grid="window")
    x = torch.ones(1, 3, 4, 1)
    out = mixer(x)
    assert out[0, :2].unique().tolist() == [5.0]
    assert out[0, 2].unique().tolist() == [3.0]  # two real tokens in the last windows


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(ValueError, match="stretch"):
        SumMixer((2, 2), grid="stretch")
