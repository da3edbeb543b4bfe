"""Free view: the angles that the head is given instead of its own, one for each frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sequence(degrees: Sequence[float], frames: int) -> np.ndarray:
    """(frames,) float32: from the first angle past all others to the last one, which the last frame has, at an even pace.

    An angle that comes twice in a row takes no time. (Upstream's ramps end one step short, and twice the same divides by zero.)
    """
    path = np.asarray(degrees, np.float64)
    way = np.concatenate([[0.0], np.abs(np.diff(path)).cumsum()])
    travelled = way[-1] * np.arange(1 - frames, 1) / max(frames - 1, 1) + way[-1]
    return np.interp(travelled, way, path).astype(np.float32)
