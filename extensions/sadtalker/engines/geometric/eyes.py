"""The eyes: an upper lid of the photo's own skin that is drawn down over the eye with its lashes, and small eye movements."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from extensions.sadtalker.engines.geometric.lines import lowest_line
from extensions.sadtalker.face import FaceFrame
from extensions.sadtalker.types import Box
from extensions.sadtalker.warp import curve, smoothstep

LASH_LINE = 0.03  # face units above the lid's edge that travel with it as they are
LASHES = 0.1  # face units above the edge that lashes of an open eye may reach: no skin is taken from there
UPPER_SHARE, LOWER_SHARE = 0.68, 0.22  # of the eye's opening that each lid covers in a blink; the lashes hide the rest
LASH_SHADOW = 0.3  # how much darker a shut lid is next to its lashes
BARE_BESIDE = -0.08, 0.02  # face units beyond the eye's corners over which the bare skin ends
CREASE = 0.75  # of the way from the lid to the brow: above it the skin does not follow the lid
RIM = 0.3  # darker than what lies round it by this share: spectacles, not a fold of skin
RIM_LENGTH, RIM_ABOVE = 0.5, 0.085  # face units: longer, and further above the lid, than lashes are
EYEBALL = 0.19  # radius in face units
CURVE_POINTS = 31


@dataclass(frozen=True)
class Eye:
    """One eye of one photo. All (h, w) arrays are over the pixels of `box`, distances in pixels along the face's down."""

    box: Box
    x: np.ndarray  # (h, w) float32 pixel columns of the canvas
    y: np.ndarray
    upper: np.ndarray  # distance of the upper lid's edge below the eye's axis
    lower: np.ndarray
    crease: np.ndarray  # where the lid's skin begins to stretch
    height: np.ndarray  # the pixel's own distance below the eye's axis
    inside: np.ndarray  # 0..1, how freely the eyeball may be moved there
    down: np.ndarray  # (2,) unit vector
    across: np.ndarray
    unit: float  # pixels per face unit
    skin: np.ndarray  # (h, w, 3) the box without lashes and fine detail, in the light of the skin round the eye
    lid: np.ndarray  # 0..1 where the lid's bare skin shows when it is shut
    rims: np.ndarray  # (h, w, 1) 0..1 where spectacles lie before the lid

    @classmethod
    def of(cls, canvas: np.ndarray, landmarks: np.ndarray, first: int, brow: slice) -> Eye:
        """first: index of the eye's outermost landmark at the picture's left (36 or 42); brow: its brow's landmarks."""
        frame = FaceFrame.of(landmarks)
        corner_a, corner_b = landmarks[first], landmarks[first + 3]
        across = (corner_b - corner_a) / np.hypot(*(corner_b - corner_a))
        down = np.array([-across[1], across[0]])
        grey = cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY).astype(np.float32)
        lid = curve(landmarks[first : first + 4], CURVE_POINTS)
        lid = lowest_line(grey, lid, frame, reach=0.035) + 0.012 * frame.iod * down
        under = curve(landmarks[[first, first + 5, first + 4, first + 3]], CURVE_POINTS)
        box = _region(canvas, frame, landmarks[first : first + 6])
        yy, xx = np.mgrid[box.top : box.bottom, box.left : box.right].astype(np.float32)
        along = (xx - corner_a[0]) * across[0] + (yy - corner_a[1]) * across[1]
        height = (xx - corner_a[0]) * down[0] + (yy - corner_a[1]) * down[1]

        def level(points: np.ndarray) -> np.ndarray:
            local = points - corner_a
            return np.interp(along, local @ across, local @ down).astype(np.float32)

        upper = level(lid)
        lower = np.maximum(level(under), upper)
        to_brow = float(np.median(upper)) - float(((landmarks[brow] - corner_a) @ down).mean())
        crease = upper - min(max(CREASE * to_brow, 0.1 * frame.iod), 0.4 * frame.iod)
        width = float(np.hypot(*(corner_b - corner_a)))
        beside = np.maximum(-along, along - width) / frame.iod
        bare = smoothstep(height - crease, 0.0, 0.16 * frame.iod) * (1 - smoothstep(beside, *BARE_BESIDE))
        rims = _rims(grey[box.slices], (upper - height) / frame.iod, frame.iod)
        opening = np.maximum(lower - upper, 1e-3)
        depth = np.clip((height - upper) / opening, 0, 1)
        inside = smoothstep(np.minimum(depth, 1 - depth), 0.0, 0.3) * (opening > 1)
        return cls(
            box, xx, yy, upper, lower, crease, height, inside.astype(np.float32), down, across, frame.iod,
            _bare_skin(canvas[box.slices], landmarks[first : first + 6] - (box.left, box.top), frame, rims),
            bare.astype(np.float32), rims,
        )  # fmt: skip

    def draw(self, canvas: np.ndarray, out: np.ndarray, blink: float, gaze: tuple[float, float]) -> None:
        """Write the eye's region of `out` from `canvas`. blink: 0 as in the photo .. 1 shut; gaze: x, y in radians."""
        opening = self.lower - self.upper
        edge = self.upper + UPPER_SHARE * blink * opening
        floor = self.lower - LOWER_SHARE * blink * opening
        eyeball = self._eyeball(canvas, gaze, floor)
        if blink > 0.01:
            lid = self._lid(canvas, edge, float(smoothstep(np.float64(blink), 0.0, 0.35)))
            alpha = np.clip((edge - self.height) / 1.5 + 0.5, 0, 1)[..., None] * (1 - self.rims)
            eyeball = cv2.convertScaleAbs(eyeball + alpha * (lid - eyeball))
        out[self.box.slices] = eyeball

    def _lid(self, canvas: np.ndarray, edge: np.ndarray, drawn: float) -> np.ndarray:
        """(h, w, 3) float32: the lid's skin down to `edge`. Once it is `drawn` (0..1), lashes that stood up are left out."""
        above = (edge - self.height) / self.unit
        lashes = self._stretched(self.upper - LASH_LINE * self.unit, edge - LASH_LINE * self.unit)
        carried = self._remap(canvas, np.where(above < LASH_LINE, self.height + self.upper - edge, lashes) - self.height)
        carried = carried.astype(np.float32)
        bare = self._remap(self.skin, self._stretched(self.upper - LASHES * self.unit, edge) - self.height, self.corner)
        bare = bare * (1 - LASH_SHADOW * np.exp(-np.clip(above, 0, None) / 0.035))[..., None]
        share = drawn * self.lid * smoothstep(above, 0.4 * LASH_LINE, 1.6 * LASH_LINE)
        return carried + share[..., None] * (bare - carried)

    def _stretched(self, foot: np.ndarray, foot_now: np.ndarray) -> np.ndarray:
        """Height that each pixel's skin comes from, when what was between the crease and `foot` now reaches `foot_now`."""
        foot = np.maximum(foot, self.crease + 0.02 * self.unit)
        share = (foot - self.crease) / np.maximum(foot_now - self.crease, 1e-3)
        return np.where(self.height < self.crease, self.height, self.crease + (self.height - self.crease) * share)

    def _eyeball(self, canvas: np.ndarray, gaze: tuple[float, float], floor: np.ndarray) -> np.ndarray:
        """The eye without its upper lid: the eyeball turned, the lower lid raised to `floor`."""
        rise = (self.lower - floor) * np.exp(-np.square((self.height - self.lower) / (0.12 * self.unit)))
        vertical = rise * (self.height > self.upper) - self.inside * gaze[1] * EYEBALL * self.unit
        return self._remap(canvas, vertical, sideways=-self.inside * gaze[0] * EYEBALL * self.unit)

    @property
    def corner(self) -> tuple[int, int]:
        return self.box.left, self.box.top

    def _remap(
        self, picture: np.ndarray, vertical: np.ndarray, origin: tuple[int, int] = (0, 0), sideways: np.ndarray | float = 0.0
    ) -> np.ndarray:
        """Pixels that lie (sideways, vertical) from each, in the eye's own axes. origin: of `picture` in the canvas."""
        x = self.x - origin[0] + vertical * np.float32(self.down[0]) + sideways * np.float32(self.across[0])
        y = self.y - origin[1] + vertical * np.float32(self.down[1]) + sideways * np.float32(self.across[1])
        return cv2.remap(picture, x.astype(np.float32), y.astype(np.float32), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def _region(canvas: np.ndarray, frame: FaceFrame, eye: np.ndarray) -> Box:
    h, w = canvas.shape[:2]
    low, high = eye.min(0) - (0.12, 0.42) * np.array(frame.iod), eye.max(0) + (0.12, 0.3) * np.array(frame.iod)
    left, top = np.clip(np.floor(low).astype(int), 0, (w - 2, h - 2))
    right, bottom = np.clip(np.ceil(high).astype(int), (left + 2, top + 2), (w, h))
    return Box(int(left), int(top), int(right), int(bottom))


def _rims(grey: np.ndarray, above: np.ndarray, iod: float) -> np.ndarray:
    """(h, w, 1) float32 0..1: spectacles' rims over the lid: dark lines, much longer than lashes are.

    grey: (h, w) round the eye; above: (h, w) face units from each pixel down to the lid's edge.
    The black-hat transform (closing less picture) shows dark lines whatever the skin.
    """
    width = max(3, int(0.16 * iod) | 1)
    closed = cv2.morphologyEx(grey, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
    dark = ((1 - grey / np.maximum(closed, 1) > RIM) & (above > RIM_ABOVE)).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(dark)
    long = [i for i in range(1, len(stats)) if stats[i, cv2.CC_STAT_WIDTH] > RIM_LENGTH * iod]
    mask = cv2.dilate(np.isin(labels, long).astype(np.float32), np.ones((3, 3)))
    return cv2.GaussianBlur(mask, (0, 0), max(0.6, 0.006 * iod))[..., None]


def _bare_skin(part: np.ndarray, eye: np.ndarray, frame: FaceFrame, rims: np.ndarray) -> np.ndarray:
    """The eye's surroundings with lashes and rims closed over and evened out, in a light between the socket's and the cheek's.

    part: (h, w, 3) uint8 RGB round the eye; eye: (6, 2) its landmarks in pixels of `part`.
    """
    smooth = _closed(part, 0.1 * frame.iod)
    if rims.any():
        near = cv2.dilate(rims[..., 0], np.ones((5, 5)))[..., None]
        smooth = cv2.convertScaleAbs(smooth + near * (_closed(part, 0.2 * frame.iod).astype(np.float32) - smooth))
    smooth = cv2.GaussianBlur(smooth, (0, 0), max(1.0, 0.02 * frame.iod))
    above = _patch(smooth, eye[1:3].mean(0) - 0.13 * frame.iod * frame.axes[1], frame.iod)
    below = _patch(smooth, eye[4:6].mean(0) + 0.2 * frame.iod * frame.axes[1], frame.iod)
    lid = (above + below) / 2
    lid *= np.clip(lid.mean() / max(above.mean(), 1), 0.95, 1.35) * above.mean() / max(lid.mean(), 1)
    return cv2.convertScaleAbs(lid * 0.45 + smooth * (0.55 * lid / np.maximum(above, 1)))


def _closed(canvas: np.ndarray, width: float) -> np.ndarray:
    """Dark details narrower than `width` pixels filled in with what lies round them."""
    side = max(3, int(width) | 1)
    return cv2.morphologyEx(canvas, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))


def _patch(picture: np.ndarray, at: np.ndarray, iod: float) -> np.ndarray:
    """(3,) median colour round a point."""
    x, y, r = int(at[0]), int(at[1]), max(1, int(0.07 * iod))
    part = picture[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1].reshape(-1, 3)
    return np.median(part, axis=0) if len(part) else np.full(3, 128.0)
