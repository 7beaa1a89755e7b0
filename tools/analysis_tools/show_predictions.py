"""Draw predictions of a checkpoint beside the ground truth."""

import argparse
import sys
from pathlib import Path

from mlp_backbones.engine.cli import UserError, add_config_arguments, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run a checkpoint on the first images of the test set and draw "
        "ground truth (left) and prediction (right)."
    )
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("out_dir", type=Path, help="folder for the pictures")
    parser.add_argument("--num-images", type=int, default=8)
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.3,
        help="leave out detections below it",
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()

    def work() -> None:
        from mlp_backbones.analysis.pictures import save_prediction_pictures
        from mlp_backbones.engine.config import (
            check_checkpoint,
            check_run,
            read_config,
        )

        if args.out_dir.is_dir() and any(args.out_dir.iterdir()):
            raise UserError(f"{args.out_dir} is not empty; choose a new folder")
        config = read_config(args.config, args.cfg_options)
        check_checkpoint(args.checkpoint)
        check_run(
            config,
            "show_predictions",
            ("test",),
            checkpoint=args.checkpoint,
            with_card=False,
        )
        for file in save_prediction_pictures(
            config, args.checkpoint, args.out_dir, args.num_images, args.score_threshold
        ):
            print(file)

    return run_tool(work, "show_predictions.py", args.debug)


if __name__ == "__main__":
    sys.exit(main())
