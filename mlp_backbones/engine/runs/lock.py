"""One run at a time in a work folder."""

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from mmengine.logging import print_log

from mlp_backbones.engine.errors import UserError

NAME = ".lock"
_held: dict[Path, IO[str]] = {}


def lock_work_dir(work_dir: Path) -> None:
    """Refuse a work folder that another run uses; keep it until the process ends.

    The kernel frees the lock, also after SIGKILL. It is a record lock, which worker
    processes do not inherit: one that outlives its run by seconds blocks nobody.

    Args:
        work_dir: The folder, made if it does not exist.

    Raises:
        UserError: If another run holds it or it cannot be written; nothing in it has
            been changed.
    """
    file = work_dir.absolute() / NAME
    if file in _held:
        return
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        opened = file.open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"work folder {work_dir} cannot be written: "
            f"{(error.strerror or str(error)).lower()}; choose another --work-dir"
        ) from error
    try:
        fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        opened.seek(0)
        owner = opened.read().strip() or "another process"
        opened.close()
        raise UserError(
            f"work folder {work_dir} is in use by {owner}; wait for that run, stop it, "
            "or choose another --work-dir"
        ) from error
    except OSError as error:  # some network file systems have no locks
        print_log(
            f"work folder {work_dir} cannot be locked ({error.strerror}): see to it "
            "that no second run uses it",
            level=30,
        )
    try:
        opened.truncate(0)
        opened.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        opened.flush()
    except OSError:  # a full disk; the name is for the message only
        pass
    _held[file] = opened
