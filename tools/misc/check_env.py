"""Print what is installed, what each task needs and the command that mends it."""

import argparse
import sys
from pathlib import Path

if sys.version_info < (3, 10):  # the package does not import there
    sys.exit(
        "Python %d.%d is not supported: run this with Python 3.10, 3.11 or 3.12"
        % sys.version_info[:2]
    )
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mlp_backbones import environment as env


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--task",
        choices=sorted(env.TASKS),
        help="fail unless this task has all it needs; by default everything is "
        "reported and only what is installed but broken fails",
    )
    parser.add_argument(
        "--fast",
        action="store_true",
        help="compare versions only, do not import and try the packages",
    )
    return parser.parse_args()


def print_table(rows):
    """Print the version table with rich, in plain text where that is missing."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        return False
    table = Table("part", "version", "state", "needed by")
    for row in rows:
        colour = "green" if row[2].startswith(("ok", "installed")) else "red"
        table.add_row(row[0], row[1], f"[{colour}]{row[2]}[/{colour}]", row[3])
    Console().print(table)
    return True


def main():
    arguments = parse_args()
    found = env.read_environment(probe=not arguments.fast)
    report = env.format_report(found, arguments.task)
    if sys.stdout.isatty() and print_table(env.make_rows(found)):
        report = report.partition("\n\n")[2]
    print(report)
    problems = env.find_problems(found, arguments.task or "tests")
    failing = [p for p in problems if arguments.task or not p.missing]
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
