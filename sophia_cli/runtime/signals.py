"""Ctrl-C and SIGTERM: the first one lets a step write what is finished, the second one ends it at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

GRACE_SECONDS = 10
"""Seconds between the first signal and the end, whatever is still unwritten. Schedulers kill after 30."""

_interrupt_handlers: list[Callable[[], None]] = []
received: list[int] = []
"""The signals received so far."""


def install_handlers() -> None:
    """Makes both signals raise KeyboardInterrupt in the main thread, unless `on_interrupt` registered a handler."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    received.append(number)
    if len(received) > 1 or not _interrupt_handlers:
        raise KeyboardInterrupt
    for handler in _interrupt_handlers:
        handler()
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.alarm(GRACE_SECONDS)


def _on_alarm(number: int, frame: FrameType | None) -> None:
    """Ends a handler that hangs, for example in a write to a reader that has stopped."""
    raise KeyboardInterrupt


@contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """While the block runs, the first signal calls `stop` instead of raising. `stop` must not take a lock."""
    _interrupt_handlers.append(stop)
    try:
        yield
    finally:
        _interrupt_handlers.remove(stop)
