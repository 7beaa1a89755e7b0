"""Errors that are shown to users as one line."""

import re


class UserError(Exception):
    """A mistake in what the user asked for: its message is shown as it is.

    Args:
        message: What is wrong and what to do about it.
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
