"""What every tool starts with: its common options, and errors as one line.

Only tools import this module, and before anything that imports torch: it sets how the
threads of the process wait.
"""

import logging
import os
import sys
import time
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from pathlib import Path

from mlp_backbones.engine.errors import UserError, exit_code, one_line

DEBUG_VARIABLE = "MLP_BACKBONES_DEBUG"


def count_running(samples: int = 5) -> int:
    """Count the processes beside this one that want a core; 0 where nothing tells.

    Args:
        samples: How often to look, 10 ms apart; what is counted each time counts.
    """
    counts = []
    for _ in range(samples):
        try:
            running = Path("/proc/loadavg").read_text().split()[3].split("/")[0]
        except OSError:
            return 0
        counts.append(int(running) - 1)
        time.sleep(0.01)
    return min(counts)


def choose_wait_policy(environment: MutableMapping[str, str], running: int) -> None:
    """Let OpenMP's threads sleep where other processes want the cores.

    They spin while they wait for each other. On a quiet machine that is a third faster;
    beside one busy process it makes a training several times slower.

    Args:
        environment: What the variable is set in, unless the user has set it.
        running: Other processes that want a core.
    """
    if running > 0:
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")


# OpenMP reads it once, when torch loads it.
choose_wait_policy(os.environ, count_running())


def add_debug_option(parser: ArgumentParser) -> None:
    """Add ``--debug``, which shows the traceback of an error."""
    parser.add_argument(
        "--debug",
        action="store_true",
        help=f"show the whole traceback of an error (also: {DEBUG_VARIABLE}=1)",
    )


def add_config_arguments(parser: ArgumentParser, *, overwrite: str = "") -> None:
    """Add the config file and the settings that override it.

    Args:
        parser: The parser of the tool.
        overwrite: The option whose file ``--overwrite`` replaces; empty adds none.
    """
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings that override the config, e.g. train_dataloader.batch_size=4; "
        "data_root=DIR moves every path below the data_root of the config; "
        'a list as key="[a,b]" or key=a,b, a nested one as key="[(a,b),(c,d)]", '
        "quoted and without spaces; an element of a list as key.0.name=value",
    )
    if overwrite:
        parser.add_argument(
            "--overwrite", action="store_true", help=f"let {overwrite} replace a file"
        )
    add_debug_option(parser)


def run_tool(
    work: Callable[[], object],
    name: str,
    debug: bool = False,
    traceback_dir: Callable[[], Path | None] = lambda: None,
) -> int:
    """Run the work of a tool and turn an error into one line on stderr.

    Args:
        work: What the tool does, without arguments.
        name: Name of the tool, which begins the line.
        debug: Let errors through with their traceback.
        traceback_dir: Gives the folder that keeps the traceback of an error that is
            no ``UserError``, or None if there is none yet.

    Returns:
        The exit code: 0, that of the ``UserError``, 3 for want of memory, 1 for any
        other error, or 130 after an interruption by the keyboard.
    """
    debug = debug or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")
    rank = os.environ.get("RANK")
    prefix = f"{name}: error" if rank is None else f"{name} [rank {rank}]: error"
    # On a full disk each line of a log would print a traceback of its own.
    shown, logging.raiseExceptions = logging.raiseExceptions, debug
    try:
        work()
    except KeyboardInterrupt:
        _say(f"{name}: interrupted")
        return 130
    except Exception as error:
        if debug:
            raise
        line = f"{prefix}: {_describe(error)}"
        if not isinstance(error, UserError):
            line += f" ({_keep_traceback(traceback_dir, rank)})"
        _say(line)
        return exit_code(error)
    finally:
        logging.raiseExceptions = shown
    return 0


def _say(line: str) -> None:
    """Write a line to stderr, which like stdout may be full or closed."""
    for stream, text in ((sys.stdout, ""), (sys.stderr, f"{line}\n")):
        with suppress(OSError, ValueError):
            stream.write(text)
            stream.flush()


def _describe(error: Exception) -> str:
    try:
        return one_line(error)
    except Exception:  # of an error that cannot say what it is
        return type(error).__name__


def _keep_traceback(find: Callable[[], Path | None], rank: str | None) -> str:
    """Write the traceback in flight to a folder and say where it can be read."""
    unfinished = None
    try:
        folder = find()
        if folder is not None and folder.is_dir():
            file = folder / (
                "traceback.txt" if rank is None else f"traceback_{rank}.txt"
            )
            unfinished = file.with_suffix(".part")
            unfinished.write_text(traceback.format_exc(), encoding="utf-8")
            unfinished.replace(file)
            return f"traceback: {file}"
    except Exception:  # a full disk, a folder that cannot be written
        with suppress(OSError):
            if unfinished is not None:
                unfinished.unlink()
    return "traceback: --debug"
