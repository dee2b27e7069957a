"""Tests of the ordered map over processes: order, workers that die or hang, failing sources, bounded reading ahead."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sophia_cli.errors import SophiaError
from sophia_cli.runtime.worker_pool import CHUNK_SIZE, CHUNKS_PER_WORKER, READ_AHEAD_ITEMS, ordered_map

PATIENCE = 20.0


def doubled(task: int) -> int:
    return 2 * task


def dies_on_13(task: int) -> int:
    if task % 100 == 13:
        os._exit(9)
    return task


def dies_once_on_13(task: tuple[int, str]) -> int:
    mark = Path(task[1])
    if task[0] == 13 and not mark.exists():
        mark.touch()
        os._exit(9)
    return task[0]


def hangs_on_13(task: int) -> int:
    if task == 13:
        time.sleep(600)
    return task


def lost(item: int, outcome: str) -> str:
    return f"{item} {outcome}"


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, CHUNK_SIZE, CHUNK_SIZE + 1, 1000])
def test_results_come_in_the_order_of_the_items(workers: int, count: int) -> None:
    pairs = list(ordered_map(doubled, range(count), workers, int, PATIENCE, lost))
    assert pairs == [(item, 2 * item) for item in range(count)]


def test_a_task_that_kills_its_worker_twice_is_lost_and_no_other() -> None:
    pairs = list(ordered_map(dies_on_13, range(300), 2, int, PATIENCE, lost))
    assert pairs == [(item, f"{item} error" if item % 100 == 13 else item) for item in range(300)]


def test_a_task_whose_worker_was_killed_once_is_done_again(tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    pairs = list(ordered_map(dies_once_on_13, range(50), 2, lambda item: (item, mark), PATIENCE, lost))
    assert pairs == [(item, item) for item in range(50)]
    assert os.path.exists(mark)


def test_a_task_that_hangs_is_given_up_and_no_other() -> None:
    pairs = list(ordered_map(hangs_on_13, range(80), 2, int, 1.0, lost))
    assert pairs == [(item, "13 timeout" if item == 13 else item) for item in range(80)]


def test_what_the_source_raises_comes_after_what_it_gave() -> None:
    def source() -> Iterator[int]:
        yield from range(40)
        raise SophiaError("cut off")

    found = []
    with pytest.raises(SophiaError, match="cut off"):
        found.extend(iter_pairs(source(), found))
    assert found == [(item, 2 * item) for item in range(40)]


def iter_pairs(source: Iterator[int], found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    for pair in ordered_map(doubled, source, 2, int, PATIENCE, lost):
        found.append(pair)
    return []


def test_no_more_is_read_ahead_than_the_bound() -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    pairs = ordered_map(doubled, endless(), 2, int, PATIENCE, lost)
    for _ in range(10):
        next(pairs)
    time.sleep(1.0)
    assert read <= READ_AHEAD_ITEMS + (2 * CHUNKS_PER_WORKER + 4) * CHUNK_SIZE


def test_workers_that_cannot_start_are_an_error_and_no_endless_loop() -> None:
    def local(task: int) -> int:  # cannot be sent to another process
        return task

    with pytest.raises((SophiaError, AttributeError)):
        list(ordered_map(local, range(3), 1, int, PATIENCE, lost))
