"""Set up the virtual environment of this checkout, one step a call.

The Makefile calls the steps in order and keeps a stamp for each that is done. Only the
standard library is used. Every error ends in one line that says what to do.
"""

import argparse
import os
import queue
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path

if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit(
        "setup: Python %d.%d is not supported: run PYTHON=python3.11 make setup "
        "(3.10 and 3.12 will do too)" % sys.version_info[:2]
    )
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mlp_backbones import environment as env  # noqa: E402

MMCV = f"onedl-mmcv=={env.MAIN_STACK['mmcv']['onedl-mmcv']}"
BUILD_TOOLS = ["setuptools", "wheel", "packaging", "ninja", "psutil"]
EXTRAS = "onedl,demo,onnx,test,dev"
STEPS = ("check", "venv", "torch", "mmcv", "project")
# Seconds between two lines of progress where the output is not a terminal.
HEARTBEAT = 20

NETWORK_SIGNS = (
    "newconnectionerror",
    "failed to establish a new connection",
    "connection refused",
    "connection broken by",
    "name or service not known",
    "temporary failure in name resolution",
    "network is unreachable",
    "connecttimeout",
    "read timed out",
    "max retries exceeded",
    "proxyerror",
)


class SetupError(Exception):
    """A failure whose message is the one line that the user gets."""


def announce(number, text):
    print(f"[{number}/{len(STEPS)}] {text}", flush=True)


def describe_failure(output):
    """Turn what pip printed into the one line that says what to do.

    Args:
        output: everything the failed command printed.
    """
    lowered = output.lower()
    if "no space left on device" in lowered or "errno 28" in lowered:
        return "the disk is full: free some space and run the same command again"
    if "certificate_verify_failed" in lowered or "certificate verify failed" in lowered:
        return (
            "the package index has a certificate that is not trusted: point PIP_CERT "
            "at the certificate file of your network"
        )
    if "killed signal terminated" in lowered or "signal: killed" in lowered:
        return (
            "the compiler ran out of memory: run MAX_JOBS=1 make setup on a machine "
            "with at least 2 GiB free"
        )
    if "the detected cuda version" in lowered:
        return (
            "the CUDA toolkit found here does not fit this torch: install the fitting "
            "one, or run CUDA_VISIBLE_DEVICES= make setup for operators on the CPU only"
        )
    if "ninja: build stopped" in lowered or "failed building wheel" in lowered:
        return "a package did not compile: the first error in the log says why"
    if any(sign in lowered for sign in NETWORK_SIGNS):
        return (
            "no network: the package index cannot be reached; check the connection "
            "(PIP_INDEX_URL, HTTPS_PROXY) and run the same command again"
        )
    missing = re.search(r"no matching distribution found for (\S+)", lowered)
    if missing:
        return (
            f"the package index in use has no {missing.group(1)} for this Python and "
            "system: check PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS and "
            "PIP_NO_INDEX"
        )
    errors = [
        line.strip()
        for line in output.splitlines()
        if re.match(r"\s*(error|fatal error)[: ]", line, re.IGNORECASE)
    ]
    return errors[-1] if errors else "the command failed"


def find_compiler():
    """Return the C++ compiler that torch's build would call, None without one."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(shlex.split(name)[0]):
            return name
    return None


def count_build_jobs():
    """Return how many files to compile at once: one a core, 2 GiB of memory each."""
    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return cores
    return max(1, min(cores, memory // 2**31))


class Setup:
    """The steps of the set-up of one virtual environment.

    Args:
        venv: folder of the virtual environment.
        min_free_gib: disk space that the whole set-up needs, in GiB.
    """

    def __init__(self, venv, min_free_gib):
        self.venv = venv
        self.min_free_gib = min_free_gib
        folder = "Scripts" if os.name == "nt" else "bin"
        self.python = venv / folder / "python"

    # -- running commands -------------------------------------------------------

    def run(self, command, log, environment=None):
        """Run a command, show how it gets on and return what it printed.

        The whole output goes to a log file in the virtual environment.

        Raises:
            subprocess.CalledProcessError: the command failed; carries its output.
        """
        variables = {
            **os.environ,
            "PIP_USER": "0",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        for name in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX"):
            variables.pop(name, None)
        variables.update(environment or {})
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        lines = queue.Queue()

        def read():
            for line in process.stdout:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        output = []
        progress = Progress()
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(log, "w", encoding="utf-8") as file:
                while True:
                    try:
                        line = lines.get(timeout=1)
                    except queue.Empty:
                        progress.tick()
                        continue
                    if line is None:
                        break
                    file.write(line)
                    output.append(line)
                    progress.see(line)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            progress.close()
        text = "".join(output)
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, command, text)
        return text

    def pip(self, name, *arguments, environment=None):
        """Run pip in the virtual environment under the pinned versions.

        Raises:
            SetupError: pip failed; the message says what to do and where the log is.
        """
        log = self.log(name)
        try:
            return self.run(self.pip_command(*arguments), log, environment)
        except subprocess.CalledProcessError as error:
            raise SetupError(
                f"{describe_failure(error.output)} (log: {log})"
            ) from error

    def pip_command(self, *arguments):
        return [
            self.python,
            *("-m", "pip", "install", "--progress-bar", "off"),
            *("-c", ROOT / "constraints.txt"),
            *arguments,
        ]

    def log(self, name):
        return self.venv / ".logs" / f"{name}.log"

    # -- what is there -----------------------------------------------------------

    def packages(self):
        """Return the versions installed in the virtual environment, by name."""
        folders = [
            str(folder)
            for folder in (
                *self.venv.glob("lib/python*/site-packages"),
                *self.venv.glob("Lib/site-packages"),
            )
        ]
        return env.read_packages(folders)

    def probe(self, *names):
        return env.run_probes(names, str(self.python))

    def has_mmcv_wheel(self):
        """Return whether a ready-built mmcv for this Python is on offer."""
        arguments = self.mmcv_arguments("--only-binary", "onedl-mmcv")
        try:
            self.run(
                self.pip_command("--dry-run", "--no-deps", *arguments),
                self.log("mmcv-wheel"),
            )
        except subprocess.CalledProcessError as error:
            # Offline is not the same as "there is none", which costs a long build.
            if any(sign in error.output.lower() for sign in NETWORK_SIGNS):
                raise SetupError(describe_failure(error.output)) from error
            return False
        return True

    def mmcv_arguments(self, *selection):
        # A cached wheel may have been built without the operators.
        return ["--no-cache-dir", *selection, MMCV]

    # -- the steps ---------------------------------------------------------------

    def check(self):
        announce(1, "checking this machine")
        version = ".".join(str(part) for part in sys.version_info[:3])
        try:
            import ensurepip  # noqa: F401
            import venv  # noqa: F401
        except ImportError:
            raise SetupError(
                f"Python {version} comes without venv: install it (on Debian and "
                f"Ubuntu: apt install python3.{sys.version_info[1]}-venv)"
            ) from None
        is_venv = (self.venv / "pyvenv.cfg").exists()
        is_free = not self.venv.exists() or (
            self.venv.is_dir() and not any(self.venv.iterdir())
        )
        if not is_venv and not is_free:
            raise SetupError(
                f"{self.venv} exists and is no virtual environment: move it away "
                "or choose another folder, as in VENV=.venv2 make setup"
            )
        free = self.check_disk()
        print(f"      Python {version} ({sys.executable}), {free:.0f} GiB of disk free")

    def check_disk(self):
        folder = self.venv
        while not folder.exists():
            folder = folder.parent
        needed = self.min_free_gib
        if "torch" in self.packages():  # the most of it is there already
            needed /= 4
        free = shutil.disk_usage(folder).free / 2**30
        if free < needed:
            raise SetupError(
                f"too little disk: {free:.1f} GiB free at {folder}, {needed:g} GiB "
                "needed (most of it for torch with its CUDA libraries): free some, "
                "choose a folder elsewhere (VENV=/other/disk/venv make setup), or take "
                "a CPU-only torch (see the README) with MIN_FREE_GIB=5"
            )
        downloads = Path(tempfile.gettempdir())
        free_for_downloads = shutil.disk_usage(downloads).free / 2**30
        if free_for_downloads < needed / 4:
            raise SetupError(
                f"too little disk: {free_for_downloads:.1f} GiB free at {downloads}, "
                f"{needed / 4:g} GiB needed for downloads: free some or set TMPDIR to "
                "a folder elsewhere"
            )
        return free

    def make_venv(self):
        announce(2, f"virtual environment in {self.venv} (about 20 s)")
        recorded = self.recorded_version()
        if recorded not in (None, sys.version_info[:2]):
            print("      made with Python %d.%d before, made anew" % recorded)
        if recorded != sys.version_info[:2] or not self.runs():
            # The base: this Python may be the one of the folder that is cleared.
            base = getattr(sys, "_base_executable", None) or sys.executable
            process = subprocess.run(
                [base, "-m", "venv", "--clear", self.venv],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if process.returncode:
                lines = process.stdout.strip().splitlines() or ["no reason given"]
                raise SetupError(f"the virtual environment cannot be made: {lines[-1]}")
        # Small files, so this also shows within seconds whether there is a network.
        patience = ("--retries", "1", "--timeout", "20")
        pip_version = env.parse_release(self.packages().get("pip", "0"))
        tools = [*BUILD_TOOLS, *(["pip"] if pip_version < (23,) else [])]
        self.pip("tools", "--upgrade", *patience, *tools)
        if not self.has_working_mmcv() and not self.has_mmcv_wheel():
            self.check_compiler()
            print("      onedl-mmcv comes as source here: step 4 will take a while")

    def recorded_version(self):
        """Return the Python version that the virtual environment was made with."""
        try:
            configuration = (self.venv / "pyvenv.cfg").read_text()
        except OSError:
            return None
        found = re.search(r"^version\S* *= *(\d+)\.(\d+)", configuration, re.MULTILINE)
        return (int(found.group(1)), int(found.group(2))) if found else None

    def runs(self):
        """Return whether the Python of the virtual environment starts and has pip."""
        try:
            process = subprocess.run(
                [self.python, "-m", "pip", "--version"], capture_output=True
            )
        except OSError:
            return False
        return process.returncode == 0

    def has_working_mmcv(self):
        installed = self.packages().get("onedl-mmcv")
        return f"onedl-mmcv=={installed}" == MMCV and self.ops_problem() is None

    def check_compiler(self):
        """Fail early where mmcv must be compiled and cannot be."""
        if find_compiler() is None:
            raise SetupError(
                "no compiler: onedl-mmcv comes as source for this Python and needs a "
                "C++ compiler (on Debian and Ubuntu: apt install g++), or a "
                "ready-built wheel in a folder named by PIP_FIND_LINKS"
            )
        header = Path(sysconfig.get_path("include")) / "Python.h"
        if not header.exists():
            raise SetupError(
                f"no Python headers: {header} is needed to compile onedl-mmcv (on "
                f"Debian and Ubuntu: apt install python3.{sys.version_info[1]}-dev)"
            )

    def install_torch(self):
        announce(3, "torch and torchvision (2 to 10 minutes, about 3 GB to download)")
        self.pip("torch", "torch", "torchvision", "numpy")
        packages = self.packages()
        release = env.parse_release(packages["torch"])
        if release >= env.FIRST_TORCH_REFUSED_BY_MMCV:
            raise SetupError(
                f"torch {packages['torch']} cannot build onedl-mmcv: torch below 2.15 "
                "is needed (see constraints.txt)"
            )
        probes = self.probe("torch", "torchvision")
        torch, torchvision = probes["torch"], probes["torchvision"]
        pair = f"torch {packages['torch']} and torchvision {packages['torchvision']}"
        if not torch.passed:
            raise SetupError(f"torch does not work here: {torch.message}")
        if not torchvision.passed:
            raise SetupError(
                f"{pair} do not work together ({torchvision.message}): take both from "
                "one place (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS), run "
                "make clean-venv and start again"
            )
        print(f"      {pair} work ({torch.message})")

    def install_mmcv(self):
        minutes = 26 / count_build_jobs()
        announce(4, "onedl-mmcv with its compiled operators")
        conflicts = env.find_conflicts(self.packages())
        if conflicts:
            raise SetupError(
                f"{conflicts[0].summary}: run make clean-venv and start again"
            )
        if self.has_working_mmcv():
            print("      already there, its RoIAlign and NMS run")
            return
        self.uninstall_mmcv()
        if self.has_mmcv_wheel():
            print("      a ready-built wheel is on offer: seconds")
            selection = ["--only-binary", "onedl-mmcv"]
            self.pip("mmcv", *self.mmcv_arguments(*selection))
            self.repair_cv2()
            problem = self.ops_problem()
            if problem is None:
                print("      RoIAlign and NMS run")
                return
            print(f"      that wheel does not serve here ({problem})")
            self.uninstall_mmcv()
        self.check_compiler()
        print(
            f"      compiled from source: about {minutes:.0f} minutes on this machine"
        )
        self.pip(
            "mmcv",
            *("-v", "--no-build-isolation", "--no-binary", "onedl-mmcv"),
            *self.mmcv_arguments(),
            environment=self.build_variables(),
        )
        self.repair_cv2()
        problem = self.ops_problem()
        if problem is not None:
            raise SetupError(
                f"onedl-mmcv was built but its operators do not run ({problem}): "
                f"see {self.log('mmcv')}"
            )
        print("      RoIAlign and NMS run")

    def build_variables(self):
        variables = {"MMCV_WITH_OPS": "1"}
        if "MAX_JOBS" not in os.environ:
            variables["MAX_JOBS"] = str(count_build_jobs())
        # torch that sees a GPU makes mmcv ask for nvcc.
        has_toolkit = (
            "CUDA_HOME" in os.environ
            or shutil.which("nvcc")
            or Path("/usr/local/cuda").exists()
        )
        if not has_toolkit:
            variables["CUDA_VISIBLE_DEVICES"] = ""
        return variables

    def ops_problem(self):
        """Return why the compiled operators do not run, None where they do."""
        probe = self.probe("mmcv_ops")["mmcv_ops"]
        return None if probe.passed else probe.message

    def uninstall_mmcv(self):
        if "onedl-mmcv" in self.packages():
            command = [self.python, "-m", "pip", "uninstall", "-y", "onedl-mmcv"]
            self.run(command, self.log("mmcv-uninstall"))

    def repair_cv2(self):
        """Take OpenCV without windows where the other lacks system libraries."""
        if not self.probe("cv2")["cv2"].passed:
            self.pip(
                "opencv",
                *("--force-reinstall", "--no-deps", "opencv-python-headless"),
            )

    def install_project(self):
        announce(5, "mlp_backbones, OpenMMLab, test and lint tools (about 2 minutes)")
        self.pip("project", "--no-build-isolation", "-e", f"{ROOT}[{EXTRAS}]")
        self.repair_cv2()
        found = env.Environment(
            python=(sys.version_info[0], sys.version_info[1], sys.version_info[2]),
            packages=self.packages(),
            probes=self.probe(*env.PROBES),
            executable=shlex.quote(str(self.python)),
        )
        problems = env.find_problems(found, "tests")
        if problems:
            raise SetupError(
                f"{problems[0].summary}: run {problems[0].command} and then the same "
                "command again"
            )
        print("      everything is there and works")


class Progress:
    """Shows the last telling line of a running command and the time it has taken."""

    def __init__(self):
        self.start = time.monotonic()
        self.last_shown = self.start
        self.text = "starting"
        self.is_terminal = sys.stdout.isatty()

    def see(self, line):
        """Take note of one line of output."""
        line = line.strip()
        compiled = re.match(r"\[(\d+)/(\d+)\]", line)
        if compiled:
            self.text = f"compiled {compiled.group(1)} of {compiled.group(2)} files"
        elif re.match(r"(Collecting|Downloading|Building|Installing|Processing)", line):
            self.text = re.sub(r"^Processing .*/", "Processing ", line)
        self.tick()

    def tick(self):
        """Show the state when it is time to."""
        now = time.monotonic()
        if now - self.last_shown < (0.5 if self.is_terminal else HEARTBEAT):
            return
        self.last_shown = now
        seconds = int(now - self.start)
        text = f"      {seconds // 60}:{seconds % 60:02d} {self.text}"[:78]
        if self.is_terminal:
            print(f"\r{text:<78}", end="", flush=True)
        else:
            print(text, flush=True)

    def close(self):
        """Leave an empty line behind on a terminal."""
        if self.is_terminal and self.last_shown != self.start:
            print(f"\r{'':<78}\r", end="", flush=True)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="+", choices=STEPS, help="steps to carry out")
    parser.add_argument(
        "--venv", type=Path, default=ROOT / ".venv", help="the virtual environment"
    )
    parser.add_argument(
        "--min-free-gib",
        type=float,
        default=12,
        help="disk space that the whole set-up needs, in GiB",
    )
    return parser.parse_args()


def main():
    arguments = parse_args()
    setup = Setup(Path(os.path.abspath(arguments.venv)), arguments.min_free_gib)
    actions = {
        "check": setup.check,
        "venv": setup.make_venv,
        "torch": setup.install_torch,
        "mmcv": setup.install_mmcv,
        "project": setup.install_project,
    }
    try:
        for step in arguments.steps:
            actions[step]()
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\nsetup: interrupted; the same command goes on where it stopped",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
