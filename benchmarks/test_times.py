"""Summarise a JUnit report of the tests: seconds by file, and the slowest tests.

    pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not nightly" \\
        --junitxml=tests.xml
    python -m benchmarks.test_times tests.xml benchmarks/results/test_times.json
"""

import argparse
import json
import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import torch

from benchmarks.timing import describe_machine

NUM_SLOWEST = 100


def summarise(report: Path) -> dict:
    """Read a report of pytest; raise ValueError if it holds no test."""
    suite = next(ElementTree.parse(report).iter("testsuite"))
    files: Counter[str] = Counter()
    times: dict[str, float] = {}
    for case in suite.iter("testcase"):
        seconds = float(case.attrib["time"])
        files[f"{case.attrib['classname'].replace('.', '/')}.py"] += seconds
        times[f"{case.attrib['classname']}::{case.attrib['name']}"] = seconds
    if not times:
        raise ValueError(f"{report} holds no test")
    slowest = sorted(times, key=lambda name: -times[name])[:NUM_SLOWEST]
    return {
        "machine": describe_machine(torch.device("cpu")) | {"cores": os.cpu_count()},
        "run": suite.attrib["timestamp"],
        "minutes": round(float(suite.attrib["time"]) / 60, 1),
        "tests": len(times),
        "failed": int(suite.attrib["failures"]) + int(suite.attrib["errors"]),
        "skipped": int(suite.attrib["skipped"]),
        "seconds_by_file": {file: round(s, 1) for file, s in files.most_common()},
        "slowest": {name: round(times[name], 1) for name in slowest},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="what --junitxml wrote")
    parser.add_argument("out", type=Path, help="a JSON file")
    args = parser.parse_args()
    args.out.write_text(json.dumps(summarise(args.report), indent=2) + "\n")


if __name__ == "__main__":
    main()
