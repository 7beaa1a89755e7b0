"""Draw the loss, learning rate and metric curves of runs as PNGs."""

import argparse
import sys
from pathlib import Path

from mlp_backbones.engine.cli import add_debug_option, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Draw the curves of one run, or of several into the same pictures. "
        "Starts of a resumed run in one work folder make one curve."
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, help="work folders or scalars.json files"
    )
    parser.add_argument(
        "--out-dir", type=Path, help="folder for the PNGs, default: the first run's"
    )
    parser.add_argument(
        "--keys", nargs="+", help="names of the curves, e.g. loss_cls coco/bbox_mAP"
    )
    parser.add_argument(
        "--smooth", type=int, default=1, help="points in the running mean of losses"
    )
    add_debug_option(parser)
    return parser.parse_args()


def main() -> int:
    args = parse_args()

    def work() -> None:
        from mlp_backbones.analysis.curves import save_curves

        first = args.runs[0]
        out_dir = args.out_dir or (first.parent if first.is_file() else first)
        for file in save_curves(args.runs, out_dir, args.keys, args.smooth):
            print(file)

    return run_tool(work, "plot_curves.py", args.debug)


if __name__ == "__main__":
    sys.exit(main())
