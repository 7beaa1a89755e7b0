"""Train a classifier, detector or segmentor: `tools/train.py CONFIG`."""

import sys

from mlp_backbones.engine.cli import run_tool
from mlp_backbones.engine.launch import current_log_dir, train
from mlp_backbones.engine.options import train_parser


def main() -> int:
    args = train_parser().parse_args()
    return run_tool(lambda: train(args), "train.py", args.debug, current_log_dir)


if __name__ == "__main__":
    sys.exit(main())
