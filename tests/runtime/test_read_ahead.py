"""Tests of channels between threads: nothing lost, nothing twice, never more in flight than the limit."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_cli.runtime.read_ahead import Channel, ReadAhead


@settings(max_examples=30, deadline=None)
@given(depth=st.integers(1, 9), count=st.integers(0, 3000), writers=st.integers(1, 3))
def test_what_is_put_is_got_in_each_writers_order(depth: int, count: int, writers: int) -> None:
    channel: Channel[tuple[int, int]] = Channel(depth)
    threads = [
        threading.Thread(target=lambda writer=writer: [channel.put((writer, n)) for n in range(count)], daemon=True)
        for writer in range(writers)
    ]
    for thread in threads:
        thread.start()
    got = [channel.get(30) for _ in range(writers * count)]
    for writer in range(writers):
        assert [number for name, number in got if name == writer] == list(range(count))


def test_a_full_channel_holds_its_writer_up() -> None:
    channel: Channel[int] = Channel(4)
    put: list[int] = []
    threading.Thread(target=lambda: [(channel.put(n), put.append(n)) for n in range(100)], daemon=True).start()
    assert channel.get(30) == 0
    for _ in range(100):
        threading.Event().wait(0.002)
    assert len(put) <= 6
    assert [channel.get(30) for _ in range(99)] == list(range(1, 100))


def test_an_empty_channel_times_out() -> None:
    with pytest.raises(TimeoutError):
        Channel[int](1).get(0.01)


def test_what_an_iterator_raises_comes_after_what_it_gave() -> None:
    def items():  # type: ignore[no-untyped-def]
        yield from (1, 2)
        raise ValueError("cut off")

    arrivals: ReadAhead[int] = ReadAhead(items())
    taken: list[int] = []
    with pytest.raises(ValueError, match="cut off"):
        while batch := arrivals.take_batch(10):
            taken += batch
    assert taken == [1, 2] and arrivals.take_batch(1) == []
