"""Draw feature maps or class activation maps of a backbone's stages over an image."""

import argparse
import sys
from pathlib import Path

from mlp_backbones.engine.cli import add_config_arguments, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Lay what the stages of a trained classifier's, detector's or "
        "segmentor's backbone compute over an image: feature maps, or class activation "
        "maps, which need the package grad-cam."
    )
    parser.add_argument("image", type=Path, help="image")
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("out_dir", type=Path, help="folder for the pictures")
    parser.add_argument(
        "--method",
        default="mean",
        choices=("mean", "max", "channels", "gradcam", "layercam", "eigencam"),
        help="mean or strongest of the channels, the twenty strongest side by side, or "
        "a class activation map (default: mean)",
    )
    parser.add_argument(
        "--stages", type=int, nargs="+", help="stages from 0 (default: all)"
    )
    parser.add_argument(
        "--class",
        dest="target",
        help="name or number of the class of gradcam and layercam (default: the one of "
        "the highest score)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if any)")
    return parser.parse_args()


def main() -> int:
    args = parse_args()

    def work() -> None:
        from mlp_backbones.analysis.activations import draw_activations
        from mlp_backbones.engine.config import read_config
        from mlp_backbones.engine.inference import make_inferencer
        from mlp_backbones.engine.pictures import find_images

        config = read_config(args.config, args.cfg_options)
        (image,) = find_images([args.image])
        inferencer = make_inferencer(config, args.checkpoint, args.device)
        drawn = draw_activations(
            inferencer,
            image,
            args.out_dir,
            method=args.method,
            stages=args.stages,
            target=args.target,
        )
        for one in drawn:
            print(one.file if one.target is None else f"{one.file}: {one.target}")

    return run_tool(work, "show_activations.py", args.debug)


if __name__ == "__main__":
    sys.exit(main())
