"""The shape of head, hair and neck in a photo, found once per photo. Knows nothing of rendered frames.

GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH 2004) divides the person from the ground, told by the landmarks where a head must
and cannot be. What it finds is held between a small and a large head, and where it is not believable as a head at all, a
head-shaped ellipse takes its place; Silhouette.note says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from extensions.sadtalker.face import FaceFrame
from extensions.sadtalker.types import Box

RESOLUTION = 28
"""Cells of the raster per face unit (the distance between the eyes, as all lengths here): an ear is ten cells high."""

AROUND = (3.2, 3.4, 3.2, 4.0)  # face units left, above, right and below the eyes that are looked at
CROWN = 1.05  # from the eyes up to it, of that from the eyes down to the chin: they lie in the middle, and hair lies on top
ROUNDS = 6  # of GrabCut
SMALLEST, LARGEST = 0.9, 1.85  # no head ends inside the ellipse of one times the first, nor goes on outside that of the second
WORN = 1.35  # pieces inside it are worn on the head
TOO_LARGE, LEAKED = 2.3, 0.3  # area above the chin, of the ellipse's; share of what lies just inside the largest head
EDGED, DIFFERENT = 0.75, 10  # share of the outline at which colours differ, by as many levels

NOT_FOUND = "The outline of the head could not be told from what is behind it, so the moving part of the picture is an ellipse."


@dataclass(frozen=True)
class Silhouette:
    """outside: (h, w) float32, how far outside the head each cell of a raster over `box` lies, in face units; negative inside.

    Below the chin the head goes on as neck and body. found: False when it is the ellipse; note: what to tell the user, or "".
    """

    outside: np.ndarray
    box: Box
    found: bool

    @property
    def note(self) -> str:
        return "" if self.found else NOT_FOUND

    def at(self, points: np.ndarray) -> np.ndarray:
        """`outside` at (h, w, 2) points of the picture, bilinear; beyond the raster that of its border."""
        h, w = self.outside.shape
        scale = np.array([w / self.box.width, h / self.box.height], np.float32)
        at = (np.asarray(points, np.float32) - (self.box.left - 0.5, self.box.top - 0.5)).astype(np.float32) * scale - 0.5
        x, y = np.ascontiguousarray(at[..., 0]), np.ascontiguousarray(at[..., 1])
        return cv2.remap(self.outside, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True)
class Skull:
    """A head's expected shape in face units, after its landmarks. half: half its width at the cheeks."""

    centre: float
    half: float
    chin: float

    @classmethod
    def of(cls, face: np.ndarray) -> Skull:
        """face: (68, 2) landmarks in face units."""
        left, right = face[:17, 0].min(), face[:17, 0].max()
        return cls(float(left + right) / 2, float(right - left) / 2, float(face[8, 1]))

    def radius(self, at: np.ndarray) -> np.ndarray:
        """1 on the ellipse from the crown to the chin that a head with hair fills, less inside; at: (..., 2) face units."""
        middle, height = (1 - CROWN) / 2 * self.chin, (1 + CROWN) / 2 * self.chin
        return np.hypot((at[..., 0] - self.centre) / (1.18 * self.half), (at[..., 1] - middle) / height)

    def dome(self, at: np.ndarray) -> np.ndarray:
        """As `radius` above the head's middle; below it, where hair may hang, a column of the same width."""
        return self.radius(np.stack([at[..., 0], np.minimum(at[..., 1], (1 - CROWN) / 2 * self.chin)], axis=-1))


def find_silhouette(picture: np.ndarray, landmarks: np.ndarray) -> Silhouette:
    """The head in a (H, W, 3) uint8 RGB picture. landmarks: (68, 2) pixels. The same picture gives the same shape."""
    frame = FaceFrame.of(landmarks)
    box = _around(frame, picture.shape)
    size = [max(8, round(side * RESOLUTION / frame.iod)) for side in (box.width, box.height)]
    small = cv2.resize(picture[box.slices], size, interpolation=cv2.INTER_AREA if size[0] < box.width else cv2.INTER_LINEAR)
    at = frame.to_face(_cells(box, size))
    face = frame.to_face(landmarks)
    skull = Skull.of(face)
    head = _divide(small, at, face, skull)
    found = _believable(head, small, at, skull)
    if not found:
        head = (skull.radius(at) < 1.1) | _neck(at, skull)
    return Silhouette(_signed_distance(head) / RESOLUTION, box, found)


def _around(frame: FaceFrame, shape: tuple[int, ...]) -> Box:
    left, above, right, below = AROUND
    corners = frame.to_pixels(np.array([[-left, -above], [right, -above], [-left, below], [right, below]]))
    low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
    return Box(max(0, int(low[0])), max(0, int(low[1])), min(shape[1], int(high[0])), min(shape[0], int(high[1])))


def _cells(box: Box, size: list[int]) -> np.ndarray:
    """(h, w, 2) pixels of the picture at the cells' centres."""
    x = box.left - 0.5 + (np.arange(size[0]) + 0.5) * box.width / size[0]
    y = box.top - 0.5 + (np.arange(size[1]) + 0.5) * box.height / size[1]
    return np.stack(np.meshgrid(x, y), axis=-1)


def _divide(small: np.ndarray, at: np.ndarray, face: np.ndarray, skull: Skull) -> np.ndarray:
    """(h, w) bool: the person, as one piece without holes."""
    seeds = _seeds(at, face, skull)
    if np.isin(seeds, (cv2.GC_FGD, cv2.GC_PR_FGD)).all():
        return np.ones(seeds.shape, bool)  # a close-up without ground
    cv2.setRNGSeed(0)  # GrabCut's first guess is drawn by lot
    blurred = cv2.GaussianBlur(small, (0, 0), 1.0)  # brush strokes and grain are not edges
    cv2.grabCut(blurred, seeds, None, np.zeros((1, 65)), np.zeros((1, 65)), ROUNDS, cv2.GC_INIT_WITH_MASK)
    person = (seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD)
    person &= (skull.dome(at) < LARGEST) | (at[..., 1] > skull.chin)
    return _one_piece(person, skull.dome(at) < WORN)


def _seeds(at: np.ndarray, face: np.ndarray, skull: Skull) -> np.ndarray:
    x, y = at[..., 0] - skull.centre, at[..., 1]
    radius = skull.radius(at)
    seeds = np.full(radius.shape, cv2.GC_PR_BGD, np.uint8)
    seeds[(radius < 1.15) | ((y > skull.chin + 0.6) & (np.abs(x) < 1.2 + 0.8 * (y - skull.chin)))] = cv2.GC_PR_FGD
    seeds[(skull.dome(at) > LARGEST) & (y < skull.chin - 0.3)] = cv2.GC_BGD
    sure = _inside(np.vstack([face[:17] * (0.9, 0.97), face[26:16:-1] - (0, 0.25)]), at) | _neck(at, skull)
    seeds[sure | (radius < SMALLEST)] = cv2.GC_FGD
    return seeds


def _neck(at: np.ndarray, skull: Skull) -> np.ndarray:
    """Where there is a neck under every chin."""
    x, y = np.abs(at[..., 0] - skull.centre), at[..., 1]
    return (x < 0.45 * skull.half) & (y > skull.chin - 0.3) & (y < skull.chin + 0.5)


def _inside(polygon: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Which of (h, w, 2) points lie inside a (n, 2) polygon."""
    h, w = at.shape[:2]
    # A raster of points is an affine picture of the plane: three corners tell it.
    plane = np.column_stack([at[0, -1] - at[0, 0], at[-1, 0] - at[0, 0]]) / (w - 1, h - 1)
    cells = np.linalg.solve(plane, (polygon - at[0, 0]).T).T
    filled = np.zeros((h, w), np.uint8)
    cv2.fillPoly(filled, [np.round(cells).astype(np.int32)], 1)
    return filled.astype(bool)


def _one_piece(person: np.ndarray, head: np.ndarray) -> np.ndarray:
    """What of the person hangs together with its `head`, without thin spikes, holes, clefts and specks.

    A ribbon or a hat's brim may cut a head in pieces: all that lie mostly in `head` belong to it.
    """
    opened = cv2.morphologyEx(person.astype(np.uint8), cv2.MORPH_OPEN, _disc(0.12))
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(opened)
    within = np.bincount(pieces[head], minlength=count)
    kept = (within > 0.5 * stats[:, cv2.CC_STAT_AREA]) | (within == within[1:].max(initial=1))
    kept[0] = False
    piece = cv2.copyMakeBorder(kept[pieces].astype(np.uint8), *(RESOLUTION,) * 4, cv2.BORDER_REPLICATE)
    closed = cv2.morphologyEx(piece, cv2.MORPH_CLOSE, _disc(0.35))[RESOLUTION:-RESOLUTION, RESOLUTION:-RESOLUTION]
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(closed), contours, -1, 1, cv2.FILLED)
    return cv2.GaussianBlur(filled.astype(np.float32), (0, 0), 2.0) > 0.5


def _disc(radius: float) -> np.ndarray:
    """A structuring element of that radius in face units."""
    side = 2 * round(radius * RESOLUTION) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def _believable(head: np.ndarray, small: np.ndarray, at: np.ndarray, skull: Skull) -> bool:
    """Whether it has a head's size, has not leaked into the ground round it, and ends where something is to be seen."""
    above, dome = at[..., 1] < skull.chin, skull.dome(at)
    ring = (dome > 0.93 * LARGEST) & (dome < LARGEST) & (at[..., 1] < skull.chin - 0.5)
    grown = (head & above).sum() / max(1, ((skull.radius(at) < 1) & above).sum())
    leaked = head[ring].mean() if ring.any() else 0.0
    return bool(grown < TOO_LARGE and leaked < LEAKED and _edged(head, small, above) > EDGED)


def _edged(head: np.ndarray, small: np.ndarray, where: np.ndarray) -> float:
    """The share of the outline `where` the colours on its two sides differ."""
    out = _signed_distance(head)
    y, x = np.nonzero((np.abs(out) <= 1) & head & where)
    inner = (x > 3) & (y > 3) & (x < head.shape[1] - 4) & (y < head.shape[0] - 4)  # the picture's border is no outline
    at = np.stack([x[inner], y[inner]], -1)
    if len(at) < RESOLUTION:
        return 1.0
    slope = [cv2.Sobel(out, cv2.CV_32F, *order)[at[:, 1], at[:, 0]] for order in ((1, 0), (0, 1))]
    away = np.stack(slope, -1) / np.maximum(np.hypot(*slope), 1e-6)[:, None]
    colours = cv2.GaussianBlur(small, (0, 0), 1.5).astype(np.float32)
    sides = [cv2.remap(colours, (at + cells * away).astype(np.float32)[None], None, cv2.INTER_LINEAR)[0] for cells in (4, -3)]
    return float((np.abs(sides[0] - sides[1]).max(1) > DIFFERENT).mean())


def _signed_distance(inside: np.ndarray) -> np.ndarray:
    """(h, w) float32 cells to the border of a shape, negative inside."""
    shape = inside.astype(np.uint8)
    outer = cv2.distanceTransform(1 - shape, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    inner = cv2.distanceTransform(shape, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return outer - inner
