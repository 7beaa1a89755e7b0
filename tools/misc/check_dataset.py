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
        from mlp_backbones.datasets.checks import DataError, check_data, check_samples
        from mlp_backbones.engine.config import read_config

        config = read_config(args.config, args.cfg_options)
        problems: list[str] = []
        warnings: list[str] = []
        try:
            report = check_data(config, args.split)
            for dataset in report.datasets:
                print(dataset.line)
            warnings += report.warnings
        except DataError as error:
            problems.append(error.line)
        except OSError as error:
            problems.append(str(error))
        decoded = []
        for split in args.split if args.decode else []:
            loader = config.get(f"{split}_dataloader")
            if not loader or loader["dataset"] in decoded:
                continue
            decoded.append(loader["dataset"])
            try:
                found = check_samples(
                    loader["dataset"], split, config.default_scope, progress=True
                )
            except DataError as error:
                problems.append(error.line)
            else:
                problems += found.problems
                warnings += found.warnings
        for warning in dict.fromkeys(warnings):
            print(f"check_dataset.py: warning: {warning}", file=sys.stderr)
        *others, last = dict.fromkeys(problems) or [None]
        for problem in others:
            print(f"check_dataset.py: error: {problem}", file=sys.stderr)
        if last is not None:
            raise UserError(last, exit_code=1)

    return run_tool(work, "check_dataset.py", args.debug)


if __name__ == "__main__":
    sys.exit(main())
