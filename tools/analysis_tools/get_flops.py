"""Count the parameters and multiply-adds of a config's model."""

import argparse
import sys

from mlp_backbones.engine.cli import UserError, add_debug_option, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Count parameters and multiply-adds (what papers call FLOPs) of a "
        "classifier, detector or segmentor, or of its backbone."
    )
    parser.add_argument("config", help="config file")
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
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings that override the config",
    )
    add_debug_option(parser)
    return parser.parse_args()


def main() -> int:
    args = parse_args()

    def work() -> None:
        from mlp_backbones.analysis.complexity import (
            measure_complexity,
            print_complexity,
        )
        from mlp_backbones.engine.launch import read_config
        from mlp_backbones.engine.overrides import parse_options

        if len(args.shape) > 2:
            raise UserError(f"--shape takes one or two sides, got {args.shape}")
        shape = (args.shape[0], args.shape[-1])
        config = read_config(args.config, parse_options(args.cfg_options))
        complexity = measure_complexity(config, shape, args.backbone_only)
        part = "backbone" if args.backbone_only else config.model.type
        print_complexity(complexity, f"{args.config}: {part}")

    return run_tool(work, "get_flops.py", args.debug)


if __name__ == "__main__":
    sys.exit(main())
