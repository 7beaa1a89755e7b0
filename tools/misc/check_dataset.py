"""Check the data a config points at."""

import argparse
import sys

from mlp_backbones.engine.cli import UserError, add_config_arguments, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Check the data a config points at: folders, annotation files, "
        "classes, boxes; with --decode every image and mask as well."
    )
    add_config_arguments(parser)
    splits = ("train", "val", "test")
    parser.add_argument(
        "--split", nargs="+", choices=splits, default=splits, help="what to check"
    )
    parser.add_argument(
        "--decode",
        action="store_true",
        help="decode every image and mask, list all bad",
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()

    def work() -> None:
        from mmengine.registry import init_default_scope

        from mlp_backbones.datasets.checks import DataError, check_data, check_samples
        from mlp_backbones.engine.config import read_config

        config = read_config(args.config, args.cfg_options)
        init_default_scope(config.default_scope)
        problems: list[str] = []
        try:
            for summary in check_data(config, args.split):
                print(
                    f"{summary.split}: {summary.source}: {summary.num_images} images, "
                    f"{summary.num_annotations} annotations"
                )
            for split in args.split if args.decode else []:
                loader = config.get(f"{split}_dataloader")
                if loader:
                    problems += check_samples(loader["dataset"], split, progress=True)
        except DataError as error:
            problems.append(error.line)
        except OSError as error:
            problems.append(str(error))
        *others, last = dict.fromkeys(problems) or [None]
        for problem in others:
            print(f"check_dataset.py: error: {problem}", file=sys.stderr)
        if last is not None:
            raise UserError(last, exit_code=1)

    return run_tool(work, "check_dataset.py", args.debug)


if __name__ == "__main__":
    sys.exit(main())
