"""Print what is installed, what each task lacks and the command that mends it."""

import argparse
import sys
from pathlib import Path

if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit(
        "Python %d.%d is not supported, 3.10 to 3.13 are: PYTHON=python3.11 make setup"
        % sys.version_info[:2]
    )
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mlp_backbones import environment as env


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=env.TASKS, help="fail unless it is ready")
    task = parser.parse_args().task
    environment = env.Environment()
    print(env.format_report(environment, task))
    return bool(environment.problems or (task and environment.missing(task)))


if __name__ == "__main__":
    sys.exit(main())
