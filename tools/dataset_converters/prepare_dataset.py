"""Lay out ImageNet, ADE20K or COCO from what their authors give for download."""

import argparse
import sys
from pathlib import Path

from mlp_backbones.engine.cli import UserError, add_debug_option, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Lay out a data set as the configs expect it. Nothing is "
        "overwritten, and what was interrupted goes on. In the end counts are compared "
        "and a sample of the files is read."
    )
    commands = parser.add_subparsers(dest="dataset", required=True)
    imagenet = commands.add_parser(
        "imagenet", help="sort the flat validation images into class folders"
    )
    imagenet.add_argument(
        "images", type=Path, help="ILSVRC2012_img_val.tar, or the folder of its images"
    )
    imagenet.add_argument(
        "devkit", type=Path, help="ILSVRC2012_devkit_t12.tar.gz, or its folder"
    )
    ade20k = commands.add_parser("ade20k", help="unpack ADEChallengeData2016.zip")
    ade20k.add_argument("archive", type=Path)
    coco = commands.add_parser("coco", help="unpack the zip files of COCO 2017")
    coco.add_argument(
        "archives",
        type=Path,
        nargs="+",
        help="train2017.zip val2017.zip annotations_trainval2017.zip, or some of them",
    )
    for command, folder in ((imagenet, "imagenet"), (ade20k, "ade"), (coco, "coco")):
        default = Path("data", folder)
        command.add_argument(
            "--out", type=Path, default=default, help=f"default: {default}"
        )
        command.add_argument(
            "--partial", action="store_true", help="accept that files are missing"
        )
        add_debug_option(command)
    return parser.parse_args()


def main() -> int:
    args = parse_args()

    def work() -> None:
        from mlp_backbones.datasets import preparation
        from mlp_backbones.datasets.checks import DataError

        try:
            if args.dataset == "imagenet":
                laid = preparation.prepare_imagenet(
                    args.images, args.devkit, args.out, args.partial
                )
            elif args.dataset == "ade20k":
                laid = preparation.prepare_ade20k(args.archive, args.out, args.partial)
            else:
                laid = preparation.prepare_coco(args.archives, args.out, args.partial)
        except DataError as error:
            raise UserError(error.line, exit_code=1) from error
        counts = ", ".join(f"{n} images of {split}" for split, n in laid.counts.items())
        print(
            f"{laid.folder}: {counts}; {laid.written} files written, {laid.kept} were "
            f"there; {laid.checked} read"
        )

    return run_tool(work, "prepare_dataset.py", args.debug)


if __name__ == "__main__":
    sys.exit(main())
