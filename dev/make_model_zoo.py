"""Make the tables of configs/*/README.md and docs/model_zoo.md from the metafiles."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mlp_backbones.engine.cli import add_debug_option, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write docs/model_zoo.md, and the tables of the families' READMEs "
        "between their markers, from the metafiles."
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; fail with one line for each page that is stale",
    )
    parser.add_argument(
        "--configs", type=Path, help="another folder of configs than this package's"
    )
    add_debug_option(parser)
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    problems: list[str] = []

    def work() -> None:
        from dev.zoo.metafile import MetafileError
        from dev.zoo.tables import (
            TableError,
            find_stale_pages,
            make_pages,
            write_pages,
        )
        from mlp_backbones.config_names import config_dir

        try:
            pages = make_pages(args.configs or config_dir())
        except (MetafileError, TableError) as error:
            problems.extend(error.problems)
            return
        if args.check:
            problems.extend(find_stale_pages(pages))
            print(f"{len(pages)} pages checked")
            return
        for path in write_pages(pages):
            print(f"wrote {path}")

    code = run_tool(work, "make_model_zoo.py", args.debug)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else code


if __name__ == "__main__":
    sys.exit(main())
