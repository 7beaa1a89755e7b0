"""Run a tool of mmdet, mmseg or mmpretrain with this package imported first.

``python -m mlp_backbones PATH/TO/tools/train.py ARGS...`` does what ``python
PATH/TO/tools/train.py ARGS...`` does, and mmcv's operators are there from the start.
"""

import argparse
import runpy
import sys
from pathlib import Path


def main() -> None:
    """Run the script that the command line names, as Python itself would."""
    parser = argparse.ArgumentParser(
        prog="python -m mlp_backbones",
        description="Run a Python script, such as mmdet's tools/train.py, with "
        "mlp_backbones imported first: mmcv's operators then need no compiler.",
    )
    parser.add_argument("script", help="path of the script")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="its own arguments")
    given = parser.parse_args()
    if not Path(given.script).is_file():
        parser.error(f"no such script: {given.script}")
    sys.argv = [given.script, *given.args]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path(given.script).resolve().parent)
    runpy.run_path(given.script, run_name="__main__")


if __name__ == "__main__":
    main()
