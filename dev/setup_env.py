"""Set up a virtual environment for this checkout; what is done is not repeated.

The Makefile calls it, for either stack. It uses the standard library only, and every
failure ends in one line that says what to do.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECK = ROOT / "tools" / "misc" / "check_env.py"
# What pip printed -> what to do about it; the first that is found counts.
FAILURES = {
    r"no space left on device|errno 28": "the disk is full: free some space and go on "
    "with the same command",
    r"certificate.?verify.?failed": "the package index has a certificate that is not "
    "trusted: point PIP_CERT at the certificate file of your network",
    r"killed signal|signal: killed": "the compiler ran out of memory: run "
    "MAX_JOBS=1 make operators",
    r"detected cuda version": "the CUDA toolkit here does not fit torch: install the "
    "fitting one, or run CUDA_VISIBLE_DEVICES= make operators for the CPU only",
    r"establish a new connection|connection refused|connection broken by|timed out|"
    r"name resolution|not known|network is unreachable|max retries|proxyerror": "no "
    "network: the package index cannot be reached; check the connection (PIP_INDEX_URL, "
    "HTTPS_PROXY) and go on with the same command",
    r"no matching distribution found for (\S+)": "the package index has no {} for this "
    "Python and system: check PIP_INDEX_URL, PIP_FIND_LINKS and PIP_NO_INDEX",
}


class SetupError(Exception):
    """A failure whose message is the one line that the user gets."""


def describe_failure(output):
    """Return the one line that says what to do about a failure of pip."""
    for pattern, advice in FAILURES.items():
        found = re.search(pattern, output, re.IGNORECASE)
        if found:
            return advice.format(*found.groups())
    errors = re.findall(r"^\s*((?:fatal )?error[: ].*)", output, re.I | re.M)
    return errors[-1].strip() if errors else "pip failed"


class Progress:
    """What a user sees of a running pip: long steps, megabytes, compiled files."""

    def __init__(self):
        self.start = self.shown = time.monotonic()
        self.megabytes = 0

    def see(self, line):
        """Take note of one line of pip's output and show what is worth it."""
        progress = re.match(r"Progress (\d+) of (\d+)", line)
        compiled = re.match(r"\s*\[(\d+/\d+)\]", line)
        if progress:
            done, size = (int(number) / 1e6 for number in progress.groups())
            self.megabytes += size if done == size else 0
            self.show(f"downloading {done:.0f} of {size:.0f} MB", seldom=True)
        elif compiled:
            self.show(f"compiled {compiled.group(1)} files", seldom=True)
        elif line.lstrip().startswith(("Downloading", "Processing")):
            self.show(" ".join(line.replace(f"{ROOT}", ".").split()[:4]), seldom=True)
        elif line.startswith("Installing collected packages"):
            self.show(f"installing {line.count(',') + 1} packages (about a minute)")

    def show(self, text, seldom=False):
        """Show a text, the seldom ones at most every two seconds."""
        now = time.monotonic()
        if not seldom or now - self.shown > 2:
            self.shown = now
            print(f"  {now - self.start:4.0f} s  {text}", flush=True)


class Setup:
    """The set-up of one virtual environment.

    Args:
        arguments: What the command line says.
    """

    def __init__(self, arguments):
        self.venv = Path(os.path.abspath(arguments.venv))
        self.python = self.venv / "bin" / "python"
        self.constraints = ROOT / arguments.constraints
        self.target = f"{ROOT}[{arguments.extras}]"
        self.min_free_gib = arguments.min_free_gib
        self.log = self.venv / "setup.log"
        self.stamp = self.venv / ".set-up"

    def run(self, *command, progress=None, **variables):
        """Run a command; return its exit code and output, which the log takes too."""
        environment = {**os.environ, "PIP_USER": "0", **variables}
        for name in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX"):
            environment.pop(name, None)
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        output = []
        with open(self.log, "a", encoding="utf-8") as log:
            for line in process.stdout:
                output.append(line)
                log.write(line)
                if progress:
                    progress.see(line)
        return process.wait(), "".join(output)

    def pip(self, *arguments, **variables):
        """Install by pip under the pinned versions, and show how that gets on."""
        pip = [self.python, "-m", "pip", "install", "--disable-pip-version-check"]
        command = [*pip, "-c", self.constraints, *arguments]
        code, output = self.run(*command, progress=Progress(), **variables)
        if code:
            raise SetupError(f"{describe_failure(output)} (log: {self.log})")

    def set_up(self):
        """Bring the environment up to date, unless it was set up from the same files.

        Raises:
            SetupError: it cannot be; the message says what to do.
        """
        version = "%d.%d" % sys.version_info[:2]
        content = f"{version} {self.target}\n{Path(__file__).read_text()}"
        content += self.constraints.read_text() + (ROOT / "setup.py").read_text()
        state = hashlib.sha256(content.encode()).hexdigest()
        if self.stamp.is_file() and self.stamp.read_text() == state:
            return
        self.check_folders()
        print(f"set-up in {self.venv} with Python {version}, once", flush=True)
        if not self.runs(version):
            base = getattr(sys, "_base_executable", None) or sys.executable
            make = [base, "-m", "venv", "--clear", self.venv]
            done = subprocess.run(make, capture_output=True, text=True)
            if done.returncode:
                raise SetupError(
                    f"{base} makes no virtual environment: "
                    f"{(done.stdout + done.stderr).strip().splitlines()[-1]} (on Debian "
                    f"and Ubuntu it wants: apt install python{version}-venv)"
                )
        self.stamp.unlink(missing_ok=True)
        self.log.unlink(missing_ok=True)
        # Small, so a missing network shows at once; for the options used below.
        self.pip("--retries", "1", "--timeout", "20", "pip>=25.3")
        build = ("--build-constraint", self.constraints, "--progress-bar", "raw")
        self.pip(*build, "-e", self.target)
        self.mend()
        self.stamp.write_text(state)

    def check_folders(self):
        """Refuse a folder of somebody else's, and a disk that is too full."""
        is_venv = (self.venv / "pyvenv.cfg").exists()
        if self.venv.exists() and not is_venv and any(self.venv.iterdir()):
            raise SetupError(
                f"{self.venv} exists and is no virtual environment: move it away, or "
                "choose another folder, as in VENV=.venv2 make setup"
            )
        folder = next(f for f in (self.venv, *self.venv.parents) if f.exists())
        needs = {
            folder: self.min_free_gib,
            tempfile.gettempdir(): self.min_free_gib / 3,
        }
        if is_venv and any(self.venv.glob("lib/*/site-packages/torch")):
            needs = {folder: self.min_free_gib / 4}  # the most of it is there
        for place, needed in needs.items():
            free = shutil.disk_usage(place).free / 2**30
            if free < needed:
                raise SetupError(
                    f"too little disk: {free:.1f} GiB free at {place}, {needed:g} GiB "
                    "needed: free some, or set VENV (the environment) or TMPDIR (the "
                    "downloads) to a folder on another disk"
                )

    def runs(self, version):
        """Return whether the environment is of this Python, and its pip starts."""
        code = (
            f"import pip, sys; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
        )
        try:
            return not subprocess.run([self.python, "-c", code]).returncode
        except OSError:
            return False

    def mend(self):
        """Try what was installed; what is broken is mended as the check says, once."""
        for last in (False, True):
            code, report = self.run(self.python, CHECK, "--task", "tests")
            if not code:
                return
            summary, command = report.rstrip().splitlines()[-2:]
            if last:
                raise SetupError(f"{summary} {command.strip()}")
            print(f"  {summary}\n{command}", flush=True)
            self.run("sh", "-c", command)

    def compile_operators(self):
        """Compile mmcv's own operators into the environment and try them.

        Raises:
            SetupError: they do not compile or do not work.
        """
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**31
        jobs = os.environ.get("MAX_JOBS", str(max(1, min(os.cpu_count() or 1, memory))))
        variables = {"MMCV_WITH_OPS": "1", "MAX_JOBS": jobs}
        toolkit = os.environ.get("CUDA_HOME", "/usr/local/cuda")
        if not shutil.which("nvcc") and not Path(toolkit).exists():
            variables["CUDA_VISIBLE_DEVICES"] = ""  # torch with a GPU asks for nvcc
        print(
            f"compiling onedl-mmcv with {jobs} jobs, about 25 core minutes", flush=True
        )
        self.pip("setuptools", "wheel", "ninja", "psutil")
        # A cached wheel may have been built without the operators.
        options = ("--no-cache-dir", "--no-build-isolation", "--force-reinstall")
        options += ("--no-deps", "--no-binary", "onedl-mmcv")
        self.pip("-v", *options, "onedl-mmcv", **variables)
        code, report = self.run(self.python, CHECK, "--task", "detection")
        operators = re.search(r"^operators +(.*)", report, re.M).group(1)
        if code or "compiled" not in operators:
            raise SetupError(f"mmcv was built, but: operators {operators} ({self.log})")
        print(f"operators: {operators}")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", required=True, help="folder of the environment")
    parser.add_argument("--constraints", required=True, help="file of pinned versions")
    parser.add_argument("--extras", required=True, help="extras of setup.py, by commas")
    parser.add_argument("--min-free-gib", type=float, default=10, help="disk it needs")
    parser.add_argument("--operators", action="store_true", help="compile mmcv's, too")
    return parser.parse_args()


def main():
    arguments = parse_args()
    setup = Setup(arguments)
    try:
        setup.set_up()
        if arguments.operators:
            setup.compile_operators()
    except SetupError as error:
        return f"setup: {error}"
    except KeyboardInterrupt:
        return "\nsetup: interrupted; the same command goes on where it stopped"


if __name__ == "__main__":
    sys.exit(main())
