"""Make a checkpoint ready to be given away: smaller, and named by its hash."""

import argparse
import sys
from pathlib import Path

from mlp_backbones.engine.cli import add_debug_option, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write a checkpoint without optimizer, schedules and logs, and put "
        "the first 8 digits of its SHA-256 hash into the name. The training's config "
        "stays inside, with the paths it holds. The same checkpoint gives the same "
        "file."
    )
    parser.add_argument("in_file", type=Path, help="checkpoint of a training")
    parser.add_argument(
        "out_file",
        type=Path,
        help="e.g. model.pth, which becomes model-1a2b3c4d.pth; .safetensors for the "
        "weights alone (for get_model and init_cfg, not for tools/test.py)",
    )
    add_debug_option(parser)
    return parser.parse_args()


def main() -> int:
    args = parse_args()

    def work() -> None:
        from mlp_backbones.engine.publish import publish_checkpoint

        print(publish_checkpoint(args.in_file, args.out_file))

    return run_tool(work, "publish_model.py", args.debug)


if __name__ == "__main__":
    sys.exit(main())
