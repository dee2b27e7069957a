"""`sophia` and `python -m sophia_cli`: the same command.

The signal handlers are set before the slow imports, so that an early Ctrl-C also ends the command quietly with code 130.
"""

import os
import signal

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os._exit(130))  # until the step installs its own handlers

from sophia_cli.cli.app import main  # noqa: E402  (the handlers above must come first)

if __name__ == "__main__":
    main()
