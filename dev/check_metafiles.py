"""Check the metafiles and the model index against configs, classes and counts."""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mlp_backbones.engine.cli import add_debug_option, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Check that the model index imports every metafile, that each "
        "config has one entry and each entry a config, that names, batch sizes, "
        "schedules, weights and results are as they should be, and, by building every "
        "model, that parameters (1 %%) and FLOPs (2 %%) are."
    )
    parser.add_argument(
        "families", nargs="*", help="folders below configs, by default all"
    )
    parser.add_argument("--fast", action="store_true", help="build no model")
    parser.add_argument(
        "--configs", type=Path, help="another folder of configs than this package's"
    )
    add_debug_option(parser)
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    problems: list[str] = []

    def work() -> None:
        from dev.zoo.checking import check_family, check_zoo
        from dev.zoo.updating import find_families
        from mlp_backbones.config_names import config_dir

        logging.disable(logging.INFO)  # what MMEngine tells of each model
        configs = args.configs or config_dir()
        build: list[str] | None = [] if args.fast else None
        folders = find_families(configs, args.families)
        if args.families:
            for folder in folders:
                problems.extend(check_family(folder, build=build))
        else:
            problems.extend(check_zoo(configs, build=build))
        count = sum(len(list(folder.glob("*.py"))) for folder in folders)
        print(f"checked {count} configs of {len(folders)} families")

    code = run_tool(work, "check_metafiles.py", args.debug)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else code


if __name__ == "__main__":
    sys.exit(main())
