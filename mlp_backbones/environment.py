"""What is installed here, what each task lacks, and the one command that mends it.

This module runs where nothing works yet: it imports the standard library only, tells
the two OpenMMLab stacks apart by the names of their distributions (they share their
import names), and tries imports in another process, so that a crash is reported.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

SUPPORTED_PYTHON = ((3, 10), (3, 13))
# Import name -> distributions that bring it along, of the main stack ("onedl-...") and
# of the upstream one.
DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "mmengine": ("onedl-mmengine", "mmengine", "mmengine-lite"),
    "mmcv": ("onedl-mmcv", "mmcv-lite", "mmcv", "mmcv-full"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
    "mmpretrain": ("onedl-mmpretrain", "mmpretrain"),
}
STACKED = tuple(DISTRIBUTIONS)
DISTRIBUTIONS["cv2"] = ("opencv-python", "opencv-python-headless")
DISTRIBUTIONS["sklearn"] = ("scikit-learn",)
DISTRIBUTIONS["xdist"] = ("pytest-xdist",)
# These extras of setup.py serve tasks; the others come with the extra of a stack.
EXTRAS = {
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "test": ("pytest", "xdist"),
}
_CORE = ("torch", "numpy", "safetensors", "mmengine")
_VISION = (*_CORE, "torchvision", "cv2", "mmcv")
_DETECTION = (*_VISION, "operators", "mmdet", "pycocotools")
TASKS = {
    "backbones": _CORE,
    "classification": (*_VISION, "mmpretrain"),
    "detection": _DETECTION,
    "segmentation": (*_VISION, "operators", "mmseg"),
    "onnx": (*_CORE, *EXTRAS["onnx"]),
    "demo": (*_DETECTION, "sklearn", "matplotlib"),
}
TASKS["tests"] = (*dict.fromkeys(sum(TASKS.values(), ())), *EXTRAS["test"])
# In this order, since each needs those before; the last three stand side by side.
_PROBED = ("torch", "torchvision", "cv2", "mmengine", "mmcv", "operators", *STACKED[2:])
_PROBE_SOURCE = r"""
import importlib, json, sys, warnings
from importlib.machinery import PathFinder
warnings.simplefilter("ignore")
sys.path.append(sys.argv[1])

def try_operators():
    import mmcv
    compiled = PathFinder.find_spec("mmcv._ext", list(mmcv.__path__))
    import mlp_backbones, torch
    from mmcv.ops import nms, roi_align
    # On the ramp f(y, x) = x the mean over a box is the x of its centre.
    ramp = torch.arange(8.).expand(1, 1, 8, 8).contiguous()
    box = torch.tensor([[0., 1., 1., 5., 5.]])
    mean = float(roi_align(ramp, box, (1, 1), 1.0, 2, "avg", True))
    assert abs(mean - 2.5) < 1e-5, f"RoIAlign gave {mean} instead of 2.5"
    boxes = torch.tensor([[0., 0., 9., 9.], [1., 1., 9., 9.], [20., 20., 30., 30.]])
    kept = nms(boxes, torch.tensor([.9, .8, .7]), 0.5)[1].tolist()
    assert kept == [0, 2], f"NMS kept {kept} instead of [0, 2]"
    return "mmcv's own, compiled" if compiled else "torchvision's (mmcv has none)"

def try_import(name):
    if name in ("mmdet", "mmseg", "mmpretrain"):
        import mlp_backbones
        name += ".models"
    module = importlib.import_module(name)
    if name == "torch":
        cuda = module.version.cuda
        return f"for CUDA {cuda}" if cuda else "for CPUs only"

for name in sys.argv[2:]:
    print("\nprobe", json.dumps([name, False, "the process ended"]), flush=True)
    try:
        note = try_operators() if name == "operators" else try_import(name)
        answer = [name, True, note or ""]
    except BaseException as error:
        line = (str(error).strip() or "no message").splitlines()[0]
        answer = [name, False, f"{type(error).__name__}: {line}"]
    print("\nprobe", json.dumps(answer), flush=True)
"""


@dataclass(frozen=True)
class Problem:
    """Something that is installed and keeps tasks from working.

    Attributes:
        need: What is touched, one of the needs in ``TASKS`` or ``python``.
        summary: What is wrong, in one line.
        command: The one command that mends it.
    """

    need: str
    summary: str
    command: str


def parse_release(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: "2.12.1+cpu" -> (2, 12, 1)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def run_probes(
    names: Iterable[str], timeout: float = 300
) -> dict[str, tuple[bool, str]]:
    """Try imports in another process of this Python.

    Args:
        names: What to try, in this order.
        timeout: Seconds after which the process counts as hanging.

    Returns:
        Whether each works, and what it said. After one that ended the process (a
        segmentation fault), the rest runs in a fresh one.
    """
    outcomes: dict[str, tuple[bool, str]] = {}
    root = str(Path(__file__).resolve().parents[1])
    while remaining := [name for name in names if name not in outcomes]:
        command = [sys.executable, "-c", _PROBE_SOURCE, root, *remaining]
        outcomes[remaining[0]] = (False, "the process did not start")
        try:
            done = subprocess.run(command, capture_output=True, timeout=timeout)
            output, end = done.stdout, f"exit code {done.returncode}"
        except subprocess.TimeoutExpired as error:
            output, end = error.stdout or b"", f"no answer within {timeout:g} s"
        for line in output.decode(errors="replace").splitlines():
            if line.startswith("probe "):
                name, passed, note = json.loads(line[6:])
                note = f"{note}, {end}" if note == "the process ended" else note
                outcomes[name] = (passed, note)
    return outcomes


class Environment:
    """What this Python holds and what of it is broken.

    Attributes:
        stack: ``main`` or ``upstream``.
        problems: What is there and broken.
        notes: What trying a package told, by its import name.
    """

    def __init__(self) -> None:
        self.distributions: dict[str, metadata.Distribution] = {}
        for found in metadata.distributions():
            name = found.metadata["Name"]  # a half-removed package can lack it
            if name:
                name = re.sub(r"[-_.]+", "-", name).lower()
                self.distributions.setdefault(name, found)
        stacked = [name for part in STACKED for name in self.installed(part)]
        main = [name for name in stacked if name.startswith("onedl-")]
        self.stack = "main" if main or not stacked else "upstream"
        self.notes: dict[str, str] = {}
        self.problems: list[Problem] = []
        self._find_wrong_python()
        self._find_mixture(main, [name for name in stacked if name not in main])
        self._find_half_installed()
        self._find_wrong_versions()
        if not self.problems:
            self._find_broken()

    def installed(self, need: str) -> list[str]:
        """Return the distributions here that bring an import name along."""
        names = DISTRIBUTIONS.get(need, (need,))
        return [name for name in names if name in self.distributions]

    def label(self, *names: str) -> str:
        """Return distributions with their versions."""
        return " and ".join(f"{n} {self.distributions[n].version}" for n in names)

    def missing(self, task: str) -> list[str]:
        """Return what no distribution here brings along for a task."""
        found = {problem.need for problem in self.problems} | {"operators"}
        return [n for n in TASKS[task] if n not in found and not self.installed(n)]

    def pip(self, *arguments: str, verb: str = "install") -> str:
        """Return a pip command for this Python, with a checkout's pinned versions."""
        words = [sys.executable, "-m", "pip", verb]
        name = {"main": "", "upstream": "-upstream"}[self.stack]
        file = Path(__file__).resolve().parents[1] / f"constraints{name}.txt"
        words += ["-c", str(file)] if verb == "install" and file.is_file() else []
        return " ".join(shlex.quote(word) for word in (*words, *arguments))

    def install_command(self, *needs: str) -> str:
        """Return the command that installs the stack and the extras of ``needs``."""
        extras = ["onedl" if self.stack == "main" else "upstream"]
        extras += [name for name, parts in EXTRAS.items() if set(parts) & set(needs)]
        root = Path(__file__).resolve().parents[1]
        target = ["-e", str(root)] if (root / "setup.py").is_file() else [__package__]
        return self.pip(*target[:-1], f"{target[-1]}[{','.join(extras)}]")

    def _add(
        self, need: str, summary: str, *reinstalled: str, command: str = ""
    ) -> None:
        options = ("--force-reinstall", "--no-deps")
        command = command or self.pip(*options, *reinstalled)
        self.problems.append(Problem(need, summary, command))

    def _find_wrong_python(self) -> None:
        lowest, highest = SUPPORTED_PYTHON
        if not lowest <= sys.version_info[:2] <= highest:
            summary = "Python {}.{} is not supported".format(*sys.version_info)
            summary += f", 3.{lowest[1]} to 3.{highest[1]} are"
            self._add("python", summary, command="PYTHON=python3.11 make setup")

    def _find_mixture(self, main: list[str], upstream: list[str]) -> None:
        """Find distributions that own the same files: whichever came last is in use."""
        rivals = [self.installed(part) for part in STACKED]
        rivals = [names for names in rivals if len(names) > 1]
        if main and upstream:
            summary = "both OpenMMLab stacks are installed and own the same files: "
            summary += f"{', '.join(main)} and {', '.join(upstream)}"
        elif rivals:
            summary = f"{' and '.join(rivals[0])} own the same files"
        else:
            return
        # Removing one takes files of the other along, hence all of them go.
        removal = self.pip("-y", *main, *upstream, verb="uninstall")
        command = f"{removal} && {self.install_command()}"
        self._add("mmengine", summary, command=command)

    def _find_half_installed(self) -> None:
        """Find metadata whose files are gone, and files without metadata."""
        for need in TASKS["tests"]:
            spec = None if need == "operators" else find_spec(need)
            is_there = spec is not None and spec.origin is not None
            names = self.installed(need)
            if is_there and not names:
                summary = (
                    f"{need} has files but no metadata, its installation broke off"
                )
                self._add(need, summary, command=self.install_command(need))
            for name in names:
                files = self.distributions[name].files or ()
                modules = [file for file in files if file.suffix in (".py", ".so")]
                gone = [f for f in modules if not Path(str(f.locate())).is_file()]
                if gone or not is_there:
                    lacks = f"lacks {gone[0] if gone else 'its files'}"
                    self._add(need, f"{self.label(name)} {lacks}", name)

    def _find_wrong_versions(self) -> None:
        def release(name: str) -> tuple[int, ...]:
            return parse_release(self.distributions[name].version)

        for name in self.installed("mmcv"):
            if release(name) < (2,):
                removal = self.pip("-y", name, verb="uninstall")
                command = f"{removal} && {self.install_command()}"
                self._add(
                    "mmcv", f"{self.label(name)} is older than 2.0", command=command
                )
        pair = ("torch", "torchvision")
        if all(self.installed(name) for name in pair) and release("torch")[0] == 2:
            wanted = (0, release("torch")[1] + 15)  # since torch 2.0
            if release("torchvision")[:2] != wanted:
                summary = (
                    f"{self.label(*pair)} do not fit, torchvision 0.{wanted[1]} does"
                )
                self._add("torchvision", summary, *pair)

    def _find_broken(self) -> None:
        installed = {n: self.installed(n) for n in _PROBED if self.installed(n)}
        names = [n for n in _PROBED if n in installed or n == "operators"]
        if "mmcv" not in installed:
            names.remove("operators")
        installed["operators"] = installed.get("mmcv", [])
        for need, (passed, note) in run_probes(names).items():
            self.notes[need] = note if passed else "broken"
            if passed:
                continue
            names = installed[need][:1]
            if need == "torchvision":
                names = ["torch", *names]
            summary = f"{self.label(*names)}: {need} does not work ({note})"
            # Both of OpenCV own one folder; the headless one needs no system library.
            names = ["opencv-python-headless"] if need == "cv2" else names
            self._add(need, summary, *names)
            if need not in STACKED[2:]:
                return  # what follows fails for the same reason


def format_report(environment: Environment, task: str | None = None) -> str:
    """Return the whole report as plain text.

    Args:
        environment: What is installed.
        task: The task to judge; by default every task is, one line each.
    """
    lines = ["{:<12}{}.{}.{}".format("Python", *sys.version_info)]
    for need in _PROBED:
        text = environment.label(*environment.installed(need))
        note = environment.notes.get(need, "" if text else "missing")
        lines.append(f"{need:<12}{text}{' ' if text and note else ''}{note}")
    lines.append("")
    missing: list[str] = []
    broken = [problem.need for problem in environment.problems]
    for name in TASKS if task is None else (task,):
        lacking = environment.missing(name)
        missing += lacking
        lacking += [need for need in broken if need in (*TASKS[name], "python")]
        lines.append(f"{name}: {'lacks ' + ', '.join(lacking) if lacking else 'ready'}")
    for problem in environment.problems:
        lines += ["", f"{problem.summary}. To mend it:", f"  {problem.command}"]
    if missing:
        command = environment.install_command(*missing)
        lines += ["", "To install what is missing:", f"  {command}"]
    return "\n".join(lines)
