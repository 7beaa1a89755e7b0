"""Finding the checkpoint that a run goes on from, before anything is built."""

import shutil
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from mlp_backbones.checkpoints.torch_file import (
    DamagedFileError,
    read_torch_file,
)
from mlp_backbones.engine.errors import UserError, one_line
from mlp_backbones.engine.runs import files


class OtherFileError(ValueError):
    """A file that is no checkpoint to resume a run from, such as weights alone."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be resumed, and what it says about its run."""

    path: Path
    meta: Mapping[str, Any]

    @property
    def place(self) -> tuple[int, int]:
        """Iterations and epochs done."""
        return self.meta["iter"], self.meta["epoch"]


def resolve_resume(
    config: Config, *, start: str | None = None, first_process: bool
) -> None:
    """Decide from which checkpoint a config's run goes on, and with which seed.

    ``resume`` without ``load_from`` takes the newest good checkpoint of the work folder
    and says which damaged ones it has passed over. A file that is named is taken or
    refused. Where there is no checkpoint yet the run starts from ``start``, or anew if
    it was killed before its first one. Checkpoints that are newer than the one resumed
    are moved away: they are of a run that is given up.

    Args:
        config: The config, changed in place.
        start: What ``load_from`` was before ``--resume``.
        first_process: Whether this process speaks and moves files for all.

    Raises:
        UserError: If the file that is named cannot be resumed, no checkpoint in the
            work folder is good, or no run has begun there and there is no ``start``.
    """
    if config.get("randomness") is None:
        config.randomness = ConfigDict()
    randomness = config.randomness
    randomness.setdefault("seed", None)
    if not config.get("resume"):
        return
    folders = checkpoint_folders(config)
    damaged: dict[Path, str] = {}
    if isinstance(config.resume, str) and config.resume != "auto":
        config.load_from = config.resume
    if config.get("load_from") is not None:
        if "://" in config.load_from:
            return
        found = read_named(Path(config.load_from))
    else:
        newest, damaged = find_newest(folders)
        if newest is None and damaged:
            raise UserError(
                f"cannot resume: no checkpoint in {folders[0]} is good; "
                f"{describe(damaged)}",
                exit_code=1,
            )
        if newest is None:
            config.resume, config.load_from = False, start
            if not _keep_seed(randomness, folders[0]) and start is None:
                raise UserError(
                    f"--resume: there is no checkpoint in {folders[0]}, and the config "
                    "names none to start from (load_from); leave --resume out for the "
                    "first start"
                )
            if first_process:
                print_log(
                    f"no checkpoint in {folders[0]}: the run starts "
                    + ("anew" if start is None else f"from {start}")
                )
            return
        if damaged and first_process:
            print_log(f"resuming {newest.path}, as {describe(damaged)}", level=30)
        found = newest
    config.resume = True
    config.load_from = str(found.path)
    _restore_seed(randomness, found, first_process)
    if first_process:
        set_newer_aside(folders, found, damaged)


def checkpoint_folders(config: Config) -> list[Path]:
    """Return where a config's run keeps its checkpoints, the work folder first."""
    work_dir = Path(config.work_dir)
    hook = (config.get("default_hooks") or {}).get("checkpoint") or {}
    folders = [work_dir]
    if hook.get("out_dir") is not None and "://" not in str(hook["out_dir"]):
        folders.append(Path(hook["out_dir"]) / work_dir.name)
    return folders


def find_newest(folders: list[Path]) -> tuple[Checkpoint | None, dict[Path, str]]:
    """Return the newest good checkpoint, and why newer ones are not good.

    The order is that of the iterations they were saved after; neither the pointer nor
    the times of the files are asked, which a copy or a kill may have changed.
    """
    candidates, damaged = [], {}
    for path in [path for folder in folders for path in sorted(folder.glob("*.pth"))]:
        try:
            candidates.append(Checkpoint(path, read_meta(path)))
        except OtherFileError:  # the best, or weights to start from
            continue
        except (ValueError, OSError) as error:
            damaged[path] = _reason(error)
    for checkpoint in sorted(candidates, key=lambda each: each.place, reverse=True):
        try:
            return check_whole(checkpoint.path), damaged
        except (ValueError, OSError) as error:
            damaged[checkpoint.path] = _reason(error)
    return None, damaged


def _reason(error: Exception) -> str:
    if isinstance(error, DamagedFileError):
        return "it is damaged, or no file of torch.save"
    return one_line(error)


def read_meta(path: Path) -> Mapping[str, Any]:
    """Read what a checkpoint says about its run, without its tensors.

    Raises:
        ValueError: If it is damaged, no checkpoint of a run, or more than plain data.
        OSError: If it cannot be read.
    """
    return _meta_of(read_torch_file(path, tensors=False))


def check_whole(path: Path) -> Checkpoint:
    """Read a whole checkpoint and compare every checksum.

    Raises:
        ValueError: If it is damaged, no checkpoint of a run, or more than plain data.
        OSError: If it cannot be read.
    """
    if zipfile.is_zipfile(path):  # the format before torch 1.6 has no checksums
        files.verify(path)
    return Checkpoint(path, read_meta(path))


def _meta_of(content: Any) -> Mapping[str, Any]:
    meta = content.get("meta") if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping) or not all(
        isinstance(meta.get(key), int) for key in ("epoch", "iter")
    ):
        raise OtherFileError("it does not say how far its run has come")
    if "optimizer" not in content:
        raise OtherFileError("it holds no state of the optimizer")
    return meta


def read_named(path: Path) -> Checkpoint:
    """Read the checkpoint that a user has named.

    Raises:
        UserError: If it cannot be resumed.
    """
    if path.is_dir():  # sharded, which FSDPStrategy reads itself
        return Checkpoint(path, read_meta(path / "rank0.pth"))
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    try:
        return check_whole(path)
    except (ValueError, OSError) as error:
        reason = _reason(error)
        if isinstance(error, OtherFileError):
            reason += "; without --resume, load_from takes its weights only"
        raise UserError(f"cannot resume {path}: {reason}", exit_code=1) from error


def describe(damaged: Mapping[Path, str]) -> str:
    """Name the files that were passed over, and why, in one line."""
    return ", ".join(
        f"{path} cannot be resumed ({reason})" for path, reason in damaged.items()
    )


def _restore_seed(
    randomness: dict[str, Any], found: Checkpoint, first_process: bool
) -> None:
    """Take the seed of the run that is resumed before anything draws."""
    seed = found.meta.get("seed")
    if seed is None:
        return
    if randomness.get("seed") not in (None, seed) and first_process:
        print_log(
            f"the seed {randomness['seed']} is not used: {found.path} belongs to a run "
            f"with the seed {seed}",
            level=30,
        )
    randomness["seed"] = seed


def _keep_seed(randomness: dict[str, Any], work_dir: Path) -> bool:
    """Take the seed of a run that was killed before its first checkpoint.

    Returns:
        Whether such a run has begun.
    """
    file = work_dir / files.SEED
    if not file.is_file():
        return False
    text = file.read_text(encoding="utf-8").strip()
    if randomness.get("seed") is None and text.isdecimal():
        randomness["seed"] = int(text)
    return True


def set_newer_aside(
    folders: list[Path], found: Checkpoint, damaged: Mapping[Path, str]
) -> None:
    """Move checkpoints away that a run would take for its own later ones.

    They are damaged, or from a run that is given up by resuming an earlier checkpoint;
    without this the next automatic resumption would take them.
    """
    newer = list(damaged)
    for path in [path for folder in folders for path in sorted(folder.glob("*.pth"))]:
        if path in damaged or path.resolve() == found.path.resolve():
            continue
        try:
            iteration = read_torch_file(path, tensors=False)["meta"]["iter"]
        except (ValueError, OSError, KeyError, TypeError):
            continue  # weights alone, which are nobody's checkpoint
        if iteration > found.meta["iter"]:
            newer.append(path)
    if not newer:
        return
    target = folders[0] / "earlier_runs" / time.strftime("%Y%m%d_%H%M%S")
    target.mkdir(parents=True, exist_ok=True)
    for path in newer:
        shutil.move(path, target / path.name)
    names = ", ".join(path.name for path in newer)
    print_log(f"moved out of the way, to {target}: {names}")
