"""The mouth: two layers of skin cut along the line between the lips, and what is seen between them.

The upper layer (upper lip, and the teeth if the photo shows any) and the lower layer (lower lip, chin) move apart as two
smooth warps; beyond the corners of the mouth they are one. Teeth, tongue and cavity are drawn where they part.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from extensions.sadtalker.engines.geometric.interior import Interior
from extensions.sadtalker.engines.geometric.lines import lowest_line
from extensions.sadtalker.face import LOWER_INNER, UPPER_INNER, FaceFrame
from extensions.sadtalker.types import Box
from extensions.sadtalker.warp import Grid, curve, smoothstep, thin_plate

GRID_STEP = 4
SEAM_POINTS = 41
MOUTH = tuple(range(48, 68))
HANDLES = (*range(3, 14), *range(31, 36), *MOUTH)  # jaw, nostrils, lips
OPENING = 0.31  # face units between the inner lips at jaw 1
SHUT_AT_REST = 0.9  # how far lips that the photo has parted are shut in silence: a smile stays one
IDLE_JAW = 0.02  # lips stay shut while the jaw moves no more than this
UNSURE = 0.015  # landmarks of shut lips are apart by as much
PARTED = 0.04  # face units between the inner lips: above this the photo shows what is behind them


def _shape(**moves: tuple[float, float]) -> np.ndarray:
    """(68, 2) displacements from landmark names like p57=(x, y); mirrored partners follow by themselves."""
    out = np.zeros((68, 2))
    for name, (x, y) in moves.items():
        i = int(name[1:])
        out[i] = x, y
        out[MIRROR[i]] = -x if i != MIRROR[i] else x, y
    return out


MIRROR = {
    **{i: 16 - i for i in range(17)},
    **{i: 66 - i for i in range(31, 36)},
    **{48: 54, 49: 53, 50: 52, 51: 51, 59: 55, 58: 56, 57: 57, 60: 64, 61: 63, 62: 62, 67: 65, 66: 66},
}

# What each coefficient does to the landmarks at 1, in face units, x to the picture's right as seen on the left half.
# fmt: off
SHAPES = {
    "jaw": _shape(
        p48=(0.03, 0.095), p60=(0.03, 0.095), p49=(0.008, 0.015), p59=(0.0, 0.235), p58=(0.0, 0.285), p57=(0.0, 0.30),
        p67=(-0.015, 0.285), p66=(0.0, 0.305), p61=(0.0, -0.01), p62=(0.0, -0.012), p50=(0.0, -0.008), p51=(0.0, -0.01),
        p3=(0.0, 0.01), p4=(0.01, 0.05), p5=(0.01, 0.12), p6=(0.008, 0.195), p7=(0.0, 0.24), p8=(0.0, 0.26),
    ),
    "rounding": _shape(
        p48=(0.105, 0.0), p60=(0.10, 0.0), p49=(0.07, -0.016), p50=(0.025, -0.026), p51=(0.0, -0.028), p59=(0.07, 0.016),
        p58=(0.025, 0.03), p57=(0.0, 0.03), p61=(0.03, -0.012), p67=(0.03, 0.02), p62=(0.0, -0.014), p66=(0.0, 0.022),
        p31=(0.005, 0.0), p4=(0.01, 0.0), p5=(0.008, 0.0),
    ),
    "spreading": _shape(
        p48=(-0.10, -0.015), p60=(-0.10, -0.015), p49=(-0.06, 0.0), p50=(-0.02, 0.008), p51=(0.0, 0.01), p59=(-0.06, -0.005),
        p58=(-0.02, -0.012), p57=(0.0, -0.014), p61=(-0.05, 0.0), p67=(-0.05, 0.0), p4=(-0.025, 0.0), p5=(-0.015, 0.0),
    ),
    "press": _shape(
        p48=(-0.006, 0.003), p60=(-0.006, 0.003), p49=(0.0, 0.011), p50=(0.0, 0.016), p51=(0.0, 0.016), p59=(0.0, -0.012),
        p58=(0.0, -0.02), p57=(0.0, -0.021), p61=(0.0, 0.002), p62=(0.0, 0.002), p67=(0.0, -0.003), p66=(0.0, -0.003),
        p7=(0.0, -0.006), p8=(0.0, -0.008),
    ),
    "upper_lip": _shape(
        p49=(0.0, -0.035), p50=(0.0, -0.06), p51=(0.0, -0.05), p61=(0.0, -0.055), p62=(0.0, -0.055), p31=(-0.01, -0.012),
    ),
    "lower_lip": _shape(
        p59=(0.0, -0.02), p58=(0.0, -0.035), p57=(0.0, -0.04), p67=(0.007, -0.036), p66=(0.0, -0.04), p61=(0.0, -0.01),
        p62=(0.0, -0.012), p50=(0.0, -0.01), p51=(0.0, -0.012), p8=(0.0, -0.014),
    ),
}
# fmt: on


@dataclass(frozen=True)
class Layer:
    """One side of the cut: linear maps from displacements of the handles to its grid and to its edge of the seam."""

    to_grid: np.ndarray  # (h*w, n)
    to_seam: np.ndarray  # (SEAM_POINTS, n)


@dataclass(frozen=True)
class Mouth:
    """Opens, rounds, spreads and shuts the mouth of one photo. Built once per portrait."""

    grid: Grid
    frame: FaceFrame
    upper: Layer
    lower: Layer
    beyond: np.ndarray  # (h, w, 1) 0 between the corners .. 1 beyond them, where the layers are one
    below: np.ndarray  # (h, w, 1) 0 above .. 1 below the seam's continuation over the cheeks
    seam: np.ndarray  # (SEAM_POINTS, 2) pixels, from corner to corner
    gap: np.ndarray  # (68, 2) displacement in face units that shuts what the photo has parted
    own_opening: float  # how far the photo's lips are parted, face units; 0 when they are shut
    interior: Interior

    @classmethod
    def of(cls, canvas: np.ndarray, landmarks: np.ndarray) -> Mouth:
        """canvas: (H, W, 3) uint8 RGB; landmarks: (68, 2) pixels."""
        frame = FaceFrame.of(landmarks)
        face = frame.to_face(landmarks)
        grid = Grid(_region(canvas, frame, face), GRID_STEP)
        at = frame.to_face(grid.nodes)
        own_opening = max(_opening(face) - UNSURE, 0.0)
        parted = own_opening > PARTED
        seam = frame.to_face(teeth_line(canvas, landmarks, frame) if parted else lip_line(canvas, landmarks, frame))
        window = _window(grid)
        beyond, below = _cheeks(at, face, seam)
        return cls(
            grid, frame,
            _layer(face, at, window, seam, exclude=(55, 56, 57, 58, 59, 65, 66, 67)),
            _layer(face, at, window, seam, exclude=(49, 50, 51, 52, 53, 61, 62, 63)),
            beyond, below, frame.to_pixels(seam), _closing(face), own_opening,
            Interior.of(canvas, landmarks, own_opening, parted),
        )  # fmt: skip

    def displaced(self, c: dict[str, float]) -> np.ndarray:
        """(68, 2) landmark displacements in face units for one frame's coefficients."""
        jaw = max(c["jaw"] - IDLE_JAW, 0.0)
        own = self.own_opening / OPENING  # the photo's own opening is the first part of the jaw's way
        at_rest = max(1 - jaw / own, 0.0) if own else 0.0
        shut = float(np.clip(max(c["press"], SHUT_AT_REST * at_rest), 0, 1))
        lips, chin = max(jaw - own, 0.0) * (1 - shut), max(jaw - own, 0.0) * (1 - 0.45 * shut)
        out = SHAPES["jaw"] * lips
        out[:17] = SHAPES["jaw"][:17] * chin
        out = out + SHAPES["press"] * shut
        for name in ("rounding", "spreading", "upper_lip", "lower_lip"):
            out = out + SHAPES[name] * c[name]
        return out + self.gap * shut

    def draw(self, canvas: np.ndarray, out: np.ndarray, c: dict[str, float]) -> None:
        """Write the mouth's region of `out`, taken from `canvas`, with the mouth as `c` (coefficient name to value) says."""
        moves = self.frame.vectors(self.displaced(c)[list(HANDLES)]).astype(np.float32)
        up, low = ((layer.to_grid @ moves).reshape(*self.grid.shape, 2) for layer in (self.upper, self.lower))
        side = self.beyond * self.below
        upper = self._warp(canvas, up + side * (low - up))
        lower = self._warp(canvas, low + (self.beyond - side) * (up - low))
        top, bottom = self.seam + self.upper.to_seam @ moves, self.seam + self.lower.to_seam @ moves
        self.interior.draw(upper, self.grid.box, top, bottom, c, self.frame)
        self._lay_over(upper, lower, bottom)
        out[self.grid.box.slices] = upper

    def _warp(self, canvas: np.ndarray, displacement: np.ndarray) -> np.ndarray:
        source = self.grid.backward_map(displacement)
        return cv2.remap(canvas, source, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)

    def _lay_over(self, upper: np.ndarray, lower: np.ndarray, edge: np.ndarray) -> None:
        """Put the lower layer over the upper one below `edge` (its own edge of the seam)."""
        box = self.grid.box
        along = edge[-1] - edge[0]
        left, right = edge[0] - 0.2 * along, edge[-1] + 0.2 * along
        down = self.frame.vectors(np.array([0.0, 3.0]))
        outline = np.vstack([left, edge, right, right + down, left + down]) - (box.left, box.top)
        mask = np.zeros(upper.shape[:2], np.uint8)
        cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
        reach = slice(max(0, int(outline[:-2, 1].min()) - 6), None)
        alpha = cv2.GaussianBlur(mask[reach], (0, 0), max(0.6, 0.006 * self.frame.iod))
        upper[reach] = blend(upper[reach], lower[reach], alpha)


def blend(under: np.ndarray, over: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`over` on `under` by `alpha` (H, W) uint8; all pictures (H, W, 3) uint8."""
    a = cv2.merge([alpha, alpha, alpha]).astype(np.float32) * (1 / 255)
    return cv2.convertScaleAbs(under + a * (over.astype(np.float32) - under))


def _opening(face: np.ndarray) -> float:
    """Mean distance of the inner lips in face units."""
    return float(np.mean([face[low][1] - face[up][1] for up, low in ((61, 67), (62, 66), (63, 65))]))


def _region(canvas: np.ndarray, frame: FaceFrame, face: np.ndarray) -> Box:
    """All that the mouth's movement can reach: from the nose to below the chin, and the cheeks."""
    corners = np.array([[-1.25, 0.35], [1.25, 0.35], [-1.25, face[8, 1] + 1.0], [1.25, face[8, 1] + 1.0]])
    corners[:, 0] += face[51, 0] * 0.5
    pixels = frame.to_pixels(corners)
    h, w = canvas.shape[:2]
    left, top = np.clip(np.floor(pixels.min(0)).astype(int), 0, (w - 1, h - 1))
    right, bottom = np.clip(np.ceil(pixels.max(0)).astype(int), (left + 1, top + 1), (w, h))
    return Box(int(left), int(top), int(right), int(bottom))


def _anchors(face: np.ndarray) -> np.ndarray:
    """Points that never move: below the eyes, the ears' side, the neck."""
    x = np.linspace(-1.35, 1.35, 7) + 0.5 * face[51, 0]
    top, neck = np.c_[x, np.full(7, 0.3)], np.c_[x, np.full(7, face[8, 1] + 1.05)]
    sides = [(s * 1.5 + 0.5 * face[51, 0], y) for s in (-1, 1) for y in (0.7, 1.2, 1.7, 2.2)]
    return np.vstack([top, neck, sides])


def _layer(face: np.ndarray, at: np.ndarray, window: np.ndarray, seam: np.ndarray, exclude: tuple[int, ...]) -> Layer:
    """The thin-plate maps of one side; landmarks of the other side's lip (`exclude`) have no say.

    at: (h, w, 2) the grid's nodes in face units; window: (h, w, 1) 1 inside, 0 at the border of the region.
    """
    own = np.array([i not in exclude for i in HANDLES])
    handles = np.vstack([face[list(HANDLES)][own], _anchors(face)])

    def to(points: np.ndarray) -> np.ndarray:
        full = np.zeros((len(points), len(HANDLES)), np.float32)
        full[:, own] = thin_plate(handles, points)[:, : own.sum()]
        return full

    return Layer(to(at.reshape(-1, 2)) * window.reshape(-1, 1), to(seam))


def _cheeks(at: np.ndarray, face: np.ndarray, seam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How the two layers join beyond the corners: see Mouth.beyond and Mouth.below."""
    centre, half = (seam[0] + seam[-1]) / 2, (seam[-1, 0] - seam[0, 0]) / 2
    out = np.abs(at[..., 0] - centre[0]) / half
    thickness = 0.05 + 0.5 * np.clip(out - 1, 0, 1.5)
    level = np.interp(at[..., 0], [seam[0, 0], seam[-1, 0]], [seam[0, 1], seam[-1, 1]])
    below = smoothstep(at[..., 1] - level, -thickness, thickness)
    return smoothstep(out, 0.98, 1.18)[..., None].astype(np.float32), below[..., None].astype(np.float32)


def _window(grid: Grid) -> np.ndarray:
    h, w = grid.shape
    x = np.minimum(np.arange(w), np.arange(w)[::-1]) / w
    y = np.minimum(np.arange(h), np.arange(h)[::-1]) / h
    return (smoothstep(y, 0, 0.06)[:, None] * smoothstep(x, 0, 0.06))[..., None].astype(np.float32)


def _closing(face: np.ndarray) -> np.ndarray:
    """(68, 2) displacement that brings the photo's inner lips together."""
    out = np.zeros((68, 2))
    for up, low, outer_up, outer_low in ((61, 67, 50, 58), (62, 66, 51, 57), (63, 65, 52, 56)):
        gap = max(face[low][1] - face[up][1], 0.0)
        out[up, 1], out[low, 1] = 0.4 * gap, -0.6 * gap
        out[outer_up, 1], out[outer_low, 1] = 0.3 * gap, -0.5 * gap
    return out


def lip_line(canvas: np.ndarray, landmarks: np.ndarray, frame: FaceFrame) -> np.ndarray:
    """(SEAM_POINTS, 2) pixels: the dark line between shut lips."""
    middle = (landmarks[list(UPPER_INNER)] + landmarks[list(LOWER_INNER)]) / 2
    grey = cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return lowest_line(grey, curve(middle, SEAM_POINTS), frame, reach=0.07)


def teeth_line(canvas: np.ndarray, landmarks: np.ndarray, frame: FaceFrame) -> np.ndarray:
    """(SEAM_POINTS, 2) pixels: the lower lip's upper edge in a photo that shows teeth, where red begins."""
    rgb = cv2.GaussianBlur(canvas, (0, 0), max(0.8, 0.012 * frame.iod)).astype(np.float32)
    redness = (rgb[..., 0] - rgb[..., 1]) / (rgb.sum(-1) + 30)
    reddening = cv2.Sobel(redness, cv2.CV_32F, 0, 1, ksize=3)
    start = curve(landmarks[list(LOWER_INNER)], SEAM_POINTS)
    return lowest_line(-reddening, start, frame, reach=0.05) + 0.008 * frame.iod * frame.axes[1]
