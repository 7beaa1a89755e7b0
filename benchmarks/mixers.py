"""Each family's smallest size beside the plainest faithful form of it, at 224 pixels.

Every file of ``benchmarks/mixers/`` builds two forms of one network with the same
weights: ``ours`` (this package) and ``plain`` (the formulas as they are written down,
with nothing saved). Both are run in turn in one process: a forward pass in evaluation,
and a training step's forward and backward pass.

    python benchmarks/mixers.py --threads 2 --out benchmarks/results/mixers_cpu.json
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from timing import describe_machine, time_forms

from mlp_backbones.layers import ChannelLinear

FOLDER = Path(__file__).parent / "mixers"
FORMS = ("ours", "plain")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
IMAGE_SIZE = 224


def load_forms(family: str) -> dict[str, nn.Module]:
    """Build both forms of a family."""
    file = FOLDER / f"{family}.py"
    spec = importlib.util.spec_from_file_location(f"mixers_{family}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    forms = module.forms()
    if set(forms) != set(FORMS):
        raise ValueError(f"{file} must build the forms {FORMS}, got {tuple(forms)}")
    for layer in forms["plain"].modules():
        if type(layer) is ChannelLinear:  # the same layer without our choice of kernel
            layer.__class__ = nn.Linear
    randomise(forms)  # or layer scales near zero would hide what the mixers do
    return forms


def randomise(forms: dict[str, nn.Module]) -> None:
    """Give both forms the same weights with nothing at zero, by their order."""
    for form in forms.values():
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in form.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.02 * noise)


def largest_difference(forms: dict[str, nn.Module], x: Tensor) -> float:
    """Return how far the two are apart, over the spread of the output."""
    with torch.no_grad():
        ours, plain = (forms[form].eval()(x) for form in FORMS)
    return max(
        ((a - b).abs().max() / b.std()).item() for a, b in zip(ours, plain, strict=True)
    )


def forward(module: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return a forward pass in evaluation."""

    def run() -> None:
        module.eval()
        with torch.no_grad():
            module(x)

    return run


def training_step(module: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return a forward and backward pass in training."""

    def run() -> None:
        module.train()
        module.zero_grad(set_to_none=True)
        sum(feature.sum() for feature in module(x)).backward()

    return run


def measure(family: str, args: argparse.Namespace) -> dict:
    """Measure one family."""
    device, dtype = torch.device(args.device), DTYPES[args.dtype]
    forms = load_forms(family)
    forms = {name: form.to(device, dtype) for name, form in forms.items()}
    x = torch.randn(args.batch, 3, IMAGE_SIZE, IMAGE_SIZE, device=device, dtype=dtype)
    record = {
        "family": family,
        "shape": list(x.shape),
        "largest_difference": largest_difference(forms, x),
    }
    for what, make in (("forward", forward), ("training step", training_step)):
        runs = {name: make(form, x) for name, form in forms.items()}
        record[what] = time_forms(runs, device=device, repeats=args.repeats)
    return record


def show(records: list[dict]) -> None:
    """Print the records as a table with the ratio of the two forms."""
    table = Table(title="medians in ms")
    for column in ("family", "pass", *FORMS, "plain/ours", "difference"):
        table.add_column(
            column, justify="left" if column in ("family", "pass") else "right"
        )
    for record in records:
        for what in ("forward", "training step"):
            times = record[what]
            table.add_row(
                record["family"],
                what,
                *(f"{times[form]:.1f}" for form in FORMS),
                f"{times['plain'] / times['ours']:.2f}",
                f"{record['largest_difference']:.1e}",
            )
    Console(width=100).print(table)


def main() -> None:
    """Measure, print, and write."""
    known = sorted(file.stem for file in FOLDER.glob("*.py"))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("families", nargs="*", help=f"any of {', '.join(known)}")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7, help="counted rounds")
    parser.add_argument("--out", type=Path, help="write the record as JSON")
    args = parser.parse_args()
    unknown = set(args.families) - set(known)
    if unknown:
        parser.error(f"unknown families {sorted(unknown)}, there are {known}")
    torch.set_num_threads(args.threads)
    records = []
    for family in args.families or known:
        records.append(measure(family, args))
        show(records[-1:])
    show(records)
    if args.out:
        content = {
            "command": " ".join(["python", *sys.argv]),
            "machine": describe_machine(torch.device(args.device)),
            "device": args.device,
            "dtype": args.dtype,
            "unit": "ms (medians)",
            "families": records,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
