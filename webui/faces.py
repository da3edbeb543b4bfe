"""Finds faces in a picture and the 68 points of each. Draws nothing, changes nothing, downloads nothing.

The finder that ships is dlib's: a HOG detector and the 68-point predictor of Kazemi and Sullivan ("One millisecond face
alignment with an ensemble of regression trees", CVPR 2014), whose data lie in the package face_recognition_models.
"""

from __future__ import annotations

import importlib.util
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from webui.errors import ModelMissing, NoFaceFound

if TYPE_CHECKING:
    import numpy as np

MIN_FACE = 48
"""Width between the jaw's sides, in pixels, below which a face has too few pixels to be animated."""

_PASSES = ((640, 4.0, 0.0), (1600, 6.0, 0.0), (4096, 6.0, 0.3))
"""Longest side searched at, how often the picture may be enlarged for it and the least score accepted, one pass after the other
until a face is found.

The detector sees faces from 80 pixels up, in steps of a fifth of their size: a face that falls between two of them is seen in the
next pass. The finest looks at many more places, so it must be surer of what it finds.
"""

_FACE_WIDTH = 250.0
"""Width in pixels that a face is scaled to before its points are placed."""

_NEAR = 1.0
"""Face widths round its place in the frame before in which a face of a film is looked for."""

_NEAR_WIDTH = 120.0
"""Width in pixels that a face is scaled to when it is looked for there."""

_NUDGES = ((0, 0, 1), (0.05, 0, 1), (-0.05, 0, 1), (0, 0.05, 1), (0, -0.05, 1), (0, 0, 1.08), (0, 0, 0.93))
"""(shift x, shift y, size) of the frames that the points are read in, in face widths.

The detector's box is coarse and the points follow it by up to 1 % of the face; the median of seven readings does not.
"""


@dataclass(frozen=True)
class Face:
    """One face.

    box:       (left, top, right, bottom) in pixels, brows to chin as the detector frames it, cut at the border.
    landmarks: (68, 2) float64, x and y in pixels, iBUG order; they may lie outside the picture when the face does.
    score:     how sure the finder is; only comparable within one finder.
    """

    box: tuple[float, float, float, float]
    landmarks: np.ndarray
    score: float

    @property
    def width(self) -> float:
        """Pixels between the jaw's two sides, beside the eyes."""
        return float(((self.landmarks[16] - self.landmarks[0]) ** 2).sum() ** 0.5)

    @property
    def area(self) -> float:
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


class FaceFinder(Protocol):
    """Finds faces; may be called from several threads."""

    name: str

    def find(self, rgb: np.ndarray) -> list[Face]:
        """The faces in a (H, W, 3) uint8 RGB picture, largest first; [] when there is none."""
        ...

    def find_near(self, rgb: np.ndarray, face: Face) -> Face | None:
        """The same face in the next picture of a film: the one that lies nearest to where it was. Quicker than `find`."""
        ...


class DlibFaceFinder:
    """dlib's HOG detector and 68-point predictor. Reads 100 MB when made; raises ModelMissing without them."""

    name = "dlib"

    def __init__(self) -> None:
        import dlib

        self._detector = dlib.get_frontal_face_detector()
        self._predictor = dlib.shape_predictor(str(_predictor_file()))
        # dlib's detector keeps its pyramid between calls, so two threads must not be inside it at once.
        self._lock = threading.Lock()

    def find(self, rgb: np.ndarray) -> list[Face]:
        """See FaceFinder.find. Faces narrower than about 2 % of the longest side, or than 14 pixels, are not seen."""
        with self._lock:
            boxes = self._boxes(rgb)
            faces = [self._face(rgb, box, score) for box, score in boxes]
        return sorted(faces, key=lambda face: face.area, reverse=True)

    def find_near(self, rgb: np.ndarray, face: Face) -> Face | None:
        """See FaceFinder.find_near."""
        left, top, right, bottom = face.box
        reach = _NEAR * (right - left)
        x0, y0 = max(0, int(left - reach)), max(0, int(top - reach))
        part = rgb[y0 : int(bottom + reach) + 1, x0 : int(right + reach) + 1]
        if min(part.shape[:2]) < 2:
            return None
        scale = _NEAR_WIDTH / (right - left)
        with self._lock:
            rectangles, scores, _ = self._detector.run(_scaled(part, scale), 0, 0.0)
            boxes = [tuple(v / scale for v in (r.left(), r.top(), r.right() + 1, r.bottom() + 1)) for r in rectangles]
            there = [((a + x0, b + y0, c + x0, d + y0), score) for (a, b, c, d), score in zip(boxes, scores, strict=True)]
            nearest = min(there, key=lambda found: _apart(found[0], face.box), default=None)
            return nearest and self._face(rgb, *nearest)

    def _boxes(self, rgb: np.ndarray) -> list[tuple[tuple[float, ...], float]]:
        """(box, score) of every face, from the coarsest pass that sees one."""
        searched = 0.0
        for side, enlarged, threshold in _PASSES:
            scale = min(side / max(rgb.shape[:2]), enlarged)
            if scale <= searched:
                break
            searched = scale
            rectangles, scores, _ = self._detector.run(_scaled(rgb, scale), 0, threshold)
            if rectangles:
                boxes = [(r.left(), r.top(), r.right() + 1, r.bottom() + 1) for r in rectangles]
                return _distinct([(tuple(v / scale for v in b), s) for b, s in zip(boxes, scores, strict=True)])
        return []

    def _face(self, rgb: np.ndarray, box: tuple[float, ...], score: float) -> Face:
        """Places the points on a cut-out in which the face has the width that the predictor was trained on."""
        import dlib
        import numpy as np

        height, width = rgb.shape[:2]
        left, top, right, bottom = box
        margin = 0.5 * (right - left)
        x0, y0 = max(0, int(left - margin)), max(0, int(top - margin))
        x1, y1 = min(width, int(right + margin) + 1), min(height, int(bottom + margin) + 1)
        scale = _FACE_WIDTH / (right - left)
        cut = _scaled(rgb[y0:y1, x0:x1], scale)
        center_x, center_y = ((left + right) / 2 - x0) * scale, ((top + bottom) / 2 - y0) * scale
        readings = []
        for shift_x, shift_y, size in _NUDGES:
            x, y, half = center_x + shift_x * _FACE_WIDTH, center_y + shift_y * _FACE_WIDTH, size * _FACE_WIDTH / 2
            frame = dlib.rectangle(round(x - half), round(y - half), round(x + half) - 1, round(y + half) - 1)
            readings.append([(p.x, p.y) for p in self._predictor(cut, frame).parts()])
        points = np.median(np.array(readings, dtype=np.float64), axis=0)
        # Pixel centres lie half a pixel in from the corner, at either scale.
        landmarks = (points + 0.5) / scale - 0.5 + (x0, y0)
        clipped = (max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom))
        return Face(clipped, landmarks, float(score))


class FaceFollower:
    """One face through the pictures of a film, given one after another."""

    def __init__(self, finder: FaceFinder) -> None:
        self._finder = finder
        self._face: Face | None = None

    def follow(self, rgb: np.ndarray) -> Face | None:
        """The face in the next picture: at first the largest, then the one that was followed. Where it is not seen, as it was
        seen last; None until there is one.
        """
        seen = self._finder.find_near(rgb, self._face) if self._face else None
        if seen is None:
            seen = next(iter(self._nearest(self._finder.find(rgb))), None)
        self._face = seen or self._face
        return self._face

    def _nearest(self, faces: list[Face]) -> list[Face]:
        before = self._face
        return sorted(faces, key=lambda face: _apart(face.box, before.box)) if before else faces


@lru_cache(maxsize=1)
def _shared_finder() -> DlibFaceFinder:
    return DlibFaceFinder()


_loading = threading.Lock()


def face_finder() -> FaceFinder:
    """The studio's face finder, loaded once and shared by all threads."""
    # Without the lock two first callers would both load it.
    with _loading:
        return _shared_finder()


def choose_face(faces: list[Face], index: int | None, picture_size: tuple[int, int]) -> tuple[Face, tuple[str, ...]]:
    """The face to animate and what to tell the user about the choice.

    faces: largest first; index: which one, None takes the largest; picture_size: (width, height) in pixels.
    Raises NoFaceFound when there is none, not as many as `index` asks for, or the one chosen is narrower than MIN_FACE.
    """
    if not faces:
        raise NoFaceFound(
            "No face was found in the picture. Use a photo in which the face looks at the camera, is well lit and is "
            "not covered."
        )
    chosen = index or 0
    if not 0 <= chosen < len(faces):
        count = "one face" if len(faces) == 1 else f"{len(faces)} faces"
        raise NoFaceFound(
            f"The picture shows {count}, so there is no face {chosen}. Use --face {_choices(len(faces))}; 0 is the "
            "largest."
        )
    face = faces[chosen]
    if face.width < MIN_FACE:
        raise NoFaceFound(
            f"The face is only {face.width:.0f} pixels wide in a picture of {picture_size[0]}x{picture_size[1]}; at "
            f"least {MIN_FACE} are needed. Use a larger picture, or one taken from nearer."
        )
    if len(faces) == 1:
        return face, ()
    taken = "the largest" if chosen == 0 else f"face {chosen}"
    note = f"{len(faces)} faces were found and {taken} was taken; choose another with --face {_choices(len(faces))}"
    return face, (note,)


def _choices(count: int) -> str:
    return "0" if count == 1 else f"0 to {count - 1}"


def _predictor_file() -> Path:
    """The predictor's data. Their package is located, not imported: importing it needs pkg_resources, which is gone."""
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder) / "models" / "shape_predictor_68_face_landmarks.dat"
        if file.is_file():
            return file
    raise ModelMissing(
        "The data of the face finder are missing. Run launch.sh again, or: pip install face_recognition_models"
    )


def _scaled(rgb: np.ndarray, scale: float) -> Any:
    """A contiguous copy at `scale`, smoothed when it gets smaller."""
    import cv2
    import numpy as np

    smaller = scale < 1
    size = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    return np.ascontiguousarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC))


def _distinct(boxes: list[tuple[tuple[float, ...], float]]) -> list[tuple[tuple[float, ...], float]]:
    """Without the second sighting of the same face: the surer of two boxes that lie on each other stays."""
    kept: list[tuple[tuple[float, ...], float]] = []
    for box, score in sorted(boxes, key=lambda found: found[1], reverse=True):
        if all(_overlap(box, other) < 0.5 for other, _ in kept):
            kept.append((box, score))
    return kept


def _apart(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Distance between the middles of two boxes, squared."""
    return (a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Shared area as a part of the smaller box, 0..1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(0.0, width) * max(0.0, height) / smaller
