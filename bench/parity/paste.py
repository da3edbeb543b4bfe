"""How a frame is put into its photo: ours beside upstream's."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from bench.parity.report import LEVELS, Compared, Goldens, Nets, Stage, compare
from extensions.sadtalker.paste import Paste
from extensions.sadtalker.types import Box, HeadMotion
from webui.plugin_api import face_finder

REPLACED = (
    "upstream clones the whole rectangle seamlessly (Poisson), colours bleeding over its border; ours shows the frame inside "
    "a soft mask in the shape of the head"
)


def paste(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    """Ours may be another only where upstream's rule leads to what upstream has."""
    if not goldens.cases("paste/input"):
        return
    array = "paste/output/full_bgr"
    picture, frame = (goldens[f"paste/input/{name}_bgr"] for name in ("full", "frame"))
    top, bottom, left, right = map(int, goldens["paste/input/rect_y1y2x1x2"])
    resized = cv2.resize(frame, (right - left, bottom - top))
    middle = (left + right) // 2, (top + bottom) // 2
    theirs = cv2.seamlessClone(resized, picture, np.full_like(resized, 255), middle, cv2.NORMAL_CLONE)
    understood = compare(array, theirs, goldens[array], LEVELS).within
    ours = _pasted(picture[..., ::-1].copy(), frame[..., ::-1].copy(), Box(left, top, right, bottom))
    yield compare(array, ours[..., ::-1], goldens[array], LEVELS, deviates=REPLACED if understood else "")


def _pasted(picture: np.ndarray, frame: np.ndarray, place: Box) -> np.ndarray:
    """Where the face is, is not in the file: it is looked for. Without one the product stops before there is a frame."""
    faces = face_finder().find(picture)
    return Paste(picture, place, faces[0].landmarks).put(frame, HeadMotion()) if faces else picture


STAGES: dict[str, Stage] = {"paste": paste}
