"""What one thread hands to another: a channel that wakes nobody without need, and an iterator read ahead.

A `queue.Queue` wakes a thread for every item, which is dear at thousands of requests a second. Here the reader is woken only
when it waits, and a writer that has filled the channel only when half of it is empty.
"""

import threading
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_WAIT_SECONDS = 0.03
"""How long a batch waits for its next member, once it has one, where its size is worth a wait."""

POLL_SECONDS = 0.2


class Channel(Generic[T]):
    """Items from one thread to another, no more than about `depth` on the way. Several threads may put, one may get.

    Appending and then looking whether the reader waits, here, and saying so and then looking for items, there, is in order
    under the interpreter's lock: no wake-up is lost.
    """

    def __init__(self, depth: int):
        self.depth = depth
        self._items: deque[T] = deque()
        self._there, self._room = threading.Event(), threading.Event()
        self._waiting = False
        self._left: int | None = None

    def __len__(self) -> int:
        """Items on the way."""
        return len(self._items)

    def put(self, item: T) -> None:
        """Waits while the channel is full."""
        while len(self._items) >= self.depth:
            self._room.clear()
            if len(self._items) >= self.depth:
                self._room.wait()
        self._items.append(item)
        if self._waiting:
            self._there.set()

    def get(self, timeout: float | None = None) -> T:
        """The next item. Raises TimeoutError when none comes in so many seconds, KeyboardInterrupt after `interrupt`."""
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
        if len(self._items) <= self.depth // 2 and not self._room.is_set():
            self._room.set()
        return item

    def interrupt(self) -> None:
        """What is there by now is still handed out; then `get` raises KeyboardInterrupt.

        Takes no lock, as a signal handler may run while its own thread holds one: the reader looks now and then.
        """
        self._left = len(self._items)


class _End:
    """The end of an iterator, and what it raised, if anything."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


class ReadAhead(Generic[T]):
    """Items that arrive: `take` gives those that are there, so that a batch never waits for a full house."""

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
        """Hands back what was taken too early; the next `take` begins with it."""
        self._back = items + self._back

    def take_batch(self, most: int, max_wait: float = MAX_WAIT_SECONDS, wait: bool = True) -> list[T]:
        """Between one and `most` items, as many as arrive in time; none at the end. Raises what the iterator raised.

        linger: how many seconds it waits for the next item once it has one. wait: for the first, as long as it takes; else
        there may be none yet, and nothing is raised.
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
