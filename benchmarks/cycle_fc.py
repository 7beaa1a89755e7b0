"""CycleFC by shifts against the deformable convolution of the official code.

Three forms of the same layers, in one run: ``shift`` (this package), ``deform``
(torchvision's deform_conv2d, as the authors call it) and ``bare`` (the shifts left
out: the limit). Measured are the operator at the four stage shapes of CycleMLP-B2,
for 224 x 224 and for 800 x 1344 images, and the whole CycleMLP-B2 with its peak
memory in training. Of the whole model there is a fourth form, ``stored``: shifts
without the recomputation that ``shift`` uses to save memory in training, and that the
deformable and the bare form do without as well.

    python benchmarks/cycle_fc.py --threads 2 --out benchmarks/results/cycle_fc_cpu.json
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from mlp_backbones import get_model
from mlp_backbones.backbones.cycle_mlp import CycleFC, CycleMLP, cycle_steps

sys.path.insert(0, str(Path(__file__).parent))
from timing import describe_machine, time_forms

FORMS = ("shift", "deform", "bare")
MODEL_FORMS = ("shift", "stored", "deform", "bare")
MODEL = "cycle_mlp_b2"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class DeformCycleFC(nn.Module):
    """The same layer as the authors compute it, with its constant offset field."""

    def __init__(self, layer: CycleFC) -> None:
        super().__init__()
        dim = layer.in_features
        offset = torch.zeros(1, 2 * dim, 1, 1)
        steps = cycle_steps(dim, layer.cycle)
        offset[0, layer.axis - 1 :: 2, 0, 0] = torch.tensor(steps).float()
        self.register_buffer("offset", offset.to(layer.weight), persistent=False)
        self.weight = nn.Parameter(layer.weight.detach()[:, :, None, None])
        self.bias = nn.Parameter(layer.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        offset = self.offset.expand(batch, -1, height, width)
        x = deform_conv2d(x.permute(0, 3, 1, 2), offset, self.weight, self.bias)
        return x.permute(0, 2, 3, 1)


class BareFC(nn.Linear):
    """The matrix product alone."""

    def __init__(self, layer: CycleFC) -> None:
        super().__init__(layer.in_features, layer.out_features)
        self.to(layer.weight)
        self.load_state_dict(layer.state_dict())


def to_form(module: nn.Module, form: str) -> nn.Module:
    """Return ``module`` with every Cycle FC in the given form."""
    makers: dict[str, Callable[[CycleFC], nn.Module]] = {
        "shift": lambda layer: layer,
        "stored": lambda layer: layer,
        "deform": DeformCycleFC,
        "bare": BareFC,
    }
    if isinstance(module, CycleFC):
        return makers[form](module)
    for name, child in module.named_children():
        setattr(module, name, to_form(child, form))
    return module


def passes(module: nn.Module, x: Tensor) -> dict[str, Callable[[], object]]:
    """Return a forward pass, and a forward and backward pass, to be timed."""
    module.train()
    grad = torch.ones_like(module(x))

    def forward() -> None:
        with torch.no_grad():
            module(x)

    def forward_backward() -> None:
        module.zero_grad(set_to_none=True)
        image = x.detach().requires_grad_()
        module(image).backward(grad)

    return {"forward": forward, "forward+backward": forward_backward}


def compare(
    modules: dict[str, nn.Module], x: Tensor, repeats: int
) -> dict[str, dict[str, float]]:
    """Time all forms of one module on one input."""
    runs = {form: passes(module, x) for form, module in modules.items()}
    return {
        what: time_forms(
            {form: run[what] for form, run in runs.items()},
            device=x.device,
            repeats=repeats,
        )
        for what in ("forward", "forward+backward")
    }


def check_agreement(modules: dict[str, nn.Module], x: Tensor) -> float:
    """Return the largest difference between the shift and the deformable form."""
    with torch.no_grad():
        found = [modules[form].eval()(x) for form in ("shift", "deform")]
    return (found[0] - found[1]).abs().max().item()


def build(form: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Build the whole model in one form."""
    torch.manual_seed(0)
    model = get_model(MODEL, recompute=form == "shift").to(device, dtype)
    return to_form(model, form)


def training_peak(form: str, args: argparse.Namespace) -> float:
    """Return the peak of one training step above the built model, in MiB."""
    device, dtype = torch.device(args.device), DTYPES[args.dtype]
    model = build(form, device, dtype).train()
    x = torch.randn(args.batch, 3, 224, 224, device=device, dtype=dtype)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        model(x).sum().backward()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # getrusage would report the parent's peak, which a child inherits
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_peak()
    model(x).sum().backward()
    return resident_peak() - before


def resident_peak() -> float:
    """Return the peak resident size of this process on Linux, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM line")


def peak_in_own_process(form: str, args: argparse.Namespace) -> float:
    """Run :func:`training_peak` in a process of its own and read its answer."""
    command = [sys.executable, __file__, "--peak-of", form]
    for name in ("device", "dtype", "batch", "threads"):
        command += [f"--{name}", str(getattr(args, name))]
    # every tensor in a mapping of its own: what is freed leaves the resident size
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17)}
    run = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    )
    return float(run.stdout.strip().splitlines()[-1])


def stage_shapes(height: int, width: int) -> list[tuple[int, int, int]]:
    """Return height, width and channels of the four stages' maps."""
    dims = CycleMLP.arch_settings["b2"]["embed_dims"]
    return [
        (-(-height // stride), -(-width // stride), dim)
        for stride, dim in zip((4, 8, 16, 32), dims, strict=True)
    ]


def measure(args: argparse.Namespace) -> dict:
    """Run everything and return it as one record."""
    device, dtype = torch.device(args.device), DTYPES[args.dtype]
    record: dict = {
        "command": " ".join(["python", *sys.argv]),
        "machine": describe_machine(device),
        "device": args.device,
        "dtype": args.dtype,
        "unit": "ms (medians), MiB",
        "operator": [],
    }
    for (height, width), batch in (((224, 224), args.batch), ((800, 1344), 1)):
        for rows, columns, dim in stage_shapes(height, width):
            torch.manual_seed(0)
            layer = CycleFC(dim, axis=2).to(device, dtype)
            modules = {form: to_form(layer, form) for form in FORMS}
            x = torch.randn(batch, rows, columns, dim, device=device, dtype=dtype)
            record["operator"].append(
                {
                    "image": f"{height}x{width}",
                    "shape": [batch, rows, columns, dim],
                    "largest_difference": check_agreement(modules, x),
                    **compare(modules, x, args.repeats),
                }
            )
    modules = {form: build(form, device, dtype) for form in MODEL_FORMS}
    x = torch.randn(args.batch, 3, 224, 224, device=device, dtype=dtype)
    record["model"] = {
        "name": MODEL,
        "shape": list(x.shape),
        "largest_difference": check_agreement(modules, x),
        **compare(modules, x, max(args.repeats // 3, 3)),
    }
    del modules
    record["model"]["training_peak"] = {
        form: peak_in_own_process(form, args) for form in MODEL_FORMS
    }
    return record


def show(record: dict) -> None:
    """Print the record as a table with the two ratios that matter."""
    table = Table(title=f"{record['device']}, {record['dtype']}: medians in ms")
    for column in ("what", "pass", *MODEL_FORMS, "deform/shift", "shift/bare"):
        table.add_column(
            column, justify="left" if column in ("what", "pass") else "right"
        )
    rows = [
        (f"{row['image']} {tuple(row['shape'])}", row) for row in record["operator"]
    ]
    rows.append(
        (
            f"{record['model']['name']} {tuple(record['model']['shape'])}",
            record["model"],
        )
    )
    for label, row in rows:
        for what in ("forward", "forward+backward", "training_peak"):
            if what in row:
                times = row[what]
                table.add_row(
                    label,
                    what,
                    *(
                        f"{times[form]:.2f}" if form in times else ""
                        for form in MODEL_FORMS
                    ),
                    f"{times['deform'] / times['shift']:.2f}",
                    f"{times['shift'] / times['bare']:.2f}",
                )
    Console(width=130).print(table)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    parser.add_argument("--batch", type=int, default=8, help="images of 224 x 224")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15, help="counted rounds")
    parser.add_argument("--out", type=Path, help="write the record as JSON")
    parser.add_argument("--peak-of", choices=MODEL_FORMS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(training_peak(args.peak_of, args))
        return
    record = measure(args)
    show(record)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
