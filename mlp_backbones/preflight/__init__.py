"""Checks of a whole run before anything of it is built, and the card that tells it."""

from mlp_backbones.preflight.card import RunCard, print_card, save_card
from mlp_backbones.preflight.flight import PreflightError, run_preflight
from mlp_backbones.preflight.keys import Mistake, find_mistakes

__all__ = [
    "Mistake",
    "PreflightError",
    "RunCard",
    "find_mistakes",
    "print_card",
    "run_preflight",
    "save_card",
]
