"""What the mapping net sees of the motion: for each frame the 3DMM coefficients of the frames round it, (channels, 27).

Channels: expression 64, angles 3, translation 3; for full pictures the photo's scale and place (3) behind them.
"""

from __future__ import annotations

import numpy as np

from extensions.sadtalker.engines.neural.coefficients import EXPRESSION, MOTION, POSE, WHOLE

RADIUS = 13
"""Frames before and after."""


def windows(
    coefficients: np.ndarray,
    source: np.ndarray,
    start: int,
    stop: int,
    *,
    full: bool,
    still: bool,
    expression_scale: float,
    times: np.ndarray | None = None,
) -> np.ndarray:
    """(stop - start, 70 or 73, 27) float32, of these frames. Beyond its ends a clip stays as it is there.

    coefficients:     (T, 70), a row per frame of the motion.
    source:           (1, 73), of the photo.
    full:             whether the channels for full pictures are wanted.
    still:            the head stays as in the photo.
    expression_scale: of the clip's expressions, not of the photo's.
    times:            where each frame of the video lies on the motion's rows; None: they are the same.
    """
    at = np.arange(start, stop, dtype=np.float64) if times is None else times[start:stop].astype(np.float64)
    at = (at[:, None] + np.arange(-RADIUS, RADIUS + 1)).clip(0, len(coefficients) - 1)
    before = np.floor(at).astype(np.int64)
    behind = np.minimum(before + 1, len(coefficients) - 1)
    share = (at - before).astype(np.float32)[..., None]
    seen = coefficients[before]
    # Added to what is there, so that whole frames are what they were.
    seen = seen + share * (coefficients[behind] - seen)
    seen[..., EXPRESSION] *= np.float32(expression_scale)
    if full:
        seen = np.concatenate([seen, np.broadcast_to(source[0, MOTION:], (*seen.shape[:2], WHOLE - MOTION))], axis=2)
    if still:
        seen[..., POSE] = source[0, POSE]
    return np.ascontiguousarray(seen.transpose(0, 2, 1), dtype=np.float32)


def of_photo(source: np.ndarray, *, full: bool) -> np.ndarray:
    """(1, 70 or 73, 27) float32: the photo itself, as if it went on. source: (1, 73)."""
    channels = source[:, : WHOLE if full else MOTION]
    return np.repeat(channels[:, :, None], 2 * RADIUS + 1, axis=2).astype(np.float32)
