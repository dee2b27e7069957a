"""Queues between threads: a bounded channel, and an iterator that is read ahead.

`queue.Queue` wakes a thread for every item, which is expensive at thousands of requests a second. Here the reader is woken
only while it waits, and a writer that filled the channel only when half of it is empty again.
"""

import threading
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_WAIT_SECONDS = 0.03
"""How long a batch waits for its next item once it has one."""

POLL_SECONDS = 0.2
"""How often a waiting reader checks for an interrupt."""


class Channel(Generic[T]):
    """Passes items between threads, about `depth` of them at a time. Several threads may put, one may get.

    No wake-up is lost: the writer appends, then checks whether the reader waits; the reader announces that it waits, then
    checks for items. The interpreter lock keeps this order.
    """

    def __init__(self, depth: int):
        self.depth = depth
        self._items: deque[T] = deque()
        self._there, self._room = threading.Event(), threading.Event()
        self._waiting = False
        self._left: int | None = None

    def __len__(self) -> int:
        """Returns the number of items in the channel."""
        return len(self._items)

    def put(self, item: T) -> None:
        """Adds an item; blocks while the channel is full."""
        while len(self._items) >= self.depth:
            self._room.clear()
            # Checked again: the reader may have made room before the flag was cleared.
            if len(self._items) >= self.depth:
                self._room.wait()
        self._items.append(item)
        if self._waiting:
            self._there.set()

    def get(self, timeout: float | None = None) -> T:
        """Returns the next item.

        Raises:
            TimeoutError: no item came within `timeout` seconds.
            KeyboardInterrupt: `interrupt` was called, and the items that were there then are taken.
        """
        while not self._items:
            if self._left is not None:
                raise KeyboardInterrupt
            if timeout == 0:
                raise TimeoutError
            self._there.clear()
            self._waiting = True
            if not self._items and not self._there.wait(POLL_SECONDS if timeout is None else timeout):
                self._waiting = False
                if timeout is not None:
                    raise TimeoutError
            self._waiting = False
        if self._left is not None:
            if self._left <= 0:
                raise KeyboardInterrupt
            self._left -= 1
        item = self._items.popleft()
        # At half, not at each item: waking the writer costs more than an item.
        if len(self._items) <= self.depth // 2 and not self._room.is_set():
            self._room.set()
        return item

    def interrupt(self) -> None:
        """Makes `get` raise KeyboardInterrupt after the items that are in the channel now.

        It takes no lock, because a signal handler may run while its own thread holds one. The reader polls instead.
        """
        self._left = len(self._items)


class _End:
    """The end of an iterator, with the error that it raised, if any."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


class ReadAhead(Generic[T]):
    """Reads an iterator in a thread. `take_batch` returns what has arrived: a batch never waits until it is full."""

    def __init__(self, items: Iterable[T], depth: int = 4096):
        self._channel: Channel[T | _End] = Channel(depth)
        self._end: _End | None = None
        self._back: list[T] = []
        threading.Thread(target=self._read_items, args=(items,), daemon=True).start()

    def _read_items(self, items: Iterable[T]) -> None:
        try:
            for item in items:
                self._channel.put(item)
        except BaseException as error:  # noqa: BLE001  (raised again where the items are taken)
            self._channel.put(_End(error))
        else:
            self._channel.put(_End())

    def put_back(self, items: list[T]) -> None:
        """Returns items that were taken too early; the next `take_batch` starts with them."""
        self._back = items + self._back

    def take_batch(self, most: int, max_wait: float = MAX_WAIT_SECONDS, wait: bool = True) -> list[T]:
        """Returns between one and `most` items, as many as arrive in time; an empty list at the end of the input.

        Args:
            most: Largest size of the batch.
            max_wait: Seconds to wait for each further item once there is one.
            wait: Block until the first item arrives. False returns an empty list when there is none yet, and raises
                nothing.

        Raises:
            BaseException: what the iterator raised, after all items before it.
        """
        taken, self._back = self._back[:most], self._back[most:]
        while len(taken) < most and self._end is None:
            try:
                item = self._channel.get(max_wait if taken else None if wait else 0.0)
            except TimeoutError:
                break
            if isinstance(item, _End):
                self._end = item
            else:
                taken.append(item)
        if not taken and wait and self._end and self._end.error:
            error, self._end.error = self._end.error, None
            raise error
        return taken
