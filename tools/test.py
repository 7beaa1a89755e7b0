"""Test a classifier, detector or segmentor: `tools/test.py CONFIG CHECKPOINT`."""

import sys

from mlp_backbones.engine.cli import run_tool
from mlp_backbones.engine.launch import current_log_dir, test
from mlp_backbones.engine.options import test_parser


def main() -> int:
    args = test_parser().parse_args()
    return run_tool(lambda: test(args), "test.py", args.debug, current_log_dir)


if __name__ == "__main__":
    sys.exit(main())
