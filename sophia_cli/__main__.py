"""`sophia` and `python -m sophia_cli`: the same command.

The signal handlers are set before the slow imports, so that an early Ctrl-C also ends the command quietly with code 130.
"""

import os
import signal
import sys

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os._exit(130))  # until the step installs its own handlers

from sophia_cli.cli import app  # noqa: E402  (the handlers above must come first)
from sophia_cli.io.stdio import open_descriptors  # noqa: E402


def main() -> None:
    """The entry point of `sophia`. Ends the process at once, without waiting for a thread that reads stdin or for a
    library's teardown.
    """
    open_descriptors()
    code = app.main(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(code)


if __name__ == "__main__":
    main()
