"""A rendered frame as a small JPEG for watchers, no more often than eyes need. Keeps no frames."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

LONGEST_SIDE = 384
"""Pixels of a preview's longer side."""

PER_SECOND = 5.0
JPEG_QUALITY = 80


class Throttle:
    """Lets the first event through at once, later ones at most `per_second` times a second."""

    def __init__(self, per_second: float = PER_SECOND):
        self._pause = 1.0 / per_second
        self._next = 0.0

    def ready(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._pause
        return True


def small_jpeg(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB to JPEG bytes of at most LONGEST_SIDE pixels."""
    import cv2

    height, width = image.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        # A small shrink by areas takes ten times as long, and looks no better.
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale <= 0.5 else cv2.INTER_LINEAR)
    encoded, buffer = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not encoded:
        raise ValueError(f"cannot encode a preview of shape {image.shape}")
    return buffer.tobytes()
