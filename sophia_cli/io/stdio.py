"""File descriptors 0 to 2: kept open, and stdout kept for records. Imports nothing, so that `--help` stays fast."""

import os
import sys
from typing import IO


def open_descriptors() -> None:
    """Opens what the shell closed: stdin empty, stderr to nowhere, stdout so that writing a record to it fails."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def claim_stdout() -> IO[bytes]:
    """A stream to the real stdout; from here on, whatever else writes to file descriptor 1 reaches stderr."""
    sys.stdout.flush()
    records = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return records
