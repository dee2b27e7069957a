"""Ctrl-C and SIGTERM: who hands records on is told first, so that what is done is written; a second one does not wait."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

GRACE_SECONDS = 10
"""Between the first signal and the end, whatever is still to be written: schedulers kill after 30."""

_interrupt_handlers: list[Callable[[], None]] = []
received: list[int] = []
"""The signals that came."""


def install_handlers() -> None:
    """Takes over both signals: they raise KeyboardInterrupt in the main thread, unless someone is to be told."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    received.append(number)
    if len(received) > 1 or not _interrupt_handlers:
        raise KeyboardInterrupt
    for told in _interrupt_handlers:
        told()
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.alarm(GRACE_SECONDS)


def _on_alarm(number: int, frame: FrameType | None) -> None:
    """Whoever was told is stuck, as in a write to a reader that has stopped."""
    raise KeyboardInterrupt


@contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """While the block runs, the first signal calls `stop`, which must take no lock, instead of raising."""
    _interrupt_handlers.append(stop)
    try:
        yield
    finally:
        _interrupt_handlers.remove(stop)
