"""Check the data a config points at."""

import argparse
import sys

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from mlp_backbones.datasets.checks import (
    SPLITS,
    DataError,
    check_data,
    check_samples,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Check the data a config points at: folders, annotation files, "
        "classes, boxes; with --decode every image and mask as well."
    )
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--split", nargs="+", choices=SPLITS, default=list(SPLITS), help="what to check"
    )
    parser.add_argument(
        "--decode",
        action="store_true",
        help="decode every image and mask, list all bad",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        help="override settings, key=value",
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    problems: list[str] = []
    try:
        config = Config.fromfile(args.config)
        config.merge_from_dict(args.cfg_options or {})
        init_default_scope(config.get("default_scope", "mmengine"))
        for summary in check_data(config, args.split):
            print(
                f"{summary.split}: {summary.source}: {summary.num_images} images, "
                f"{summary.num_annotations} annotations"
            )
        for split in args.split if args.decode else []:
            loader = config.get(f"{split}_dataloader")
            if loader:
                problems += check_samples(loader["dataset"], split, progress=True)
    except (DataError, OSError) as error:
        problems.append(error.line if isinstance(error, DataError) else str(error))
    for problem in dict.fromkeys(problems):
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
