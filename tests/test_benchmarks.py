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
from mlp_backbones.backbones.cycle_mlp import CycleFC

# bfloat16 keeps eight bits, and a sum of 16 products rounds a few times
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2}


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_forms_of_cycle_fc_agree(dtype):
    torch.manual_seed(0)
    layer = CycleFC(16, axis=2).to(getattr(torch, dtype))
    forms = {form: to_form(layer, form) for form in FORMS}
    x = torch.randn(2, 5, 9, 16).to(layer.weight.dtype)
    for run in (run for form in forms.values() for run in passes(form, x).values()):
        run()
    difference = (forms["deform"](x) - forms["shift"](x)).abs().max()
    assert difference <= TOLERANCE[dtype]
    assert not torch.allclose(forms["bare"](x), forms["shift"](x), atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--channels-last"], ["--dtype=bfloat16"]])
def test_forms_of_the_whole_model_agree(options, monkeypatch):
    monkeypatch.setattr("sys.argv", ["cycle_fc.py", *options])
    args = parse_args()
    x = torch.randn(1, 3, 64, 96).to(getattr(torch, args.dtype))
    x = x.contiguous(memory_format=memory_format(args))
    models = {form: build(form, args) for form in MODEL_FORMS if form != "bare"}
    for run in (run for model in models.values() for run in passes(model, x).values()):
        run()
    logits = {form: model.eval()(x) for form, model in models.items()}
    for form, values in logits.items():
        difference = (values - logits["shift"]).abs().max()
        assert difference <= TOLERANCE[args.dtype], form
