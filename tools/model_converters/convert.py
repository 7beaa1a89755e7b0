"""Convert official weights to this package's form, or a checkpoint to a backbone."""

import argparse
import sys
from pathlib import Path

from mlp_backbones.engine.cli import add_debug_option, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write the weights that a family's authors, timm or mmpretrain "
        "have published as a classifier of this package, which tools/test.py takes; or "
        "strip a trained checkpoint, down to its bare backbone if asked."
    )
    parser.add_argument("in_file", type=Path, help="file of weights, in any layout")
    parser.add_argument(
        "out_file",
        type=Path,
        help="file wanted, such as model.pth or model.safetensors; its hash is put "
        "before the suffix",
    )
    parser.add_argument(
        "--backbone-only", action="store_true", help="leave out neck and heads"
    )
    parser.add_argument(
        "--model",
        help="name as in list_models(), such as cyclemlp_b1, of official weights that "
        "fit several (default: found by names and shapes)",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        help="side of the training images of official weights, where their token grid "
        "is not the usual one",
    )
    add_debug_option(parser)
    return parser.parse_args()


def main() -> int:
    args = parse_args()

    def work() -> None:
        from mlp_backbones.engine.convert import convert_checkpoint

        done = convert_checkpoint(
            args.in_file,
            args.out_file,
            model=args.model,
            backbone_only=args.backbone_only,
            image_size=args.image_size,
        )
        print(f"{done.file}: {done.description}")

    return run_tool(work, "convert.py", args.debug)


if __name__ == "__main__":
    sys.exit(main())
