"""Count the parameters and multiply-adds of a config's model."""

import argparse
import sys

from mlp_backbones.engine.cli import UserError, add_config_arguments, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Count parameters and multiply-adds (what papers call FLOPs) of a "
        "classifier, detector or segmentor, or of its backbone."
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--shape",
        nargs="+",
        type=int,
        default=[224],
        metavar="SIDE",
        help="height and width of the input, or one side of a square (default: 224)",
    )
    parser.add_argument(
        "--backbone-only", action="store_true", help="leave out neck and heads"
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()

    def work() -> None:
        from mlp_backbones.analysis.complexity import (
            measure_complexity,
            print_complexity,
        )
        from mlp_backbones.engine.config import read_config

        if len(args.shape) > 2:
            raise UserError(f"--shape takes one or two sides, got {args.shape}")
        shape = (args.shape[0], args.shape[-1])
        config = read_config(args.config, args.cfg_options)
        complexity = measure_complexity(config, shape, args.backbone_only)
        part = "backbone" if args.backbone_only else config.model.type
        print_complexity(complexity, f"{args.config}: {part}")

    return run_tool(work, "get_flops.py", args.debug)


if __name__ == "__main__":
    sys.exit(main())
