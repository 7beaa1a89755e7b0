"""Make the digit scenes: COCO, ADE20K and ImageFolder from one command."""

import argparse
import sys

from mlp_backbones.engine.cli import UserError, add_debug_option, run_tool


def parse_args() -> argparse.Namespace:
    from mlp_backbones.datasets.digit_scenes import FORMATS, DigitScenesOptions

    defaults = DigitScenesOptions()
    parser = argparse.ArgumentParser(
        description="Compose scenes of real handwritten digits on real photographs, "
        "both shipped with scikit-learn. The same seed and options give the same "
        "bytes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", default="data/digit_scenes", help="folder to make")
    parser.add_argument(
        "--num-train", type=int, default=defaults.num_train, help="train scenes"
    )
    parser.add_argument(
        "--num-val", type=int, default=defaults.num_val, help="val scenes"
    )
    parser.add_argument(
        "--num-train-cls",
        type=int,
        default=defaults.num_train_cls,
        help="train pictures for classification, all classes",
    )
    parser.add_argument(
        "--num-val-cls",
        type=int,
        default=defaults.num_val_cls,
        help="val pictures for classification, all classes",
    )
    parser.add_argument(
        "--size", type=int, default=defaults.size, help="side of a scene, px"
    )
    parser.add_argument(
        "--cls-size",
        type=int,
        default=defaults.cls_size,
        help="side of a classification picture, px",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="seed")
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=FORMATS,
        default=list(defaults.formats),
        help="what to write",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a set of digit scenes that is already there",
    )
    add_debug_option(parser)
    return parser.parse_args()


def main() -> int:
    args = vars(parse_args())
    out_dir, overwrite = args.pop("out"), args.pop("overwrite")
    debug = args.pop("debug")
    args["formats"] = tuple(args["formats"])

    def work() -> None:
        from mlp_backbones.datasets.digit_scenes import (
            DigitScenesOptions,
            make_digit_scenes,
        )

        try:
            options = DigitScenesOptions(**args)
            root = make_digit_scenes(
                out_dir, options, overwrite=overwrite, progress=True
            )
        except (ValueError, OSError, ImportError) as error:
            raise UserError(str(error), exit_code=1) from error
        print(f"digit scenes written to {root}")

    return run_tool(work, "make_digit_scenes.py", debug)


if __name__ == "__main__":
    sys.exit(main())
