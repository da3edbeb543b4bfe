"""Where the built-in engine turns the head: as its own movement says, as a reference video shows, or as the visitor wishes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from extensions.sadtalker import camera
from extensions.sadtalker.engines.geometric.watching import pose_at
from extensions.sadtalker.types import HEAD, MotionOptions

VIEW_LIMITS = {"yaw": 20.0, "pitch": 12.0, "roll": 10.0}
"""Degrees by which the head can be turned from the photo's pose: beyond, the picture would need pixels that it has not."""

_SHIFT_LIMIT = 0.25  # inter-ocular distances
_LIMITS = np.array([*VIEW_LIMITS.values(), _SHIFT_LIMIT, _SHIFT_LIMIT])


def posed(options: MotionOptions, times: np.ndarray, own: Callable[[], np.ndarray], grid: np.ndarray) -> np.ndarray:
    """(T, 5): the columns of HEAD at `times`, in seconds. own: gives the engine's own movement, on `grid`, asked only if it is
    needed."""
    if options.still:
        pose = np.zeros((len(times), len(HEAD)))
    elif options.pose_like is not None:
        pose = _LIMITS * np.tanh(pose_at(options.pose_like, times) / _LIMITS)
    else:
        pose = np.stack([np.interp(times, grid, column) for column in own().T], 1)
    for name in VIEW_LIMITS:
        if wished := getattr(options, name):
            pose[:, HEAD.index(name)] = camera.sequence(wished, len(times))
    return pose


def refused(yaw: tuple[float, ...], pitch: tuple[float, ...], roll: tuple[float, ...]) -> str | None:
    """Why the head cannot be turned so; None when it can."""
    for (name, limit), wished in zip(VIEW_LIMITS.items(), (yaw, pitch, roll), strict=True):
        if any(abs(degrees) > limit for degrees in wished):
            return f"The built-in engine turns the head by {limit:g} degrees at most ({name})."
    return None
