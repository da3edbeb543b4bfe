"""Where a rendered head went really, told from its pixels. Its pose is the first guess, and stands where nothing can be seen.

A network turns a head by its own idea of its shape, and draws even the photo's own pose a little beside it. So the guess is
corrected, first as a pose, then by a smooth free-form deformation (Rueckert et al., IEEE TMI 1999), until the photo's rim of
the head lies on the frame's: Gauss-Newton steps with the photo's own gradients (Baker and Matthews, "Lucas-Kanade 20 years
on", IJCV 2004), for which all but a matrix product is done once per photo. Each frame stands alone: nothing is remembered
from one to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from extensions.sadtalker.surroundings import Surroundings
from extensions.sadtalker.types import HEAD, Box, HeadMotion

CELLS = 64  # of the raster on which photo and frame are compared, down and across
KNOTS = 6  # of the deformation, down and across
POSES = len(HEAD)
BLURS = ((4.0, 3), (2.0, 2), (1.0, 2))  # (cells of blur, steps): far first, then near
NOISE = 12.0  # levels by which a frame may differ from the photo without having moved
ASTRAY = HeadMotion(yaw=6.0, pitch=6.0, roll=4.0, shift_x=0.12, shift_y=0.12)  # by which a pose is off without reason
LOOSE, SMOOTH = 0.06, 0.03  # face units by which a knot strays from the pose, and from its neighbours, without reason
SURPRISE = 30.0  # levels: what differs by more is something else, not the same moved
MARGIN = 1.5  # cells at the frame's border that are not trusted


@dataclass(frozen=True)
class Scale:
    """The comparison at one blur. photo: (CELLS, CELLS) float32 grey; gain: residual to change of the correction; pull: the
    correction to its return."""

    photo: np.ndarray
    gain: np.ndarray
    pull: np.ndarray
    blur: float
    steps: int


@dataclass(frozen=True)
class Bases:
    """The ways in which a pose can be wrong, each moved by one deviation, on some raster of points.

    poses: (2 h w, 5) pixels along x, then along y; splines: over the raster's rows and columns;
    follows: (2, h, w) weight.
    """

    poses: np.ndarray
    splines: tuple[np.ndarray, np.ndarray]
    follows: np.ndarray

    @classmethod
    def of(cls, poses: np.ndarray, points: np.ndarray, place: Box, follows: np.ndarray) -> Bases:
        """poses: (5, h, w, 2); points: (h, w, 2) pixels, rows and columns of a raster; follows: (h, w, 2)."""
        down = _splines((points[:, 0, 1] - place.top + 0.5) / place.height)
        across = _splines((points[0, :, 0] - place.left + 0.5) / place.width)
        columns = np.ascontiguousarray(np.moveaxis(poses, -1, 1).reshape(len(poses), -1).T)
        return cls(columns, (down, across), np.moveaxis(follows, -1, 0))

    def moved(self, correction: np.ndarray) -> np.ndarray:
        """(h, w, 2) pixels."""
        down, across = self.splines
        pose, knots = correction[:POSES], correction[POSES:].reshape(2, KNOTS, KNOTS)
        bent = (down @ knots @ across.T) * self.follows + (self.poses @ pose).reshape(self.follows.shape)
        return np.moveaxis(bent, 0, -1)

    def matrix(self) -> tuple[np.ndarray, np.ndarray]:
        """(h w, n) along x and along y: what `moved` multiplies a correction with."""
        along_x, along_y = np.split(self.poses, 2)
        knots = np.einsum("yi,xj->yxij", *self.splines).reshape(len(along_x), -1)
        x, y = self.follows.reshape(2, -1, 1) * knots
        return np.hstack([along_x, x, 0 * y]), np.hstack([along_y, 0 * x, y])


@dataclass(frozen=True)
class Registration:
    """Built once per photo.

    points: (CELLS, CELLS, 2) raster(place), where place is what frames show; cells, nodes: the bases there and on the
    surroundings' grid.
    """

    surroundings: Surroundings
    points: np.ndarray
    place: Box
    cells: Bases
    nodes: Bases
    scales: tuple[Scale, ...]

    @classmethod
    def of(cls, picture: np.ndarray, place: Box, surroundings: Surroundings, trust: np.ndarray) -> Registration:
        """trust: (CELLS, CELLS) at raster(place), how much a cell's likeness counts."""
        grid, points = surroundings.grid, raster(place)
        poses = np.stack([surroundings.displacement(one) for one in _deviations()])
        nodes = Bases.of(poses, grid.nodes, place, surroundings.weight)
        at_cells = np.stack([grid.sample(pose, points) for pose in poses])
        cells = Bases.of(at_cells, points, place, grid.sample(surroundings.weight, points))
        scales = tuple(_scale(picture[place.slices], blur, steps, cells, trust, surroundings.frame.iod) for blur, steps in BLURS)
        return cls(surroundings, points, place, cells, nodes, scales)

    def refined(self, frame: np.ndarray, guess: np.ndarray) -> np.ndarray:
        """The displacement at the nodes, see Surroundings.displacement, of which `guess` is the pose's."""
        to_cells = np.array([CELLS / self.place.width, CELLS / self.place.height], np.float32)
        start = self.surroundings.grid.sample(guess, self.points) * to_cells + _mesh()
        correction = np.zeros(POSES + 2 * KNOTS**2, np.float32)
        small = _small(frame)
        for scale in self.scales:
            shown = cv2.GaussianBlur(small, (0, 0), scale.blur)
            for _ in range(scale.steps):
                at = start + self.cells.moved(correction) * to_cells
                seen = cv2.remap(shown, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
                inside = cv2.inRange(at, (MARGIN,) * 2, (CELLS - 1 - MARGIN,) * 2)
                residual = np.clip(cv2.subtract(scale.photo, seen, mask=inside), -SURPRISE, SURPRISE)
                correction += scale.gain @ residual.ravel() - scale.pull @ correction
        return guess + self.nodes.moved(correction)


def raster(place: Box) -> np.ndarray:
    """(CELLS, CELLS, 2) float32: the centres of the raster's cells in pixels of the picture."""
    x = place.left - 0.5 + (np.arange(CELLS, dtype=np.float32) + 0.5) * place.width / CELLS
    y = place.top - 0.5 + (np.arange(CELLS, dtype=np.float32) + 0.5) * place.height / CELLS
    return np.stack(np.meshgrid(x, y), axis=-1)


def _deviations() -> list[HeadMotion]:
    return [HeadMotion(**{name: getattr(ASTRAY, name)}) for name in HEAD]


def _mesh() -> np.ndarray:
    line = np.arange(CELLS, dtype=np.float32)
    return np.stack(np.meshgrid(line, line), axis=-1)


def _small(picture: np.ndarray) -> np.ndarray:
    small = cv2.resize(picture, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _splines(t: np.ndarray) -> np.ndarray:
    """(n, KNOTS) values of the uniform cubic B-splines at t, 0..1; beyond, those of the nearer end."""
    spans = KNOTS - 3
    at = np.clip(t, 0, 1) * spans
    u = np.abs(at[:, None] - (np.arange(KNOTS) - 1))
    near, far = 2 / 3 - np.square(u) + u**3 / 2, np.clip(2 - u, 0, None) ** 3 / 6
    return np.where(u < 1, near, far).astype(np.float32)


def _scale(crop: np.ndarray, blur: float, steps: int, cells: Bases, trust: np.ndarray, iod: float) -> Scale:
    """The normal equations, solved once: minimise |residual|^2 / NOISE^2 + stray, free of the frame's brightness and contrast."""
    photo = cv2.GaussianBlur(_small(crop), (0, 0), blur)
    dx = cv2.Sobel(photo, cv2.CV_32F, 1, 0, ksize=3, scale=CELLS / crop.shape[1] / 8).reshape(-1, 1)
    dy = cv2.Sobel(photo, cv2.CV_32F, 0, 1, ksize=3, scale=CELLS / crop.shape[0] / 8).reshape(-1, 1)
    along_x, along_y = cells.matrix()
    light = np.stack([np.ones(photo.size), photo.ravel() - photo.mean()], -1)
    slopes = np.hstack([along_x * dx + along_y * dy, light]).astype(np.float64)
    weighed = slopes.T * (trust.ravel() / NOISE**2)
    stray = np.zeros((slopes.shape[1],) * 2)
    stray[:POSES, :POSES] = np.eye(POSES)
    knots = (np.eye(KNOTS**2) / LOOSE**2 + _roughness() / SMOOTH**2) / iod**2
    stray[POSES:-2, POSES:-2] = np.kron(np.eye(2), knots)
    system = weighed @ slopes + stray + 1e-9 * np.eye(len(stray))
    gain, pull = np.linalg.solve(system, weighed), np.linalg.solve(system, stray)
    return Scale(photo, gain[:-2].astype(np.float32), pull[:-2, :-2].astype(np.float32), blur, steps)


def _roughness() -> np.ndarray:
    """(KNOTS^2, KNOTS^2): the sum of squares of the differences between neighbours."""
    difference = np.diff(np.eye(KNOTS), axis=0)
    line = difference.T @ difference
    return np.kron(line, np.eye(KNOTS)) + np.kron(np.eye(KNOTS), line)
