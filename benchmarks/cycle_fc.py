"""CycleFC by shifts against the deformable convolution of the official code.

Three forms of the same layers, in one run: ``shift`` (this package), ``deform``
(torchvision's deform_conv2d, as the authors call it) and ``bare`` (the shifts left
out: the limit). Measured are the operator at the four stage shapes of CycleMLP-B2,
for 224 x 224 and for 800 x 1344 images, and the whole CycleMLP-B2 with its peak
memory in training.

Of the whole model there are two more forms. ``official`` computes every part as the
authors do; ``deform`` shares with ``shift`` all but the Cycle FCs, and so tells what
the shifts alone are worth. ``stored`` does without the recomputation that ``shift``
uses to save memory in training, as all forms but ``shift`` do.

    python benchmarks/cycle_fc.py --threads 2 --out benchmarks/results/cycle_fc_cpu.json
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from mlp_backbones import get_model
from mlp_backbones.backbones.cyclemlp import (
    CycleFC,
    CycleMixer,
    CycleMLP,
    cycle_steps,
)
from mlp_backbones.layers import ChannelLinear, ConvEmbed, MixerBlock

sys.path.insert(0, str(Path(__file__).parent))
from timing import describe_machine, time_forms

FORMS = ("shift", "deform", "bare")
MODEL_FORMS = ("shift", "stored", "official", "deform", "bare")
# what is divided by what: how many times faster, how far from the limit, which share
TIME_RATIOS = (("official", "shift"), ("deform", "shift"), ("shift", "bare"))
RATIOS = {
    "forward": TIME_RATIOS,
    "forward+backward": TIME_RATIOS,
    "training_peak": (("shift", "official"), ("shift", "deform")),
}
TOLERANCE = 1e-5
MODEL = "cyclemlp_b2"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class DeformCycleFC(nn.Module):
    """The same layer as the authors compute it, with its constant offset field.

    There is no bfloat16 kernel of the operator: it computes in float32 there, as it
    does under autocast.
    """

    def __init__(self, layer: CycleFC) -> None:
        super().__init__()
        dim = layer.in_features
        offset = torch.zeros(1, 2 * dim, 1, 1)
        steps = cycle_steps(dim, layer.cycle)
        offset[0, layer.axis - 1 :: 2, 0, 0] = steps.float()
        self.register_buffer("offset", offset.to(layer.weight), persistent=False)
        self.weight = nn.Parameter(layer.weight.detach()[:, :, None, None])
        self.bias = nn.Parameter(layer.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        dtype = torch.float32 if x.dtype == torch.bfloat16 else x.dtype
        offset = self.offset.to(dtype).expand(batch, -1, height, width)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        y = deform_conv2d(x.to(dtype).permute(0, 3, 1, 2), offset, weight, bias)
        return y.to(x.dtype).permute(0, 2, 3, 1)


class BareFC(ChannelLinear):
    """The matrix product alone."""

    def __init__(self, layer: CycleFC) -> None:
        super().__init__(layer.in_features, layer.out_features)
        self.to(layer.weight)
        self.load_state_dict(layer.state_dict())


class OfficialMixer(nn.Module):
    """The token mixer as the authors compute it: every map stored, summed, blended."""

    def __init__(self, mixer: CycleMixer) -> None:
        super().__init__()
        self.along_width = DeformCycleFC(mixer.along_width)
        self.along_height = DeformCycleFC(mixer.along_height)
        self.channel = plain_linear(mixer.channel)
        self.fc1 = plain_linear(mixer.reweight.fc1)
        self.act = nn.GELU()
        self.fc2 = plain_linear(mixer.reweight.fc2)
        self.proj = plain_linear(mixer.proj)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, _, dim = x.shape
        h, w, c = self.along_width(x), self.along_height(x), self.channel(x)
        # (B, H, W, C) -> (B, C, H, W) -> (B, C)
        pooled = (h + w + c).permute(0, 3, 1, 2).flatten(2).mean(2)
        logits = self.fc2(self.act(self.fc1(pooled))).reshape(batch, dim, 3)
        # (B, C, 3) -> (3, B, C) -> (3, B, 1, 1, C)
        weights = logits.permute(2, 0, 1).softmax(0)[:, :, None, None]
        return self.proj(h * weights[0] + w * weights[1] + c * weights[2])


class OfficialBlock(nn.Module):
    """The block as the authors compute it, division by ``skip_lam`` included."""

    def __init__(self, block: MixerBlock) -> None:
        super().__init__()
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.mixer = OfficialMixer(block.mixer)
        self.mlp = nn.Sequential(
            plain_linear(block.mlp.fc1), nn.GELU(), plain_linear(block.mlp.fc2)
        )
        self.skip_lam = 1 / block.branch_scale

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm1(x)) / self.skip_lam
        return x + self.mlp(self.norm2(x)) / self.skip_lam


class OfficialEmbed(nn.Module):
    """Stem or downsampling as the authors compute it: the memory stays as it comes."""

    def __init__(self, embed: ConvEmbed) -> None:
        super().__init__()
        self.channels_last = embed.channels_last
        self.proj = embed.proj

    def forward(self, x: Tensor) -> Tensor:
        if self.channels_last:
            x = x.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
        return self.proj(x).permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)


def plain_linear(layer: nn.Linear) -> nn.Linear:
    """Return PyTorch's own linear layer with the weights of ``layer``."""
    plain = nn.Linear(
        layer.in_features, layer.out_features, bias=layer.bias is not None
    )
    plain.to(layer.weight)
    plain.load_state_dict(layer.state_dict())
    return plain


def to_form(module: nn.Module, form: str) -> nn.Module:
    """Return ``module`` with every part that the form computes its own way."""
    makers: dict[str, dict[type, Callable[[Any], nn.Module]]] = {
        "shift": {},
        "stored": {},
        "official": {MixerBlock: OfficialBlock, ConvEmbed: OfficialEmbed},
        "deform": {CycleFC: DeformCycleFC},
        "bare": {CycleFC: BareFC},
    }
    make = makers[form].get(type(module))
    if make is not None:
        return make(module)
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
    """Return the largest difference to the shift form of those that must equal it.

    Raises:
        RuntimeError: If a difference in float32 shows that a form computes something
            else.
    """
    with torch.no_grad():
        outputs = {
            form: module.eval()(x) for form, module in modules.items() if form != "bare"
        }
    largest = 0.0
    for form, output in outputs.items():
        difference = (output - outputs["shift"]).abs().max().item()
        if x.dtype == torch.float32 and not difference <= TOLERANCE:
            raise RuntimeError(f"{form} differs from shift by {difference:.1e}")
        largest = max(largest, difference)
    return largest


def with_ratios(row: dict[str, Any]) -> dict[str, Any]:
    """Return one row of the record with its ratios behind its figures."""
    found = {}
    for what, pairs in RATIOS.items():
        values = row.get(what, {})
        found[what] = {
            f"{first}/{second}": round(values[first] / values[second], 3)
            for first, second in pairs
            if first in values and second in values
        }
    return {**row, "ratios": {what: pairs for what, pairs in found.items() if pairs}}


def build(form: str, args: argparse.Namespace) -> nn.Module:
    """Build the whole model in one form."""
    torch.manual_seed(0)
    model = get_model(MODEL, recompute=form == "shift")
    model.to(args.device, DTYPES[args.dtype]).to(memory_format=memory_format(args))
    return to_form(model, form)


def make_images(args: argparse.Namespace) -> Tensor:
    """Return a batch for the whole model."""
    x = torch.randn(args.batch, 3, 224, 224, device=args.device)
    return x.to(DTYPES[args.dtype]).contiguous(memory_format=memory_format(args))


def memory_format(args: argparse.Namespace) -> torch.memory_format:
    """Return the memory format of images and kernels."""
    return torch.channels_last if args.channels_last else torch.contiguous_format


def training_peak(form: str, args: argparse.Namespace) -> float:
    """Return the peak of one training step above the built model, in MiB."""
    model, x = build(form, args).train(), make_images(args)
    if x.is_cuda:
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
    command += ["--channels-last"] if args.channels_last else []
    # every tensor in a mapping of its own: what is freed leaves the resident size
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17)}
    run = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    )
    return float(run.stdout.strip().splitlines()[-1])


def stage_shapes(height: int, width: int) -> list[tuple[int, int, int]]:
    """Return height, width and channels of the four stages' maps."""
    dims = CycleMLP.arch_settings["b2"].embed_dims
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
        "channels_last": args.channels_last,
        "unit": "ms (medians), MiB",
        "operator": [],
    }
    for (height, width), batch in (((224, 224), args.batch), ((800, 1344), 1)):
        for rows, columns, dim in stage_shapes(height, width):
            torch.manual_seed(0)
            layer = CycleFC(dim, axis=2).to(device, dtype)
            modules = {form: to_form(layer, form) for form in FORMS}
            x = torch.randn(batch, rows, columns, dim, device=device, dtype=dtype)
            row = {
                "image": f"{height}x{width}",
                "shape": [batch, rows, columns, dim],
                "largest_difference": check_agreement(modules, x),
                **compare(modules, x, args.repeats),
            }
            record["operator"].append(with_ratios(row))
    modules, x = {form: build(form, args) for form in MODEL_FORMS}, make_images(args)
    row = {
        "name": MODEL,
        "shape": list(x.shape),
        "largest_difference": check_agreement(modules, x),
        **compare(modules, x, max(args.repeats // 3, 3)),
    }
    del modules
    row["training_peak"] = {
        form: peak_in_own_process(form, args) for form in MODEL_FORMS
    }
    record["model"] = with_ratios(row)
    return record


def show(record: dict) -> None:
    """Print the record as a table with the ratios that matter."""
    memory = ", channels last" if record["channels_last"] else ""
    title = f"{record['device']}, {record['dtype']}{memory}: medians in ms, MiB"
    table = Table(title=title)
    for column in ("what", "pass", *MODEL_FORMS, "ratios"):
        justify = "right" if column in MODEL_FORMS else "left"
        table.add_column(column, justify=justify)
    model = record["model"]
    rows = [
        (f"{row['image']} {tuple(row['shape'])}", row) for row in record["operator"]
    ]
    rows.append((f"{model['name']} {tuple(model['shape'])}", model))
    for label, row in rows:
        for what, ratios in row["ratios"].items():
            table.add_row(
                label,
                what,
                *(
                    f"{row[what][form]:.2f}" if form in row[what] else ""
                    for form in MODEL_FORMS
                ),
                ", ".join(f"{pair} {ratio:.2f}" for pair, ratio in ratios.items()),
            )
    Console(width=180).print(table)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    parser.add_argument(
        "--channels-last",
        action="store_true",
        help="whole model: images and kernels in this memory format, in which the maps"
        " between the blocks always are",
    )
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
