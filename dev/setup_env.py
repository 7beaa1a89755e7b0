"""Set up a virtual environment for this checkout; what is done is not repeated.

The Makefile calls it, for either stack. It uses the standard library only, and every
failure ends in one line that says what to do.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CAPTURED = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
# What pip prints -> what to do about it; the first that is found counts.
FAILURES = {
    r"no space left|errno 28": "the disk is full: free some, run the command again",
    r"certificate.?verify.?failed": "the package index has a certificate that is not "
    "trusted: point PIP_CERT at the certificate file of your network",
    r"ensurepip|named venv": "Python lacks venv: apt install python3-venv, or the like",
    r"killed signal|signal: killed": "out of memory: run MAX_JOBS=1 make operators",
    r"detected cuda version|cuda_home": "no CUDA toolkit that fits torch: install it, "
    "or run CUDA_VISIBLE_DEVICES= make operators for the CPU only",
    r"new connection|connection refused|connection broken|timed out|name resolution|"
    r"not known|network is unreachable|max retries|proxyerror": "no network: the index "
    "cannot be reached; mend that (see PIP_INDEX_URL) and run the command again",
    r"no matching distributions? (?:found for|available for .*:)\s+(\S+)": "the "
    "package index has no {} for this Python: see PIP_INDEX_URL, PIP_FIND_LINKS",
}


def describe_failure(output):
    for pattern, advice in FAILURES.items():
        found = re.search(pattern, output, re.IGNORECASE)
        if found:
            return advice.format(*found.groups())
    errors = re.findall(r"^\s*((?:fatal )?error[: ].*)", output, re.I | re.M)
    return errors[0].strip() if errors else "the command failed"


def describe_progress(line):
    """Return what to show of a line that pip prints."""
    if found := re.match(r"Progress (\d+) of (\d+)", line):
        return f"downloaded {int(found[1]) / 1e6:.0f} of {int(found[2]) / 1e6:.0f} MB"
    if found := re.match(r"\s*\[(\d+/\d+)\]", line):
        return f"compiled {found[1]} files"
    if line.startswith("Installing collected packages"):
        return f"installing {line.count(',') + 1} packages"
    found = re.match(r"\s*(Downloading|Collecting|Processing) (?:\S*/)?(\S+)", line)
    return " ".join(found.groups()) if found else ""


class Setup:
    def __init__(self, arguments):
        self.venv = Path(os.path.abspath(arguments.venv))
        self.python = self.venv / "bin" / "python"
        self.check = (self.python, "tools/misc/check_env.py", "--task")
        self.constraints = ROOT / arguments.constraints
        self.target = f"{ROOT}[{arguments.extras}]"
        self.min_free_gib = arguments.min_free_gib
        self.log, self.stamp = self.venv / "setup.log", self.venv / ".set-up"

    def run(self, *command, **variables):
        """Run a command with its progress shown; return its exit code and output."""
        environment = {**os.environ, "PIP_USER": "0", **variables}
        for name in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX"):
            environment.pop(name, None)
        options = {"cwd": ROOT, "env": environment, "errors": "replace", **CAPTURED}
        process = subprocess.Popen(command, **options)
        output, start, shown = "", time.monotonic(), 0
        with open(self.log, "a", encoding="utf-8") as log:
            for line in process.stdout:
                log.write(line)
                output += line
                seconds = time.monotonic() - start
                text = describe_progress(line)
                if text and (seconds > shown + 3 or text.startswith("installing")):
                    shown = seconds
                    print(f"  {seconds:4.0f} s  {text}", flush=True)
        return process.wait(), output

    def pip(self, *arguments, **variables):
        pip = (self.python, "-m", "pip", "install", "--disable-pip-version-check")
        code, output = self.run(*pip, "-c", self.constraints, *arguments, **variables)
        if code:
            sys.exit(f"setup: {describe_failure(output)} (log: {self.log})")

    def set_up(self):
        """Bring the environment up to date, unless these very files made it."""
        version = "{}.{}".format(*sys.version_info)
        state = f"{version} {self.target}\n{self.constraints.read_text()}"
        state += (ROOT / "setup.py").read_text()
        if self.stamp.is_file() and self.stamp.read_text() == state:
            return
        self.check_folders()
        print(f"setup: {self.venv} with Python {version}, once", flush=True)
        code = f"import pip, sys; assert sys.version_info[:2] == {sys.version_info[:2]}"
        command = [self.python, "-c", code]
        if not self.python.exists() or subprocess.run(command, **CAPTURED).returncode:
            # The base: this Python may be the one of the folder that is cleared.
            base = getattr(sys, "_base_executable", None) or sys.executable
            done = subprocess.run(
                [base, "-m", "venv", "--clear", self.venv], **CAPTURED
            )
            if done.returncode:
                sys.exit(f"setup: no environment: {describe_failure(done.stdout)}")
        for file in (self.stamp, self.log):
            file.unlink(missing_ok=True)
        # Small, so that a missing network shows at once; the next line needs it.
        self.pip("--retries", "1", "--timeout", "20", "pip>=25.3")
        # Python compiles what it imports; to compile all takes longer than the rest.
        options = ("--no-compile", "--progress-bar", "raw", "--build-constraint")
        self.pip(*options, self.constraints, "-e", self.target)
        for is_last in (False, True):
            code, report = self.run(*self.check, "tests")
            if not code:
                self.stamp.write_text(state)
                return
            summary, command = report.rstrip().splitlines()[-2:]
            if is_last:
                sys.exit(f"setup: {summary} {command.strip()}")
            print(f"  {summary}\n{command}", flush=True)
            self.run("sh", "-c", command)  # such as OpenCV without system libraries

    def check_folders(self):
        is_venv = (self.venv / "pyvenv.cfg").exists()
        if not is_venv and self.venv.exists() and any(self.venv.iterdir()):
            sys.exit(
                f"setup: {self.venv} exists and is no virtual environment: move it "
                "away, or choose another folder, as in VENV=.venv2 make setup"
            )
        folder = next(f for f in (self.venv, *self.venv.parents) if f.exists())
        needed = self.min_free_gib / (4 if any(self.venv.glob("lib/*/*/torch")) else 1)
        for place in (folder, tempfile.gettempdir()):
            free = shutil.disk_usage(place).free / 2**30
            if free < needed:
                sys.exit(
                    f"setup: too little disk: {free:.1f} GiB free at {place}, "
                    f"{needed:.1f} GiB needed: free some, or set VENV (environment) or "
                    "TMPDIR (downloads) to a folder on another disk"
                )

    def compile_operators(self):
        """Compile mmcv's own operators into the environment and try them."""
        print("setup: compiling onedl-mmcv, about 25 core minutes", flush=True)
        self.pip("setuptools", "wheel", "ninja", "psutil")
        # A cached wheel may have been built without the operators.
        options = "-v --no-cache-dir --no-build-isolation --force-reinstall --no-deps"
        options += " --no-binary onedl-mmcv onedl-mmcv"
        self.pip(*options.split(), MMCV_WITH_OPS="1")
        code, report = self.run(*self.check, "detection")
        operators = re.search(r"^operators.*", report, re.MULTILINE).group()
        if code or "compiled" not in operators:
            sys.exit(f"setup: mmcv was built, but: {operators} (log: {self.log})")
        print(operators)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", required=True, help="folder of the environment")
    parser.add_argument("--constraints", required=True, help="file of pinned versions")
    parser.add_argument("--extras", required=True, help="extras of setup.py, by commas")
    parser.add_argument("--min-free-gib", type=float, default=10, help="disk it needs")
    parser.add_argument("--operators", action="store_true", help="compile mmcv's, too")
    arguments = parser.parse_args()
    setup = Setup(arguments)
    try:
        setup.set_up()
        if arguments.operators:
            setup.compile_operators()
    except KeyboardInterrupt:
        sys.exit("\nsetup: interrupted; the same command goes on where it stopped")


if __name__ == "__main__":
    main()
