"""An iterator read ahead in a thread, so that a batch is made of what is there and never waits for a full house."""

import queue
import threading
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

LINGER_SECONDS = 0.03
"""How long a batch waits for its next member, once it has one, where its size is worth a wait."""


class Arrivals(Generic[T]):
    """Items that arrive: `take` gives those that are there."""

    def __init__(self, items: Iterable[T], depth: int = 4096):
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
        self._over = False
        self._back: list[T] = []
        threading.Thread(target=self._read, args=(items,), daemon=True).start()

    def _read(self, items: Iterable[T]) -> None:
        try:
            for item in items:
                self._queue.put(("item", item))
        except BaseException as error:  # noqa: BLE001  (raised again where the items are taken)
            self._queue.put(("error", error))
        else:
            self._queue.put(("end", None))

    def put_back(self, items: list[T]) -> None:
        """Hands back what was taken too early; the next `take` begins with it."""
        self._back = items

    def take(self, most: int, linger: float = LINGER_SECONDS) -> list[T]:
        """Between one and `most` items, as many as arrive in time; none at the end. Raises what the iterator raised.

        linger: how many seconds it waits for the next item once it has one.
        """
        taken, self._back = self._back, []
        while len(taken) < most and not self._over:
            try:
                kind, value = self._queue.get(block=not taken or linger > 0, timeout=linger if taken else None)
            except queue.Empty:
                break
            if kind == "item":
                taken.append(value)
            elif kind == "end":
                self._over = True
            elif taken:  # first let these through, then raise
                self._queue.put((kind, value))
                break
            else:
                self._over = True
                raise value
        return taken
