"""What a person sees on stderr: a progress bar on a terminal, a line now and then elsewhere, and messages."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

# In a log file each update is a line; one every 15 s is 240 an hour.
LINE_INTERVAL_SECONDS = 15.0


def stderr_console() -> "Console":
    """Returns a rich console on stderr; it honors NO_COLOR. A closed or full stderr is ignored, as in `log_line`."""
    from rich.console import Console

    class StderrConsole(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            with suppress(OSError, ValueError):
                super().print(*objects, **options)

    return StderrConsole(stderr=True, highlight=False)


def log_line(text: str, quiet: bool = False) -> None:
    """Prints one line to stderr unless `quiet`. A closed or full stderr is ignored."""
    if not quiet:
        with suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


_quiet: list[bool] = []


def set_quiet(quiet: bool = True) -> None:
    """Silences `log_info` from now on (`--quiet`), or lets it speak again."""
    _quiet[:] = [quiet]


def log_info(text: str) -> None:
    """Prints one line of information to stderr unless `set_quiet` was called."""
    log_line(text, quiet=any(_quiet))


class Progress:
    """Counts finished records, failures and tokens, and displays them."""

    def __init__(self, step: str, total: int | None = None, quiet: bool = False, unit: str = "records"):
        self.step, self.total, self.quiet, self.unit = step, total, quiet, unit
        self.status: Callable[[], str] = lambda: ""
        self.done = self.failed = self.tokens = 0
        self.start = self.last = time.monotonic()
        self.bar: Bar | None = None

    @contextmanager
    def display(self) -> Iterator["Progress"]:
        """Shows a bar while the block runs, if stderr is a terminal, and prints a summary line at the end."""
        if self.quiet:
            yield self
            return
        if sys.stderr.isatty():
            self._start_bar()
        try:
            yield self
        finally:
            if self.bar:
                self.bar.stop()
            log_line(self.summary_line())

    def _start_bar(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rates]}"),
            TimeRemainingColumn(),
        ]
        self.bar = Bar(*columns, console=stderr_console(), transient=True)
        self.task = self.bar.add_task(self.step, total=self.total, rates="")
        self.bar.start()

    def count_record(self, tokens: int = 0, failed: bool = False) -> None:
        """Counts one finished record."""
        self.done += 1
        self.tokens += tokens
        self.failed += failed
        if self.bar:
            self.bar.update(self.task, completed=self.done, total=self.total, rates=self._rates_text())
        elif not self.quiet and time.monotonic() - self.last > LINE_INTERVAL_SECONDS:
            self.last = time.monotonic()
            log_line(self.summary_line())

    def _rates_text(self) -> str:
        seconds = max(time.monotonic() - self.start, 1e-6)
        parts = [f"{self.done / seconds:.1f}/s"]
        if self.tokens:
            parts.append(f"{self.tokens / seconds:,.0f} tokens/s")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if note := self.status():
            parts.append(note)
        return ", ".join(parts)

    def summary_line(self) -> str:
        """Returns `caption: 40/80 records, 12.1/s, 800 tokens/s, 1 failed`."""
        total = f"/{self.total}" if self.total else ""
        return f"{self.step}: {self.done}{total} {self.unit}, {self._rates_text()}"
