"""Finds the lines of a face that landmarks only roughly follow: between the lips, along the teeth, along the lashes."""

from __future__ import annotations

import cv2
import numpy as np

from extensions.sadtalker.face import FaceFrame

STEPS = 29


def lowest_line(values: np.ndarray, start: np.ndarray, frame: FaceFrame, reach: float) -> np.ndarray:
    """The smooth line near `start` along which `values` are lowest, held at both ends.

    values: (H, W) float32, e.g. grey levels for a dark line; start: (n, 2) pixels; reach: how far to look above and
    below, in face units. Returns (n, 2) pixels.
    """
    down = frame.axes[1]
    offsets = np.linspace(-reach, reach, STEPS) * frame.iod
    at = (start[:, None] + offsets[None, :, None] * down).astype(np.float32)
    smooth = cv2.GaussianBlur(values, (0, 0), max(0.8, 0.008 * frame.iod))
    found = cv2.remap(smooth, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    path = cheapest_path(found / max(float(found.std()), 1e-6) + 1.8 * np.square(np.linspace(-1, 1, STEPS)))
    taper = np.minimum(np.arange(len(start)), np.arange(len(start))[::-1])
    offset = offsets[path] * np.clip(taper / (len(start) / 10), 0, 1)
    kernel = np.hanning(9)[1:-1] / np.hanning(9).sum()
    return start + np.convolve(np.pad(offset, 3, mode="edge"), kernel, "valid")[:, None] * down


def cheapest_path(cost: np.ndarray, bend: float = 0.15) -> np.ndarray:
    """(n,) column per row of the (n, m) `cost` whose sum is lowest, moving at most one column a row at the price `bend`."""
    total, back = cost[0].copy(), np.zeros(cost.shape, int)
    for i in range(1, len(cost)):
        padded = np.pad(total, 1, constant_values=np.inf)
        options = np.stack([padded[:-2] + bend, padded[1:-1], padded[2:] + bend])
        back[i] = options.argmin(0) - 1
        total = options.min(0) + cost[i]
    path = [int(total.argmin())]
    for i in range(len(cost) - 1, 0, -1):
        path.append(path[-1] + int(back[i, path[-1]]))
    return np.array(path[::-1])
