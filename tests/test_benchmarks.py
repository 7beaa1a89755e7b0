"""What the benchmarks compare computes the same thing in every form."""

import pytest
import torch

from benchmarks.cycle_fc import (
    FORMS,
    MODEL_FORMS,
    build,
    memory_format,
    parse_args,
    passes,
    to_form,
)
from mlp_backbones.backbones.cyclemlp import CycleFC

# one rounding of values below 4
LAYER_TOLERANCE = {"float32": 1e-5, "bfloat16": 2**-6}
# logits are within 1, and dozens of blocks round one after the other
MODEL_TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2}


@pytest.mark.parametrize("dtype", list(LAYER_TOLERANCE))
def test_forms_of_cycle_fc_agree(dtype):
    torch.manual_seed(0)
    layer = CycleFC(16, axis=2).to(getattr(torch, dtype))
    forms = {form: to_form(layer, form) for form in FORMS}
    x = torch.randn(2, 5, 9, 16).to(layer.weight.dtype)
    for run in (run for form in forms.values() for run in passes(form, x).values()):
        run()
    difference = (forms["deform"](x) - forms["shift"](x)).abs().max()
    assert difference <= LAYER_TOLERANCE[dtype]
    assert (forms["bare"](x) - forms["shift"](x)).abs().max() > 1


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--channels-last"], ["--dtype=bfloat16"]])
def test_forms_of_the_whole_model_agree(options, monkeypatch):
    monkeypatch.setattr("sys.argv", ["cycle_fc.py", *options])
    args = parse_args()
    x = torch.randn(1, 3, 64, 96).to(getattr(torch, args.dtype))
    x = x.contiguous(memory_format=memory_format(args))
    models = {form: build(form, args) for form in MODEL_FORMS}
    for run in (run for model in models.values() for run in passes(model, x).values()):
        run()
    logits = {form: model.eval()(x) for form, model in models.items()}
    shift = logits.pop("shift")
    assert (logits.pop("bare") - shift).abs().max() > 0.2
    for form, values in logits.items():
        difference = (values - shift).abs().max()
        assert difference <= MODEL_TOLERANCE[args.dtype], form
