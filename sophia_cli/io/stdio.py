"""File descriptors 0 to 2: keeps them open, and keeps stdout for records. Imports little, so that `--help` stays fast."""

import os
import sys
from typing import IO

from sophia_cli.errors import SophiaError


def open_descriptors() -> None:
    """Opens what the shell closed: stdin is empty, stderr goes to /dev/null, and a write to stdout fails."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def claim_stdout() -> IO[bytes]:
    """Returns a stream to the real stdout. From now on, anything else written to file descriptor 1 goes to stderr."""
    sys.stdout.flush()
    records = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return records


def write_stdout(stdout: IO[bytes], data: bytes) -> None:
    """Writes to the stream of `claim_stdout`, and flushes it.

    Raises:
        BrokenPipeError: the reader has left, as in `| head`, which is not an error of the step.
        SophiaError: it cannot be written.
    """
    try:
        stdout.write(data)
        stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SophiaError(
            f"stdout: cannot be written ({error.strerror}); free disk space and run the command again"
        ) from None
