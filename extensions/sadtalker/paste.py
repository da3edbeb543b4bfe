"""Puts a rendered head into the photo that it was cut from, without a box. Renders nothing; asks no frame but the one at hand.

The network saw only a square round the face. Its frame is shown inside a soft mask in the shape of head, hair and neck that
moves with the head (silhouette.py); round it the photo itself is bent along, so that hair, neck and shoulders go on where the
frame ends (surroundings.py), as far as the frame's own pixels say (register.py). Further away the pixels are the photo's own.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from extensions.sadtalker.face import FaceFrame
from extensions.sadtalker.register import Registration, raster
from extensions.sadtalker.silhouette import Silhouette, Skull, find_silhouette
from extensions.sadtalker.surroundings import Surroundings
from extensions.sadtalker.types import Box, HeadMotion
from extensions.sadtalker.warp import smoothstep

GROWN, FADED = 0.04, 0.3  # face units outside the silhouette: where the frame begins to fade, and is gone
NECK = (0.4, 1.3)  # down from the chin: the same along the neck
MARGIN, FEATHER = 0.08, 0.32  # inwards from the frame's border: not shown (more than a node of the grid), and faded
ENLARGED = 150  # pixels between the eyes up to which the photo is bent at twice its size
BAND, TILE = 6, 12  # nodes; pieces have at most so many rows and columns: what a turned piece reads stays in the cache
STEADY = 0.015  # standard deviation of a colour, of full scale, that is too small to judge a change by
TINT = 0.5  # no network's tint is as strong; what differs more is no picture of the photo


class Paste:
    """Built once per clip; keeps its buffers, so a Paste serves one clip at a time."""

    def __init__(
        self, picture: np.ndarray, place: Box, landmarks: np.ndarray, rest: np.ndarray | None = None, reach: float = 1.0
    ) -> None:
        """picture: (H, W, 3) uint8 RGB; place: where frames belong in it; landmarks: (68, 2) in it; rest: the frame that the
        network draws of the photo's own pose, by which its colours are matched once; reach: see Surroundings.
        """
        self.silhouette = find_silhouette(picture, landmarks)
        self._around = around = Surroundings.of(picture.shape, landmarks, place, reach)
        nodes, points = around.grid.nodes, raster(place)
        self._mask = head_mask(self.silhouette, landmarks, nodes)
        self._fade = _fade(nodes, place, picture.shape, around.frame.iod)
        self._changes = around.weight.any(-1) | (self._mask * self._fade > 0)
        mask = head_mask(self.silhouette, landmarks, points) * _fade(points, place, picture.shape, around.frame.iod)
        self._registration = Registration.of(picture, place, around, _trust(mask, points, landmarks))
        self._colours = None if rest is None else match_colours(rest, picture[place.slices], mask)
        self._times = 2 if around.frame.iod <= ENLARGED else 1
        self._source = _enlarged(picture[around.grid.box.slices], self._times)
        self._allocate(picture, place)

    def _allocate(self, picture: np.ndarray, place: Box) -> None:
        """What is renewed with every frame."""
        grid, step = self._around.grid, self._around.grid.step
        box, (down, across) = grid.box, grid.shape
        self._whole = picture.copy()
        self._part = self._whole[box.slices]
        # With a node more on every side, as nothing is known of a line beyond its last point.
        x, y = (np.arange(count + 2, dtype=np.float32) * step - (step + 1) / 2 for count in (across, down))
        self._nodes = np.stack(np.meshgrid(x, y), -1)
        self._at = np.empty(((down + 2) * step, (across + 2) * step, 2), np.float32)
        self._from = self._at[step : step + box.height, step : step + box.width]
        self._mask_fine = np.empty((down * step, across * step), np.uint8)
        self._bent = np.empty((BAND * step, TILE * step, 4), np.uint8)
        self._over, self._under = (np.empty((BAND * step, TILE * step, 3), np.uint8) for _ in range(2))
        self._shown = self._part.copy()
        self._square = self._shown[place.top - box.top : place.bottom - box.top, place.left - box.left : place.right - box.left]

    def put(self, frame: np.ndarray, head: HeadMotion) -> np.ndarray:
        """The whole picture with that frame's head, (H, W, 3) uint8 RGB: always the same array, so use it before the next.

        frame: (h, w, 3) uint8 RGB, shows `place` at any size; head: where the network was told to hold the head.
        """
        if self._colours is not None:
            frame = cv2.transform(frame, self._colours)
        around = self._around
        offset = around.backward(self._registration.refined(frame, around.displacement(head)))
        mask = around.grid.sample(self._mask, around.grid.nodes + offset) * self._fade
        self._bend(offset, _nearby((mask < 1) & self._changes))
        self._blend(frame, mask)
        return self._whole

    def _bend(self, offset: np.ndarray, seen: np.ndarray) -> None:
        """Bends the photo round the head. seen: (h, w) bool, nodes where it may change and is not hidden."""
        came = self._nodes + cv2.copyMakeBorder(offset, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        cv2.resize(self._times * came, self._at.shape[1::-1], dst=self._at, interpolation=cv2.INTER_LINEAR)
        for part in self._runs(seen, np.logical_or):
            there = self._part[part]
            bent = self._bent[: there.shape[0], : there.shape[1]]
            # Maps of whole numbers (cv2.convertMaps) and three channels each take longer.
            cv2.remap(self._source, self._from[part], None, cv2.INTER_LINEAR, dst=bent, borderMode=cv2.BORDER_REFLECT_101)
            cv2.cvtColor(bent, cv2.COLOR_RGBA2RGB, dst=there)

    def _blend(self, frame: np.ndarray, mask: np.ndarray) -> None:
        """Lays the frame over it."""
        cv2.resize(cv2.convertScaleAbs(mask, alpha=255), self._mask_fine.shape[1::-1], dst=self._mask_fine)
        how = cv2.INTER_AREA if frame.shape[1] > self._square.shape[1] else cv2.INTER_CUBIC
        cv2.resize(frame, self._square.shape[1::-1], dst=self._square, interpolation=how)
        other, shown = _nearby(mask < 1), _nearby(mask > 0)
        for part in self._runs(~other, np.logical_and):
            self._part[part] = self._shown[part]
        for part in self._runs(other & shown, np.logical_or):
            self._mix(self._part[part], self._shown[part], self._mask_fine[part])

    def _mix(self, there: np.ndarray, shown: np.ndarray, mask: np.ndarray) -> None:
        """Into `there`, in whole numbers: less than half the time of cv2.blendLinear, and a level from it."""
        height, width = there.shape[:2]
        over, under = self._over[:height, :width], self._under[:height, :width]
        cv2.cvtColor(mask[:height, :width], cv2.COLOR_GRAY2RGB, dst=over)
        cv2.bitwise_not(over, dst=under)
        cv2.multiply(shown, over, dst=over, scale=1 / 255)
        cv2.multiply(there, under, dst=under, scale=1 / 255)
        cv2.add(over, under, dst=there)

    def _runs(self, nodes: np.ndarray, in_band: np.ufunc) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of pixels: for each band of the (h, w) marked nodes, the runs of columns marked in any or all rows."""
        step = self._around.grid.step
        bands = in_band.reduceat(nodes, range(0, len(nodes), BAND), axis=0)
        ends = np.argwhere(np.diff(np.pad(bands, ((0, 0), (1, 1)))))
        for (band, start), (_, stop) in ends.reshape(-1, 2, 2).tolist():
            rows = slice(band * BAND * step, (band + 1) * BAND * step)
            for left in range(start, stop, TILE):
                yield rows, slice(left * step, min(left + TILE, stop) * step)


def head_mask(silhouette: Silhouette, landmarks: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(h, w) float32 at (h, w, 2) points of the picture: 1 where the frame is shown, 0 where the photo is."""
    frame = FaceFrame.of(landmarks)
    chin = Skull.of(frame.to_face(landmarks)).chin
    down = frame.to_face(points)[..., 1]
    mask = 1 - smoothstep(silhouette.at(points), GROWN, FADED)
    return (mask * (1 - smoothstep(down, chin + NECK[0], chin + NECK[1]))).astype(np.float32)


def match_colours(rest: np.ndarray, photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(3, 4) float32 for cv2.transform: turns the colours of the frame `rest` into those of the photo, by least squares where
    `mask` is. Little is believed on little evidence: a grey picture does not tell what becomes of red.
    """
    size = mask.shape[::-1]
    drawn, true = (cv2.resize(side, size, interpolation=cv2.INTER_AREA).reshape(-1, 3) / 255.0 for side in (rest, photo))
    known = np.hstack([drawn, np.ones((len(drawn), 1))])
    weight = mask.reshape(-1, 1)
    same = np.eye(3, 4)
    for _ in range(3):
        weighed = known.T * weight.T
        system = weighed @ known / weight.sum() + STEADY**2 * np.diag([1, 1, 1, 0.01])
        change = np.linalg.solve(system, weighed @ (true - drawn) / weight.sum()).T
        wrong = np.abs(true - known @ (same + change).T).max(1, keepdims=True)
        weight = mask.reshape(-1, 1) / (1 + np.square(wrong / 0.06))
    found = same + change if np.abs(change).max() < TINT else same
    return (found * [1, 1, 1, 255]).astype(np.float32)


def _fade(points: np.ndarray, place: Box, shape: tuple[int, ...], iod: float) -> np.ndarray:
    """(h, w) float32: 0 from the frame's border outwards, 1 well inside. Where the picture ends, too, the frame does not fade."""
    x, y = points[..., 0], points[..., 1]
    sides = (
        (x - place.left, place.left <= 0), (place.right - 1 - x, place.right >= shape[1]),
        (y - place.top, place.top <= 0), (place.bottom - 1 - y, place.bottom >= shape[0]),
    )  # fmt: skip
    fade = np.ones(x.shape, np.float32)
    for inward, at_border in sides:
        if not at_border:
            fade *= smoothstep(inward / iod, MARGIN, MARGIN + FEATHER).astype(np.float32)
    return fade


def _trust(mask: np.ndarray, points: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(CELLS, CELLS): where the frame must lie on the photo. Most at the rim; not at all where lips, jaw and lids move."""
    frame = FaceFrame.of(landmarks)
    at, face = frame.to_face(points), frame.to_face(landmarks)
    mouth = face[48:68].mean(0) + (0, 0.15)
    moving = np.exp(-(np.square((at - mouth) / (0.6, 0.65)).sum(-1) ** 2))
    for eye in (slice(36, 42), slice(42, 48)):
        moving = np.maximum(moving, np.exp(-np.square((at - face[eye].mean(0)) / (0.4, 0.25)).sum(-1)))
    return (0.15 * mask + 4 * mask * (1 - mask)) * (1 - moving)


def _nearby(nodes: np.ndarray) -> np.ndarray:
    """(h, w) bool: these nodes and their neighbours, between which values are interpolated."""
    return cv2.dilate(nodes.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)


def _enlarged(part: np.ndarray, times: int) -> np.ndarray:
    """(times h, times w, 4) uint8, cubic, with the picture's own pixels where they fall.

    Linear sampling of twice the picture is as sharp as cubic sampling of it and takes a third of the time; four channels take
    half that of three.
    """
    h, w = part.shape[:2]
    # Not cv2.resize, by which no pixel falls on its own place.
    onto = np.array([[times, 0, 0], [0, times, 0]], np.float64)
    fine = cv2.warpAffine(part, onto, (times * w, times * h), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    fine[::times, ::times] = part
    return cv2.cvtColor(fine, cv2.COLOR_RGB2RGBA)
