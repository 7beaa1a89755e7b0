"""Writing files of which a complete and verified one exists at any instant."""

import os
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import torch

from mlp_backbones.checkpoints.torch_file import DamagedFileError

POINTER = "last_checkpoint"
SEED = ".seed"  # of the run, for one that is killed before its first checkpoint


def replace_file(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file under another name first, then put it in place in one step.

    Until the last step the file under the final name is the one that was there before.
    Afterwards the new one is on the disk, not only in the memory of the system.

    Args:
        path: The file.
        write: Writes the content.

    Raises:
        OSError: If writing fails; nothing but the file that was there before remains.
    """
    unfinished = unfinished_name(path)
    try:
        with unfinished.open("wb") as file:
            _write(file, write)
            file.flush()
            with ThreadPoolExecutor(1) as pool:  # the disk is slow, checksums are too
                synced = pool.submit(os.fsync, file.fileno())
                if path.suffix == ".pth":
                    verify(unfinished)
                synced.result()
        put_in_place(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def put_in_place(unfinished: Path, path: Path) -> None:
    """Give a file or a folder that is complete and verified its final name.

    Raises:
        OSError: If the disk or the folder refuses.
    """
    if unfinished.is_dir():  # a sharded checkpoint, one file for each process
        before = path.with_name(f".{path.name}.before")
        if path.exists():
            os.replace(path, before)
        os.replace(unfinished, path)
        shutil.rmtree(before, ignore_errors=True)
    else:
        os.replace(unfinished, path)
    sync_folder(path.parent)


def unfinished_name(path: Path) -> Path:
    """Return what a file is called while it is written: hidden, and no ``.pth``."""
    return path.with_name(f".{path.name}.unfinished")


def _write(file: IO[bytes], write: Callable[[IO[bytes]], None]) -> None:
    try:
        write(file)
    except RuntimeError as error:  # torch's writer, about what the file has raised
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def verify(path: Path) -> None:
    """Compare every entry of a file of ``torch.save`` with its checksum.

    Raises:
        DamagedFileError: If an entry differs or the file is incomplete.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from error
    if damaged is not None:
        raise DamagedFileError(f"{path} is damaged: {damaged} has another checksum")


def check_files(path: Path) -> None:
    """Bring to the disk and verify what others have written: a file or a folder.

    Raises:
        DamagedFileError: If a file is not what was written.
        OSError: If the disk refuses.
    """
    for file in path.iterdir() if path.is_dir() else [path]:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        verify(file)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can say so."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:  # not every file system can
        pass
    finally:
        os.close(descriptor)


def save(path: Path, content: Any) -> None:
    """Save as ``torch.save`` does, without a copy in memory, and verify the file."""
    replace_file(path, lambda file: torch.save(content, file))


def save_text(path: Path, text: str) -> None:
    """Write a short text in one step."""

    def write(file: IO[bytes]) -> None:
        file.write(text.encode())

    replace_file(path, write)
