"""Ctrl-C and SIGTERM: who hands records on is told first, so that what is done is written; a second one does not wait."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE_SECONDS = 10
"""Between the first signal and the end, whatever is still to be written: schedulers kill after 30."""

_to_be_told: list[Callable[[], None]] = []
seen: list[int] = []
"""The signals that came."""


def install() -> None:
    """Takes over both signals: they raise KeyboardInterrupt in the main thread, unless someone is to be told."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    seen.append(number)
    if len(seen) > 1 or not _to_be_told:
        raise KeyboardInterrupt
    for told in _to_be_told:
        told()
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.alarm(PATIENCE_SECONDS)


def _on_alarm(number: int, frame: FrameType | None) -> None:
    """Whoever was told is stuck, as in a write to a reader that has stopped."""
    raise KeyboardInterrupt


@contextmanager
def told_to(stop: Callable[[], None]) -> Iterator[None]:
    """While the block runs, the first signal calls `stop`, which must take no lock, instead of raising."""
    _to_be_told.append(stop)
    try:
        yield
    finally:
        _to_be_told.remove(stop)
