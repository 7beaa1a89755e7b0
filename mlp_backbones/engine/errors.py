"""Errors that are shown to users as one line, with what to do about them."""

import errno
import re
from contextlib import suppress
from typing import Any

from mlp_backbones.engine.batches import describe_size

OUT_OF_MEMORY = 3  # the exit code
_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|Cannot allocate memory|Caught MemoryError"
    r"|CU\w+_STATUS_ALLOC_FAILED"
)
_NO_WRITING = {
    errno.ENOSPC: "free space there or choose a folder on another disk",
    errno.EDQUOT: "free space there or choose a folder on another disk",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder with permissions for it, or change them",
    errno.EPERM: "choose a folder with permissions for it, or change them",
}


class UserError(Exception):
    """A mistake in what the user asked for: its message is shown as it is.

    Args:
        message: What is wrong and what to do about it.
        exit_code: 2 for a mistake on the command line, 1 for one in the data.
    """

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_code(error: BaseException) -> int:
    """Return what a tool ends with: 1, 2 for the command line, 3 out of memory."""
    if isinstance(error, UserError):
        return error.exit_code
    return OUT_OF_MEMORY if _is_out_of_memory(error) else 1


def one_line(error: BaseException) -> str:
    """Bring an error into one line that still says what is wrong.

    Want of memory, a full disk, a folder that cannot be written and data loading
    processes that were killed come with what to do. An error that came out of a data
    loading process carries the traceback of that process in its message; only its last
    line is for the user.
    """
    if _is_out_of_memory(error):
        return _describe_memory(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines and not isinstance(error, EOFError):
        return type(error).__name__
    lines = lines or [type(error).__name__]
    if lines[0].startswith("Caught ") and "Original Traceback" in str(error):
        return re.sub(r"^mlp_backbones(\.\w+)+: ", "", lines[-1])
    message = " ".join(lines)
    if isinstance(error, RuntimeError) and message.startswith("DataLoader worker (pid"):
        return _describe_worker(message)
    if isinstance(error, (ConnectionError, EOFError)) and _is_of_data_loader(error):
        return _describe_worker(message)
    if isinstance(error, OSError) and error.errno in _NO_WRITING:
        reason = (error.strerror or "it cannot be written").lower()
        what = f"{error.filename}: " if error.filename else "a file cannot be written: "
        return f"{what}{reason}; {_NO_WRITING[error.errno]}"
    if isinstance(error, KeyError):
        message = message.strip("'\"")
    # A message that was written for users names its value; others need their type.
    if isinstance(error, (UserError, ValueError, FileNotFoundError, FileExistsError)):
        return message
    return f"{type(error).__name__}: {message}"


def _is_out_of_memory(error: BaseException) -> bool:
    # torch's class is asked by name: without torch there is none
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def _describe_memory(error: BaseException) -> str:
    size = ""
    with suppress(Exception):  # a batch of any form
        size = describe_size(_find_batch(error))
    tried = re.search(r"tried to allocate [\d.,]+ ?\w+", str(error), re.IGNORECASE)
    return (
        f"out of memory{f' with {size}' if size else ''}"
        f"{f' ({tried[0].lower()})' if tried else ''}: lower the batch_size of the "
        "dataloader, in training with optim_wrapper.accumulative_counts for the same "
        "number of images per step; set model.backbone.with_cp=True, which keeps less "
        "for the backward pass; or use --amp. Checkpoints written before are intact"
    )


def _find_batch(error: BaseException) -> Any:
    """Find the batch that MMEngine's loop was at when the error came."""
    trace, batch = error.__traceback__, None
    while trace is not None:
        batch = trace.tb_frame.f_locals.get("data_batch", batch)
        trace = trace.tb_next
    return batch


def _is_of_data_loader(error: BaseException) -> bool:
    """Say whether a torn connection is that to a data loading process."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.endswith("utils/data/dataloader.py"):
            return True
        trace = trace.tb_next
    return False


def _describe_worker(message: str) -> str:
    processes = re.search(r"\(pid\(?s?\)? ([\d, ]+)\)", message)
    name = f"data loading process {processes[1]}" if processes else "a data process"
    if "Bus error" in message or "shared memory" in message:
        return (
            f"{name} ran out of shared memory: enlarge /dev/shm (docker run "
            "--shm-size=8g), or lower num_workers of the dataloader"
        )
    return (
        f"{name} was killed, as systems do that run out of memory: lower num_workers "
        "or prefetch_factor of the dataloader. Checkpoints written before are intact; "
        "in training, --resume goes on from the last"
    )
