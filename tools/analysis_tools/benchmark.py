"""Measure how many images a second a config's model takes."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from mlp_backbones.engine.cli import UserError, add_config_arguments, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure images per second on random images, from the median time "
        "of a batch. The decoding of outputs into boxes is not part of it."
    )
    add_config_arguments(parser, overwrite="--out")
    parser.add_argument(
        "--shape",
        nargs="+",
        type=int,
        default=[224],
        metavar="SIDE",
        help="height and width of the images, or one side of a square (default: 224)",
    )
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10, help="batches measured")
    parser.add_argument("--warmup", type=int, default=3, help="batches before these")
    parser.add_argument(
        "--train", action="store_true", help="measure forward and backward"
    )
    parser.add_argument(
        "--backbone-only", action="store_true", help="leave out neck and heads"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), default="float32"
    )
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--num-threads", type=int, help="CPU threads")
    parser.add_argument("--out", type=Path, help="JSON file with all times")
    return parser.parse_args()


def main() -> int:
    args = parse_args()

    def work() -> None:
        import torch

        from mlp_backbones.analysis.models import TensorForward
        from mlp_backbones.analysis.throughput import measure_throughput
        from mlp_backbones.building import build_model
        from mlp_backbones.engine.config import read_config

        if len(args.shape) > 2:
            raise UserError(f"--shape takes one or two sides, got {args.shape}")
        if args.out is not None and args.out.exists() and not args.overwrite:
            raise UserError(f"--out {args.out} exists; --overwrite replaces it")
        if args.num_threads is not None:
            torch.set_num_threads(args.num_threads)
        config = read_config(args.config, args.cfg_options)
        result = measure_throughput(
            TensorForward(build_model(config), args.backbone_only),
            (args.shape[0], args.shape[-1]),
            batch_size=args.batch_size,
            repeats=args.repeats,
            warmup=args.warmup,
            training=args.train,
            device=args.device,
            dtype=args.dtype,
            channels_last=args.channels_last,
        )
        print(
            f"{result.images_per_second:.2f} images/s (median of {args.repeats} "
            f"batches of {result.batch_size}, {result.device}, "
            f"{result.num_threads} threads, torch {result.torch})"
        )
        if args.out is not None:
            record = {"config": args.config, **dataclasses.asdict(result)}
            args.out.write_text(json.dumps(record, indent=2) + "\n")

    return run_tool(work, "benchmark.py", args.debug)


if __name__ == "__main__":
    sys.exit(main())
