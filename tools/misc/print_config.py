"""Print a config with everything it inherits."""

import argparse
import sys
from pathlib import Path

from mlp_backbones.engine.cli import UserError, add_config_arguments, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Print a config with everything it inherits and is overridden by."
    )
    add_config_arguments(parser, overwrite="--save-path")
    parser.add_argument(
        "--save-path", type=Path, help="write it to this .py, .json or .yml file too"
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()

    def work() -> None:
        from mlp_backbones.engine.config import read_config

        path = args.save_path
        if path is not None:
            if path.suffix not in (".py", ".json", ".yml"):
                raise UserError(f"--save-path takes .py, .json or .yml, got {path}")
            if path.exists() and not args.overwrite:
                raise UserError(f"--save-path {path} exists; --overwrite replaces it")
            if not path.absolute().parent.is_dir():
                raise UserError(f"--save-path {path}: its folder does not exist")
        config = read_config(args.config, args.cfg_options)
        print(config.pretty_text)
        if path is not None:
            config.dump(path)

    return run_tool(work, "print_config.py", args.debug)


if __name__ == "__main__":
    sys.exit(main())
