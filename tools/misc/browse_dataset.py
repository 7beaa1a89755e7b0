"""Draw samples of the data a config points at, as its pipeline leaves them."""

import argparse
import sys
from pathlib import Path

from mlp_backbones.engine.cli import add_config_arguments, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Draw the first samples of a data set with their annotations, as "
        "the config's pipeline leaves them: what a model learns from. Pictures of an "
        "earlier run are replaced."
    )
    add_config_arguments(parser)
    parser.add_argument("out_dir", type=Path, help="folder for the pictures")
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="train", help="which data"
    )
    parser.add_argument("--num-images", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of random transforms")
    return parser.parse_args()


def main() -> int:
    args = parse_args()

    def work() -> None:
        from mmengine.runner import set_random_seed

        from mlp_backbones.analysis.samples import save_sample_pictures
        from mlp_backbones.engine.config import check_data, read_config

        config = read_config(args.config, args.cfg_options)
        check_data(config, (args.split,))
        set_random_seed(args.seed)
        for file in save_sample_pictures(
            config, args.split, args.out_dir, args.num_images
        ):
            print(file)

    return run_tool(work, "browse_dataset.py", args.debug)


if __name__ == "__main__":
    sys.exit(main())
