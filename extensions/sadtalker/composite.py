"""Puts back into the whole picture what the built-in engine has rendered of it, surroundings and all. A head that was rendered
alone is put back by paste.py. Outside the head's region the pixels are the photo's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from extensions.sadtalker.preprocess import CropTransform


def composite(frames: Iterable[np.ndarray], picture: np.ndarray, crop: CropTransform) -> Iterator[np.ndarray]:
    """Frames of the video, (H, W, 3) uint8 RGB with even sides.

    In full mode the same array is yielded again and again with the head's region renewed: use it before taking the next.
    """
    if not crop.whole:
        yield from frames
        return
    height, width = (side - side % 2 for side in picture.shape[:2])
    whole = picture.copy()
    for frame in frames:
        whole[crop.source.slices] = frame
        yield whole[:height, :width]


def video_size(picture: np.ndarray, view: tuple[int, int], crop: CropTransform) -> tuple[int, int]:
    """Width and height of the video. view: width and height that the engine renders."""
    if not crop.whole:
        return view
    height, width = picture.shape[:2]
    return width - width % 2, height - height % 2
