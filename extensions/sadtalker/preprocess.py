"""Cuts the head out of the photo as the preprocess mode says, for the built-in engine: at the scale of the output. Never
stretches, never moves files."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from extensions.sadtalker.types import Box, Portrait

CROP = {"crop": 1.1, "extcrop": 1.65}  # half the box's side, in units of the head's size
REACH = {"full": 1.0, "extfull": 1.12}  # how far round the head the picture follows it
HEAD_REGION = 3.85  # face units from the eyes that movement can reach in full mode
MARGIN = 0.18  # of the view, kept round it so that moving uncovers real pixels


@dataclass(frozen=True)
class CropTransform:
    """Where the rendered frame belongs.

    source: the part of the picture that a frame shows; scale: canvas pixels per picture pixel;
    whole:  True when frames go back into the picture (at `source`), False when they are the video themselves.
    alone:  True when an engine saw the head alone: what lies round it in the picture must be made to follow it.
    video:  (width, height) of the video when that is not the frames' own, nor the picture's.
    """

    source: Box
    scale: float
    whole: bool
    alone: bool = False
    video: tuple[int, int] | None = None


def prepare_portrait(picture: np.ndarray, landmarks: np.ndarray, mode: str, size: int) -> tuple[Portrait, CropTransform]:
    """The canvas, its landmarks and the view for one of the five modes.

    picture: (H, W, 3) uint8 RGB; landmarks: (68, 2) pixels; size: width of the video in crop, extcrop and resize.
    """
    h, w = picture.shape[:2]
    if mode in REACH:
        region = _head_region(landmarks, REACH[mode], w, h)
        portrait = Portrait(_copy(picture, region), landmarks - (region.left, region.top), _all_of(region), REACH[mode])
        return portrait, CropTransform(region, 1.0, whole=True)
    shown = Box(0, 0, w, h) if mode == "resize" else head_box(landmarks, CROP[mode], w, h)
    return _scaled(picture, landmarks, shown, size)


def head_box(landmarks: np.ndarray, widen: float, width: int, height: int) -> Box:
    """The square round the head after FFHQ's measure (Karras et al. 2019), kept inside the picture.

    Its half side is the larger of twice the eyes' distance and 1.8 times that from eyes to mouth, times `widen`.
    """
    eyes = (landmarks[36:42].mean(0) + landmarks[42:48].mean(0)) / 2
    eye_to_eye = np.hypot(*(landmarks[42:48].mean(0) - landmarks[36:42].mean(0)))
    to_mouth = (landmarks[48] + landmarks[54]) / 2 - eyes
    half = widen * max(2.0 * eye_to_eye, 1.8 * np.hypot(*to_mouth))
    centre = eyes + 0.1 * to_mouth
    left, right = _fit(centre[0], half, width)
    top, bottom = _fit(centre[1], half, height)
    return Box(left, top, right, bottom)


def even(pixels: float) -> int:
    """The nearest even number from 2 upwards: H.264 in yuv420p has no odd sizes."""
    return max(2, 2 * round(pixels / 2))


def _fit(centre: float, half: float, limit: int) -> tuple[int, int]:
    """An interval of the picture's side: moved inside before it is shortened."""
    length = min(round(2 * half), limit)
    start = int(np.clip(round(centre - half), 0, limit - length))
    return start, start + length


def _head_region(landmarks: np.ndarray, reach: float, width: int, height: int) -> Box:
    right, left = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    centre, half = (right + left) / 2, HEAD_REGION * reach * float(np.hypot(*(left - right)))
    low, high = np.floor(centre - half).astype(int), np.ceil(centre + half).astype(int)
    return Box(max(0, int(low[0])), max(0, int(low[1])), min(width, int(high[0])), min(height, int(high[1])))


def _scaled(picture: np.ndarray, landmarks: np.ndarray, shown: Box, size: int) -> tuple[Portrait, CropTransform]:
    """A canvas a margin larger than what is shown, scaled so that the view is `size` wide."""
    h, w = picture.shape[:2]
    scale = size / shown.width
    pad = MARGIN * shown.width
    region = Box(
        max(0, int(shown.left - pad)), max(0, int(shown.top - pad)),
        min(w, int(shown.right + pad)), min(h, int(shown.bottom + pad)),
    )  # fmt: skip
    canvas = _resize(_copy(picture, region), scale)
    sx, sy = canvas.shape[1] / region.width, canvas.shape[0] / region.height
    left, top = round((shown.left - region.left) * sx), round((shown.top - region.top) * sy)
    view_w, view_h = even(size), even(shown.height * scale)
    left, top = max(0, min(left, canvas.shape[1] - view_w)), max(0, min(top, canvas.shape[0] - view_h))
    points = (landmarks - (region.left, region.top) + 0.5) * (sx, sy) - 0.5
    portrait = Portrait(canvas, points, Box(left, top, left + view_w, top + view_h))
    return portrait, CropTransform(shown, scale, whole=False)


def _resize(picture: np.ndarray, scale: float) -> np.ndarray:
    size = even(picture.shape[1] * scale), even(picture.shape[0] * scale)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _copy(picture: np.ndarray, box: Box) -> np.ndarray:
    return np.ascontiguousarray(picture[box.slices])


def _all_of(box: Box) -> Box:
    return Box(0, 0, box.width, box.height)
