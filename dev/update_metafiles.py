"""Bring the metafiles of the families up to date with their configs."""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mlp_backbones.engine.cli import add_debug_option, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Add an entry for each config without one, count parameters and "
        "multiply-adds anew, and list every metafile in model-index.yml. What was "
        "written by hand (results, the papers' numbers, weights, the comment at the "
        "top) is kept."
    )
    parser.add_argument(
        "families", nargs="*", help="folders below configs, by default all"
    )
    parser.add_argument(
        "--recount",
        action="store_true",
        help="count all multiply-adds anew, not only those that are missing or whose "
        "number of parameters changed",
    )
    parser.add_argument(
        "--prune", action="store_true", help="drop entries whose config is gone"
    )
    parser.add_argument(
        "--configs", type=Path, help="another folder of configs than this package's"
    )
    add_debug_option(parser)
    return parser.parse_args()


def main() -> int:
    args = parse_args()

    def work() -> None:
        from dev.zoo.updating import (
            find_families,
            update_metafile,
            update_model_index,
        )
        from mlp_backbones.config_names import config_dir

        logging.disable(logging.INFO)  # what MMEngine tells of each model
        configs = args.configs or config_dir()
        for folder in find_families(configs, args.families):
            update = update_metafile(
                folder,
                recount=args.recount,
                prune=args.prune,
                progress=lambda name: print(f"  counting {name}", flush=True),
            )
            print(
                f"{update.path}: {len(update.added)} added, {len(update.changed)} "
                f"changed, {len(update.dropped)} dropped"
                + ("" if update.rewritten else ", file as it was"),
                flush=True,
            )
        if update_model_index(configs):
            print(f"{configs.parent / 'model-index.yml'}: written anew")

    return run_tool(work, "update_metafiles.py", args.debug)


if __name__ == "__main__":
    sys.exit(main())
