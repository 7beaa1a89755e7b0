"""Train and evaluate a small detector on the digit scenes, from data to pictures."""

import argparse
import sys
from pathlib import Path

from mlp_backbones.engine.cli import add_debug_option, run_tool
from mlp_backbones.engine.demo import DEMO_TASKS, print_result, run_demo


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Make the digit scenes if need be, train on them from scratch, "
        "evaluate on held-out scenes, and leave metrics, curves and pictures."
    )
    parser.add_argument(
        "--task", choices=DEMO_TASKS, default="retinanet", help="what to train"
    )
    parser.add_argument("--out-dir", type=Path, help="default: work_dirs/demo_TASK")
    parser.add_argument("--config", type=Path, help="config in place of the task's own")
    parser.add_argument(
        "--data-root", type=Path, help="digit scenes, default: as in the config"
    )
    parser.add_argument(
        "--num-pictures", type=int, default=12, help="pictures of predictions"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings that override the config, as for tools/train.py",
    )
    add_debug_option(parser)
    return parser.parse_args()


def main() -> int:
    args = parse_args()

    def work() -> None:
        out_dir = args.out_dir or Path("work_dirs") / f"demo_{args.task}"
        result = run_demo(
            out_dir,
            args.task,
            args.config,
            args.data_root,
            args.num_pictures,
            args.cfg_options,
        )
        print_result(result)

    return run_tool(work, "run_demo.py", args.debug)


if __name__ == "__main__":
    sys.exit(main())
