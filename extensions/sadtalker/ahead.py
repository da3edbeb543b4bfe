"""Frames made on a thread while those before them are used: so a graphics card draws while the processor pastes and encodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

DEPTH = 2
"""Frames that wait, at most: enough that neither side waits for the other over one that takes longer."""


def ahead(frames: Iterator[np.ndarray], depth: int = DEPTH) -> Iterator[np.ndarray]:
    """The same frames in the same order, up to `depth` of them made before they are asked for.

    Each must be an array of its own. What goes wrong in `frames` is raised where that frame would have come. The thread ends with
    the iterator, however that ends; a frame that is being made then is waited for.
    """
    end: Any = object()
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        waiting = deque(pool.submit(next, frames, end) for _ in range(depth))
        while (frame := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, frames, end))
            yield frame
    finally:
        pool.shutdown(cancel_futures=True)
