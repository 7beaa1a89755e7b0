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
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Import name -> distributions of the main stack ("onedl-...") and of the upstream one.
STACKED: dict[str, tuple[str, ...]] = {
    "mmengine": ("onedl-mmengine", "mmengine", "mmengine-lite"),
    "mmcv": ("onedl-mmcv", "mmcv-lite", "mmcv", "mmcv-full"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
    "mmpretrain": ("onedl-mmpretrain", "mmpretrain"),
}
DISTRIBUTIONS = {**STACKED, "sklearn": ("scikit-learn",), "xdist": ("pytest-xdist",)}
DISTRIBUTIONS["PIL"] = ("pillow",)
DISTRIBUTIONS["cv2"] = ("opencv-python", "opencv-python-headless")
# Extras of setup.py beside those of the stacks.
EXTRAS = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "test": ("pytest", "xdist")}
_CORE = ("torch", "numpy", "safetensors", "mmengine")
_VISION = (*_CORE, "torchvision", "cv2", "mmcv", "msgspec", "PIL")
TASKS: dict[str, tuple[str, ...]] = {
    "backbones": _CORE,
    "classification": (*_VISION, "mmpretrain"),
    "detection": (*_VISION, "operators", "mmdet", "pycocotools"),
    "segmentation": (*_VISION, "operators", "mmseg"),
    "onnx": (*_CORE, *EXTRAS["onnx"]),
}
TASKS["demo"] = (*TASKS["detection"], "sklearn", "matplotlib")
TASKS["tests"] = (*dict.fromkeys(sum(TASKS.values(), ())), *EXTRAS["test"])
# Each needs those before it, but for the last three, which stand side by side.
_BASES = ("torch", "torchvision", "cv2", "mmengine", "mmcv", "operators")
_PROBED = (*_BASES, "mmdet", "mmseg", "mmpretrain")
_PROBE_SOURCE = r"""
import importlib, json, sys, warnings
from importlib.machinery import PathFinder
warnings.simplefilter("ignore")
sys.path.append(sys.argv[1])
BOXES = [[0., 0., 9., 9.], [1., 1., 9., 9.], [2., 9., 3., 10.]]

def probe(name):
    if name == "operators":
        import mmcv
        compiled = PathFinder.find_spec("mmcv._ext", list(mmcv.__path__))
        import mlp_backbones, torch
        from mmcv.ops import nms, roi_align
        # On the ramp f(y, x) = x the mean over a box is the x of its centre.
        ramp = torch.arange(8.).expand(1, 1, 8, 8).contiguous()
        box = torch.tensor([[0., 1., 1., 5., 5.]])
        mean = float(roi_align(ramp, box, (1, 1), 1.0, 2, "avg", True))
        assert abs(mean - 2.5) < 1e-5, f"RoIAlign gave {mean} instead of 2.5"
        kept = nms(torch.tensor(BOXES), torch.tensor([.9, .8, .7]), 0.5)[1].tolist()
        assert kept == [0, 2], f"NMS kept {kept} instead of [0, 2]"
        return "mmcv's own, compiled" if compiled else "torchvision's"
    if name in ("mmdet", "mmseg", "mmpretrain"):
        import mlp_backbones
        name += ".models"
    module = importlib.import_module(name)
    return f"(CUDA: {module.version.cuda})" if name == "torch" else ""

for name in sys.argv[2:]:
    print("\nprobe", json.dumps([name, False, "the process ended"]), flush=True)
    try:
        answer = [name, True, probe(name)]
    except BaseException as error:
        line = (str(error).strip() or "no message").splitlines()[0]
        answer = [name, False, f"{type(error).__name__}: {line}"]
    print("\nprobe", json.dumps(answer), flush=True)
"""


def run_probes(
    names: Sequence[str], timeout: float = 300
) -> dict[str, tuple[bool, str]]:
    """Return whether each import works in another process, and what it said.

    After one that ended the process (a segmentation fault), the rest runs in a new one.
    """
    outcomes: dict[str, tuple[bool, str]] = {}
    while remaining := [name for name in names if name not in outcomes]:
        command = [sys.executable, "-c", _PROBE_SOURCE, str(ROOT), *remaining]
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
    """What this Python holds and what of it is broken."""

    def __init__(self) -> None:
        self.distributions: dict[str, metadata.Distribution] = {}
        for found in metadata.distributions():
            name = found.metadata["Name"]  # a half-removed package can lack it
            name = re.sub(r"[-_.]+", "-", name or "").lower()
            self.distributions.setdefault(name, found)
        stacked = [name for need in STACKED for name in self.installed(need)]
        main = [name for name in stacked if name.startswith("onedl-")]
        self.stack = "main" if main or not stacked else "upstream"
        self.notes: dict[str, str] = {}
        # The need, what is wrong with it in one line, and the command that mends it.
        self.problems: list[tuple[str, str, str]] = []
        self._find_mixture(main, [name for name in stacked if name not in main])
        self._find_half_installed()
        self._find_wrong_versions()
        if not self.problems:
            self._find_broken()

    def installed(self, need: str) -> list[str]:
        """Return the distributions here that bring an import name along."""
        return [n for n in DISTRIBUTIONS.get(need, (need,)) if n in self.distributions]

    def missing(self, task: str) -> list[str]:
        """Return what no distribution here brings along for a task."""
        known = {"operators", *(need for need, _, _ in self.problems)}
        return [n for n in TASKS[task] if n not in known and not self.installed(n)]

    def label(self, *names: str) -> str:
        """Return distributions with their versions."""
        return " and ".join(f"{n} {self.distributions[n].version}" for n in names)

    def pip(self, *arguments: str) -> str:
        """Return a pip command for this Python, with a checkout's pinned versions."""
        file = ROOT / f"constraints{'' if self.stack == 'main' else '-upstream'}.txt"
        pins = ["-c", str(file)] if file.is_file() and arguments[0] == "install" else []
        return shlex.join([sys.executable, "-m", "pip", *arguments, *pins])

    def install_command(self, *needs: str, without: Sequence[str] = ()) -> str:
        """Return the command that installs the stack and the extras of ``needs``."""
        extras = ["onedl" if self.stack == "main" else "upstream"]
        extras += [name for name, parts in EXTRAS.items() if set(parts) & set(needs)]
        is_checkout = (ROOT / "setup.py").is_file()
        target = f"{ROOT if is_checkout else 'mlp_backbones'}[{','.join(extras)}]"
        command = self.pip("install", *["-e"] * is_checkout, target)
        removal = [self.pip("uninstall", "-y", *without)] if without else []
        return " && ".join([*removal, command])

    def _reinstall(self, *names: str) -> str:
        return self.pip("install", "--force-reinstall", "--no-deps", *names)

    def _find_mixture(self, main: list[str], upstream: list[str]) -> None:
        """Find distributions that own the same files: whichever came last is in use."""
        summary = "both OpenMMLab stacks are installed, which own the same files: "
        summary += f"{', '.join(main)} and {', '.join(upstream)}"
        for need in STACKED:
            if len(self.installed(need)) > 1 and not (main and upstream):
                summary = f"{' and '.join(self.installed(need))} own the same files"
                main = main or upstream
        if main and upstream:
            # Removing one takes files of the other along, hence all of them go.
            command = self.install_command(without=[*dict.fromkeys(main + upstream)])
            self.problems.append(("mmengine", summary, command))

    def _find_half_installed(self) -> None:
        """Find metadata whose files are gone, and files without metadata."""
        for need in TASKS["tests"]:
            spec = None if need == "operators" else find_spec(need)
            is_there = spec is not None and spec.origin is not None
            if is_there and not self.installed(need):
                summary = f"{need} has files but no metadata: half an installation"
                self.problems.append((need, summary, self.install_command(need)))
            for name in self.installed(need):
                files = self.distributions[name].files or ()
                own = (f for f in files if f.suffix in (".py", ".so"))
                gone = [str(f) for f in own if not Path(str(f.locate())).is_file()]
                if gone or not is_there:
                    summary = f"{self.label(name)} lacks {[*gone, 'its files'][0]}"
                    self.problems.append((need, summary, self._reinstall(name)))

    def _find_wrong_versions(self) -> None:
        for name in self.installed("mmcv"):
            if self.distributions[name].version.startswith(("0.", "1.")):
                summary = f"{self.label(name)} is older than 2.0"
                self.problems.append(
                    ("mmcv", summary, self.install_command(without=[name]))
                )
        pair = [*self.installed("torch"), *self.installed("torchvision")]
        versions = [self.distributions[name].version for name in pair]
        found = re.match(r"2\.(\d+).* 0\.(\d+)", " ".join(versions))
        # torch 2.N goes with torchvision 0.(N + 15)
        if found and int(found[2]) - int(found[1]) != 15:
            summary = f"{self.label(*pair)} do not fit each other"
            self.problems.append(("torchvision", summary, self._reinstall(*pair)))

    def _find_broken(self) -> None:
        owners = {need: self.installed(need)[:1] for need in _PROBED}
        owners["operators"] = owners["mmcv"]
        outcomes = run_probes([need for need in _PROBED if owners[need]])
        for need, (passed, note) in outcomes.items():
            self.notes[need] = note if passed else "broken"
            if passed:
                continue
            if need == "torchvision":
                owners[need] += ["torch"]
            summary = f"{self.label(*owners[need])}: {need} failed ({note})"
            # Both of OpenCV own one folder; the headless one needs no system library.
            names = ["opencv-python-headless"] if need == "cv2" else owners[need]
            self.problems.append((need, summary, self._reinstall(*names)))
            if need in _BASES:
                return  # what follows fails for the same reason


def format_report(environment: Environment, task: str | None = None) -> str:
    """Return the whole report as plain text, for one task or for all."""
    notes = environment.notes
    lines = ["{:<12}{}.{}.{}".format("Python", *sys.version_info)]
    for need in _PROBED:
        words = environment.label(*environment.installed(need)), notes.get(need)
        lines.append(f"{need:<12}{' '.join(filter(None, words)) or '-'}")
    lines.append("")
    missing: list[str] = []
    broken = [need for need, _, _ in environment.problems]
    for name in TASKS if task is None else (task,):
        lacking = environment.missing(name)
        missing += lacking
        lacking += [need for need in broken if need in TASKS[name]]
        lines.append(f"{name}: {'lacks ' + ', '.join(lacking) if lacking else 'ready'}")
    for _, summary, command in environment.problems:
        lines += ["", f"{summary}. To mend it:", f"  {command}"]
    if missing:
        command = environment.install_command(*missing)
        text = f"To install what is missing ({', '.join(dict.fromkeys(missing))}):"
        lines += ["", text, f"  {command}"]
    return "\n".join(lines)
