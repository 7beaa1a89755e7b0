"""How every tool of this repository reports an error: one line and an exit code."""

import os
import re
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

DEBUG_VARIABLE = "MLP_BACKBONES_DEBUG"


class UserError(Exception):
    """A mistake in what the user asked for: its message is shown as it is.

    Args:
        message: what is wrong and what to do about it.
        exit_code: 2 for a mistake on the command line, 1 for one in the data.
    """

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def one_line(error: BaseException) -> str:
    """Bring an error into one line that still says what is wrong.

    An error that came out of a data loading process carries the traceback of that
    process in its message; only its last line is for the user.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if lines[0].startswith("Caught ") and "Original Traceback" in str(error):
        return re.sub(r"^mlp_backbones(\.\w+)+: ", "", lines[-1])
    message = " ".join(lines)
    if isinstance(error, KeyError):
        message = message.strip("'\"")
    # A message that was written for users names its value; others need their type.
    if isinstance(error, (UserError, ValueError, FileNotFoundError, FileExistsError)):
        return message
    return f"{type(error).__name__}: {message}"


def add_debug_option(parser: ArgumentParser) -> None:
    """Add `--debug`, which shows the traceback of an error."""
    parser.add_argument(
        "--debug",
        action="store_true",
        help=f"show the whole traceback of an error (also: {DEBUG_VARIABLE}=1)",
    )


def run_tool(
    work: Callable[[], object],
    name: str,
    debug: bool = False,
    traceback_dir: Callable[[], Path | None] = lambda: None,
) -> int:
    """Run the work of a tool and turn an error into one line on stderr.

    Args:
        work: what the tool does, without arguments.
        name: name of the tool, which begins the line.
        debug: let errors through with their traceback.
        traceback_dir: gives the folder that keeps the traceback of an error that is
            no `UserError`, or None if there is none yet.

    Returns:
        The exit code: 0, that of the `UserError`, 1 for any other error, or 130
        after an interruption by the keyboard.
    """
    debug = debug or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")
    rank = os.environ.get("RANK")
    prefix = f"{name}: error" if rank is None else f"{name} [rank {rank}]: error"
    try:
        work()
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted\n")
        return 130
    except Exception as error:
        if debug:
            raise
        sys.stdout.flush()
        line = f"{prefix}: {one_line(error)}"
        if not isinstance(error, UserError):
            line += f" ({_keep_traceback(traceback_dir(), rank)})"
        sys.stderr.write(f"{line}\n")
        return error.exit_code if isinstance(error, UserError) else 1
    return 0


def _keep_traceback(folder: Path | None, rank: str | None) -> str:
    """Write the traceback in flight to a folder and say where it can be read."""
    if folder is None or not folder.is_dir():
        return "traceback: --debug"
    file = folder / ("traceback.txt" if rank is None else f"traceback_{rank}.txt")
    file.write_text(traceback.format_exc(), encoding="utf-8")
    return f"traceback: {file}"
