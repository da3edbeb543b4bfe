"""What is seen between parted lips: cavity, upper and lower teeth, tongue, in the light of the photo."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from extensions.sadtalker.face import FaceFrame
from extensions.sadtalker.types import Box
from extensions.sadtalker.warp import smoothstep

# Widths of the upper teeth from the middle outwards, in face units (an inter-ocular distance is about 63 mm).
UPPER_TEETH = (0.132, 0.104, 0.112, 0.09, 0.08)
LOWER_TEETH = (0.082, 0.09, 0.098, 0.09, 0.085)
CROWN = 0.15  # height of a crown
TEETH_BELOW_LIP = 0.045
ENAMEL, GUM = np.array([236, 228, 214], np.float32), np.array([176, 96, 96], np.float32)
CAVITY, TONGUE = np.array([52, 18, 20], np.float32), np.array([186, 92, 92], np.float32)


@dataclass(frozen=True)
class Interior:
    """Textures in face units, already in the photo's light; placed per frame.

    upper, lower: (h, w, 4) float32 RGBA strips of teeth, alpha 0..1; pixels_per_unit: their scale.
    """

    upper: np.ndarray
    lower: np.ndarray
    scale: float
    light: np.ndarray  # (3,) factor on colours
    own_teeth: bool  # the photo shows what is behind the lips; it travels with the upper lip's layer
    protrusion: float  # how far the drawn upper teeth reach below the upper layer's edge, face units

    @classmethod
    def of(cls, canvas: np.ndarray, landmarks: np.ndarray, own_opening: float, parted: bool) -> Interior:
        """canvas: (H, W, 3) uint8 RGB; landmarks: (68, 2) pixels; parted: the photo shows teeth.

        own_opening: between the photo's lips, face units.
        """
        frame = FaceFrame.of(landmarks)
        light = photo_light(canvas, landmarks)
        scale = frame.iod
        return cls(
            teeth(UPPER_TEETH, scale, light, upper=True), teeth(LOWER_TEETH, scale, 0.8 * light, upper=False),
            scale, light, parted, max(TEETH_BELOW_LIP - 0.6 * own_opening, 0.0),
        )  # fmt: skip

    def draw(
        self, picture: np.ndarray, box: Box, top: np.ndarray, bottom: np.ndarray, c: dict[str, float], frame: FaceFrame
    ) -> None:
        """Paint the opening into `picture` (the pixels of `box`).

        top, bottom: (n, 2) pixels of the canvas, the upper and the lower layer's edge from corner to corner.
        """
        top, bottom = top - (box.left, box.top), bottom - (box.left, box.top)
        if (bottom[:, 1] - top[:, 1]).max() < 0.75:
            return
        outline = np.vstack([top, np.maximum(bottom, top)[::-1]])
        margin = 4
        (x0, y0), (x1, y1) = np.floor(outline.min(0)).astype(int) - margin, np.ceil(outline.max(0)).astype(int) + margin
        x0, y0 = max(x0, 0), max(y0, 0)
        patch = picture[y0:y1, x0:x1]
        if not patch.size:
            return
        mask = np.zeros(patch.shape[:2], np.uint8)
        cv2.fillPoly(mask, [np.round((outline - (x0, y0)) * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
        mask = cv2.GaussianBlur(mask, (0, 0), max(0.6, 0.006 * frame.iod))
        inside = self._paint(patch.shape[:2], top - (x0, y0), bottom - (x0, y0), c, frame)
        a = (mask.astype(np.float32) / 255)[..., None]
        patch[:] = cv2.convertScaleAbs(patch + a * (inside - patch))

    def _paint(
        self, shape: tuple[int, int], top: np.ndarray, bottom: np.ndarray, c: dict[str, float], frame: FaceFrame
    ) -> np.ndarray:
        """(h, w, 3) float32: all that lies behind the lips, without regard to where they part."""
        h, w = shape
        yy, xx = np.mgrid[0:h, 0:w].astype(np.float32)
        columns = np.arange(w, dtype=np.float32)
        upper_edge = np.interp(columns, top[:, 0], top[:, 1])
        lower_edge = np.interp(columns, bottom[:, 0], bottom[:, 1])
        middle, half = (top[0] + top[-1]) / 2, max(np.hypot(*(top[-1] - top[0])) / 2, 1.0)
        opening = max(float((bottom[:, 1] - top[:, 1]).max()), 1.0)
        across = np.clip(np.abs(xx - middle[0]) / half, 0, 1.2)
        picture = np.broadcast_to(CAVITY * self.light, (h, w, 3)).astype(np.float32)
        picture = picture * (1 - 0.5 * np.square(across))[..., None]
        picture = self._tongue(picture, xx, yy, middle, half, lower_edge, opening, c)
        tilt = float(np.degrees(np.arctan2(frame.axes[0, 1], frame.axes[0, 0])))
        if not self.own_teeth:
            lift = 0.35 * c["upper_lip"] * 0.06 - 0.05 * c["rounding"]
            at = np.array([middle[0], float(np.median(upper_edge[w // 3 : 2 * w // 3 + 1]))])
            self._lay(picture, self.upper, at + frame.vectors(np.array([0.0, self.protrusion - lift])), tilt, foot=1.0)
        at = np.array([middle[0], float(np.median(lower_edge[w // 3 : 2 * w // 3 + 1]))])
        self._lay(picture, self.lower, at + frame.vectors(np.array([0.0, 0.012])), tilt, foot=0.15)
        shade = 0.6 + 0.4 * smoothstep((yy - upper_edge) / frame.iod, -0.01, 0.04)
        corners = 1 - 0.55 * smoothstep(across, 0.6, 1.05)
        return picture * (shade * corners)[..., None]

    def _tongue(
        self, picture: np.ndarray, xx: np.ndarray, yy: np.ndarray, middle: np.ndarray, half: float,
        lower_edge: np.ndarray, opening: float, c: dict[str, float],
    ) -> np.ndarray:  # fmt: skip
        """The tongue lies on the lower teeth; its tip rises with the coefficient of that name."""
        rise = 0.42 + 0.4 * c["tongue"]
        u = (xx - middle[0]) / (0.62 * half)
        surface = lower_edge - opening * rise * np.sqrt(np.clip(1 - np.square(u), 0, 1))
        inside = smoothstep((yy - surface) / max(0.08 * self.scale, 1), 0.0, 1.0) * (np.abs(u) < 1)
        groove = 1 - 0.18 * np.exp(-np.square(u / 0.12))
        colour = TONGUE * self.light * (0.75 * groove)[..., None]
        return picture + inside[..., None] * (colour - picture)

    def _lay(self, picture: np.ndarray, strip: np.ndarray, at: np.ndarray, tilt: float, foot: float) -> None:
        """Composite a strip of teeth with the point (middle, `foot` of its height) at `at`, turned by `tilt` degrees."""
        h, w = picture.shape[:2]
        place = cv2.getRotationMatrix2D((strip.shape[1] / 2, foot * strip.shape[0]), -tilt, 1.0)
        place[:, 2] += at - (strip.shape[1] / 2, foot * strip.shape[0])
        placed = cv2.warpAffine(strip, place, (w, h), flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0, 0))
        picture += placed[..., 3:] * (placed[..., :3] - picture)


def photo_light(canvas: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(3,) factor for colours meant for bright neutral light, from the whites of the eyes and the skin of the cheeks."""
    mask = np.zeros(canvas.shape[:2], np.uint8)
    for eye in (landmarks[36:42], landmarks[42:48]):
        cv2.fillPoly(mask, [np.round(eye).astype(np.int32)], 255)
    whites = canvas[mask > 0].astype(np.float32)
    cheeks = np.zeros_like(mask)
    for i, j in ((2, 31), (14, 35), (3, 48), (13, 54)):
        centre = landmarks[i] * 0.4 + landmarks[j] * 0.6
        cv2.circle(cheeks, tuple(int(v) for v in np.round(centre)), max(2, int(0.1 * FaceFrame.of(landmarks).iod)), 255, -1)
    skin = np.median(canvas[cheeks > 0].astype(np.float32), axis=0) if cheeks.any() else np.full(3, 180.0)
    brightness = np.percentile(whites.mean(1), 92) / 205 if len(whites) > 8 else 0.8
    brightness = float(np.clip(max(brightness, 0.8 * skin.mean() / 190), 0.3, 1.0))
    tint = skin / np.array([205.0, 165.0, 145.0])
    tint = np.clip(tint / tint.mean(), 0.75, 1.3)
    return (brightness * (0.6 + 0.4 * tint)).astype(np.float32)


def teeth(widths: tuple[float, ...], scale: float, light: np.ndarray, *, upper: bool) -> np.ndarray:
    """(h, w, 4) float32 RGBA strip of both halves of a jaw, crowns hanging down (upper) or standing up.

    widths: of the teeth from the middle outwards in face units; scale: pixels per unit.
    """
    fine = 4  # drawn finer, then averaged down: clean edges
    ppu = scale * fine
    height, half = int(CROWN * 1.25 * ppu), int(sum(widths) * ppu)
    yy, xx = np.mgrid[0:height, 0 : 2 * half].astype(np.float32)
    y = (yy if upper else height - 1 - yy) / ppu
    alpha, shade = np.zeros((height, 2 * half), np.float32), np.zeros((height, 2 * half), np.float32)
    left = 0.0
    for n, width in enumerate(widths):
        centre, foreshortened = left + width / 2, 1 - 0.05 * n
        length = CROWN * 1.25 - (0.0, 0.012, 0.004, 0.018, 0.028)[n] - (0 if upper else 0.01 * (n == 0))
        for side in (-1, 1):
            u = np.abs((xx - half) / ppu * side - centre) / (width / 2)
            edge = length - 0.022 * np.clip(u, 0, 1) ** 4 - 0.004 * np.square(np.clip(u, 0, 1))
            inside = smoothstep(edge - y, 0.0, 0.008) * (1 - smoothstep(u, 0.94, 1.02))
            lit = foreshortened * (1 - 0.16 * np.clip(u, 0, 1) ** 4) * (0.9 + 0.1 * smoothstep(y, 0.02, 0.12))
            shade = np.where(inside > alpha, lit, shade)
            alpha = np.maximum(alpha, inside)
        left += width
    between = smoothstep(CROWN * 1.25 - 0.03 - y, 0, 0.02)[..., None]  # behind the gaps: shadowed enamel, not a hole
    base = np.where(alpha[..., None] > 0.05, ENAMEL * shade[..., None], ENAMEL * 0.55)
    rgb = ENAMEL * 0.6 + alpha[..., None] * (base - ENAMEL * 0.6)
    solid = np.maximum(alpha, 0.9 * between[..., 0])
    strip = np.dstack([rgb * light, solid]).astype(np.float32)
    return cv2.resize(strip, None, fx=1 / fine, fy=1 / fine, interpolation=cv2.INTER_AREA)
