"""Show what a trained model says of images: `tools/demo.py IMAGE CONFIG CHECKPOINT`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from mlp_backbones.engine.cli import add_config_arguments, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run a classifier, detector or segmentor on images, print what it "
        "finds and draw it. Pictures go to OUT/vis and predictions to OUT/preds; those "
        "of an earlier run with the same names are replaced.",
    )
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="images, or folders"
    )
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs"), help="folder (default: outputs)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if any)")
    parser.add_argument(
        "--score-thr",
        type=float,
        default=0.3,
        metavar="SCORE",
        help="leave out detections below it (default: 0.3)",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="names of the classes, in place of those in the checkpoint",
    )
    parser.add_argument(
        "--opacity",
        type=float,
        default=0.5,
        help="of the colours of a segmentation (default: 0.5)",
    )
    parser.add_argument(
        "--with-labels",
        action="store_true",
        help="write class names onto the regions of a segmentation (slow)",
    )
    parser.add_argument(
        "--save-pred",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write predictions as JSON, and the classes of a segmentation as a mask",
    )
    return parser.parse_args()


def summarise(prediction: dict[str, Any], threshold: float, num_lines: int = 20) -> str:
    """Say in lines what was found, the most certain or largest first."""
    if "shares" in prediction:
        shares = sorted(prediction["shares"].items(), key=lambda item: -item[1])
        lines = [f"{name}: {100 * share:.1f} %" for name, share in shares]
    elif "bboxes" in prediction:
        columns = (prediction[key] for key in ("scores", "classes", "bboxes"))
        lines = [
            f"{name}: {score:.3f} at {', '.join(f'{edge:.0f}' for edge in box)}"
            for score, name, box in sorted(zip(*columns, strict=True), reverse=True)
            if score > threshold
        ]
    else:
        likely = zip(prediction["scores"], prediction["classes"], strict=True)
        best = sorted(likely, key=lambda item: -item[0])[:5]
        lines = [f"{name}: {score:.3f}" for score, name in best]
    if len(lines) > num_lines:
        lines[num_lines:] = [f"... and {len(lines) - num_lines} more"]
    return "\n    ".join(lines or ["nothing above the threshold"])


def main() -> int:
    args = parse_args()

    def work() -> None:
        from mmengine.logging import MMLogger

        from mlp_backbones.engine.config import (
            check_checkpoint,
            check_run,
            read_config,
        )
        from mlp_backbones.engine.inference import (
            check_outputs,
            make_inferencer,
            run_inference,
        )
        from mlp_backbones.engine.pictures import find_images

        config = read_config(args.config, args.cfg_options)
        images = find_images(args.images)
        check_outputs(images, args.out, args.score_thr, args.opacity)
        check_checkpoint(args.checkpoint)
        check_run(
            config,
            "demo",
            (),
            checkpoint=args.checkpoint,
            with_data=False,
            with_card=False,
        )
        # What the inferencers warn of has been checked here.
        MMLogger.get_instance("demo", log_level="ERROR")
        inferencer = make_inferencer(config, args.checkpoint, args.device, args.classes)
        results = run_inference(
            inferencer,
            images,
            args.out,
            score_threshold=args.score_thr,
            save_predictions=args.save_pred,
            opacity=args.opacity,
            with_labels=args.with_labels,
        )
        for image, (picture, prediction) in zip(images, results, strict=True):
            print(f"{image} -> {picture}\n    {summarise(prediction, args.score_thr)}")

    return run_tool(work, "demo.py", args.debug)


if __name__ == "__main__":
    sys.exit(main())
