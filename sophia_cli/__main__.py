"""`sophia` and `python -m sophia_cli`: the same command. Ctrl-C ends it quietly from the first line on."""

import os
import signal

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os._exit(130))  # while it still imports; a step takes over

from sophia_cli.cli.app import main  # noqa: E402  (the imports take longer than a hasty Ctrl-C)

if __name__ == "__main__":
    main()
