"""Tests of a map over forked processes: every item once, in order, even if a process dies."""

import os
import signal
import time
from pathlib import Path

import pytest

from sophia_cli.runtime.fork_map import MAX_ITEMS, forked_map


def test_results_are_in_the_order_of_the_items() -> None:
    def work(item: int) -> tuple[int, int]:
        time.sleep(0.02 if item % 7 == 0 else 0)
        return item, os.getpid()

    found = list(forked_map(work, range(100), 3))
    assert [pair[0] for pair in found if pair] == list(range(100))
    assert os.getpid() not in {pair[1] for pair in found if pair}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_copy_that_ends_leaves_its_item_to_the_caller_and_the_rest_to_the_others(workers: int) -> None:
    def work(item: int) -> int:
        if item == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    found = list(forked_map(work, range(20), workers))
    assert found == [0, 1, 2, 3, 4, *([None] * 15 if workers == 1 else [None, *range(6, 20)])]


def test_an_exception_in_a_copy_ends_it_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    def work(item: int) -> int:
        return 1 // item

    assert list(forked_map(work, [0, 1], 2)) in ([None, 1], [None, None])
    assert capfd.readouterr() == ("", "")


def child_processes() -> set[str]:
    """Returns the children of this process, zombies included. Other tests may have left a verifier's worker running."""
    return {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


def test_a_caller_that_stops_early_leaves_no_copy_behind() -> None:
    before = child_processes()
    found = forked_map(lambda item: bytes(1 << 20), range(1000), 2)
    next(found)
    assert len(child_processes() - before) == 2
    found.close()  # type: ignore[attr-defined]
    assert child_processes() <= before


def test_more_items_than_the_pipe_of_numbers_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        forked_map(abs, range(MAX_ITEMS + 1), 1)
