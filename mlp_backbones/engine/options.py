"""The command lines of tools/train.py and tools/test.py.

They know the options of MMEngine, mmdet, mmseg and mmpretrain under one roof.
"""

from argparse import ArgumentParser

from mlp_backbones.engine.cli import add_config_arguments


def add_common_options(parser: ArgumentParser) -> None:
    """Add the options that training and testing share."""
    parser.add_argument("--work-dir", help="folder for logs and checkpoints")
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision")
    parser.add_argument(
        "--amp-dtype",
        choices=("float16", "bfloat16"),
        help="number format of --amp, which it implies "
        "(default: float16 on a GPU, bfloat16 on a CPU)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the step with torch.compile"
    )
    parser.add_argument("--seed", type=int, help="seed of all random numbers")
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="use deterministic algorithms, which may be slower",
    )
    parser.add_argument(
        "--no-check-data",
        action="store_true",
        help="do not check the annotations before the run",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, print the run card and stop",
    )
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch", "slurm", "mpi"),
        default="none",
        help="how the processes of a distributed run were started",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)


def add_picture_options(parser: ArgumentParser) -> None:
    """Add the options that show predictions."""
    parser.add_argument(
        "--show", action="store_true", help="show predictions in a window"
    )
    parser.add_argument(
        "--show-dir",
        help="folder for images of predictions beside the ground truth",
    )
    parser.add_argument(
        "--wait-time",
        type=float,
        default=2.0,
        help="seconds that --show shows each picture",
    )


def train_parser() -> ArgumentParser:
    """Make the parser of tools/train.py."""
    parser = ArgumentParser(
        description="Train a classifier, detector or segmentor; the config decides."
    )
    add_config_arguments(parser)
    add_common_options(parser)
    add_picture_options(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help='continue from this checkpoint, or without a value (or with "auto") '
        "from the latest one in the work folder",
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate to the batch size, from the config's "
        "auto_scale_lr.base_batch_size",
    )
    parser.add_argument(
        "--vis",
        nargs="+",
        choices=("tensorboard", "wandb"),
        default=[],
        help="also send losses, learning rates and metrics there",
    )
    parser.add_argument(
        "--no-validate", action="store_true", help="do not evaluate while training"
    )
    return parser


def test_parser() -> ArgumentParser:
    """Make the parser of tools/test.py."""
    parser = ArgumentParser(
        description="Test a classifier, detector or segmentor; the config decides."
    )
    add_config_arguments(parser, overwrite="--out")
    parser.add_argument("checkpoint", help="checkpoint file")
    add_common_options(parser)
    add_picture_options(parser)
    parser.add_argument("--out", help="file for the predictions (.pkl or .pickle)")
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation: the config's tta_model and tta_pipeline, "
        "otherwise the task's own with a horizontal flip",
    )
    return parser
