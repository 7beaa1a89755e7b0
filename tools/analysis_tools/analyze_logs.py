"""Summarise the logs of trainings: times, best results, curves."""

import argparse
import sys
from pathlib import Path

from mlp_backbones.engine.cli import add_debug_option, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Summarise trainings of any task from their scalars.json files. "
        "Starts of a resumed run in one work folder count as one."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    summary = commands.add_parser("summary", help="best results and times")
    times = commands.add_parser("cal_train_time", help="seconds an iteration takes")
    curve = commands.add_parser(
        "plot_curve", help="PNGs of the loss, learning rate and metric curves"
    )
    for command in (summary, times, curve):
        command.add_argument(
            "runs", nargs="+", type=Path, help="work folders or scalars.json files"
        )
        add_debug_option(command)
    times.add_argument(
        "--include-outliers",
        action="store_true",
        help="count the first logged iterations of each epoch too",
    )
    curve.add_argument(
        "--keys", nargs="+", help="names of the curves, e.g. loss_cls coco/bbox_mAP"
    )
    curve.add_argument(
        "--smooth", type=int, default=1, help="points in the running mean of losses"
    )
    curve.add_argument("--out-dir", type=Path, help="default: the first run's folder")
    return parser.parse_args()


def main() -> int:
    args = parse_args()

    def work() -> None:
        from mlp_backbones.analysis.curves import save_curves
        from mlp_backbones.analysis.logs import print_summary, print_times

        if args.command == "summary":
            print_summary(args.runs)
        elif args.command == "cal_train_time":
            for run in args.runs:
                print_times(run, args.include_outliers)
        else:
            first = args.runs[0]
            out_dir = args.out_dir or (first.parent if first.is_file() else first)
            for file in save_curves(args.runs, out_dir, args.keys, args.smooth):
                print(file)

    return run_tool(work, "analyze_logs.py", args.debug)


if __name__ == "__main__":
    sys.exit(main())
