"""Frames made ahead on a thread: the same ones, in order, with their errors, and none is made for nobody."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from extensions.sadtalker.ahead import DEPTH, ahead

PATIENCE = 10.0
"""Seconds after which something that should happen counts as never happening."""


def numbered(count: int) -> Iterator[np.ndarray]:
    return (np.full((2, 2, 3), number, np.uint8) for number in range(count))


def working() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_all_frames_come_in_order(count: int):
    assert [frame[0, 0, 0] for frame in ahead(numbered(count))] == list(range(count))
    assert not working()


def test_a_frame_is_made_while_the_one_before_it_is_used():
    begun = [threading.Event() for _ in range(6)]

    def frames() -> Iterator[np.ndarray]:
        for number, event in enumerate(begun):
            event.set()
            yield np.full(1, number)

    for number, _frame in enumerate(ahead(frames())):
        following = min(number + 1, len(begun) - 1)
        assert begun[following].wait(PATIENCE), "nothing was made while this frame was used"


def test_no_more_are_made_than_are_wanted_soon():
    made = []

    def frames() -> Iterator[np.ndarray]:
        for number in range(100):
            made.append(number)
            yield np.full(1, number)

    frames_ahead = ahead(frames())
    for taken in range(1, 6):
        next(frames_ahead)
        assert len(made) <= taken + DEPTH
    frames_ahead.close()
    assert len(made) <= 5 + DEPTH


def test_what_goes_wrong_is_raised_where_the_frame_would_have_come():
    def frames() -> Iterator[np.ndarray]:
        yield from numbered(3)
        raise MemoryError("no room for a frame")

    seen = []
    with pytest.raises(MemoryError, match="no room"):
        seen.extend(ahead(frames()))
    assert not working()
    frames_ahead = ahead(frames())
    assert [next(frames_ahead)[0, 0, 0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(MemoryError):
        next(frames_ahead)


def test_who_stops_early_leaves_no_thread_and_no_open_frames():
    ended = threading.Event()

    def frames() -> Iterator[np.ndarray]:
        try:
            yield from numbered(1000)
        finally:
            ended.set()

    frames_ahead = ahead(frames())
    next(frames_ahead)
    assert working()
    frames_ahead.close()
    del frames_ahead
    assert not working() and ended.wait(PATIENCE)
