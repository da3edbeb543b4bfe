"""Smooth warps: displacement fields on coarse grids, turned into backward maps and upsampled. Knows nothing of faces.

A field says for each node of a grid how far the picture moves there, in pixels. cv2.remap wants the opposite: for each pixel
of the result, where it comes from. Fields here are smooth and gentle (their gradient stays below 1), so a few fixed-point
steps p <- q - d(p) invert them, at the price of the coarse grid alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from extensions.sadtalker.types import Box


@dataclass(frozen=True)
class Grid:
    """Nodes `step` pixels apart that cover `box`, placed at cell centres so that cv2.resize by `step` lands on pixels."""

    box: Box
    step: int

    @property
    def shape(self) -> tuple[int, int]:
        """Nodes down and across."""
        return -(-self.box.height // self.step), -(-self.box.width // self.step)

    @cached_property
    def nodes(self) -> np.ndarray:
        """(h, w, 2) float32, x and y of each node in pixels of the canvas."""
        h, w = self.shape
        half = (self.step - 1) / 2
        return _mesh(self.box.left + half, self.box.top + half, w, h, self.step)

    @cached_property
    def pixels(self) -> np.ndarray:
        """(H, W, 2) float32, x and y of each pixel of the box."""
        return _mesh(self.box.left, self.box.top, self.box.width, self.box.height, 1)

    def sample(self, field: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Values of a (h, w, 2) field at (..., 2) points of the canvas, bilinear, the border's value outside."""
        half = (self.step - 1) / 2
        at = np.asarray(points, np.float32)
        x = np.ascontiguousarray((at[..., 0] - self.box.left - half) / self.step)
        y = np.ascontiguousarray((at[..., 1] - self.box.top - half) / self.step)
        if x.ndim == 1:
            return cv2.remap(field, x[None], y[None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
        return cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def backward_map(self, displacement: np.ndarray, steps: int = 4) -> np.ndarray:
        """(H, W, 2) float32 for cv2.remap: where each pixel of the box comes from, for a (h, w, 2) field on the nodes."""
        offset = -displacement
        for _ in range(steps - 1):
            offset = -self.sample(displacement, self.nodes + offset)
        h, w = self.shape
        fine = cv2.resize(offset, (w * self.step, h * self.step), interpolation=cv2.INTER_LINEAR)
        return self.pixels + fine[: self.box.height, : self.box.width]


def _mesh(left: float, top: float, width: int, height: int, step: int) -> np.ndarray:
    x = left + step * np.arange(width, dtype=np.float32)
    y = top + step * np.arange(height, dtype=np.float32)
    return np.stack(np.meshgrid(x, y), axis=-1)


def thin_plate(handles: np.ndarray, nodes: np.ndarray, smoothing: float = 1e-3) -> np.ndarray:
    """The linear map from displacements of `handles` (n, 2) to displacements at `nodes` (m, 2): an (m, n) float32 matrix.

    Bookstein, "Principal warps", 1989. Coordinates should be of the order of 1; `smoothing` keeps near-coincident handles apart.
    """

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        r2 = np.square(a[:, None] - b[None]).sum(-1)
        return r2 * np.log(r2 + 1e-12) / 2

    n = len(handles)
    plane = np.c_[np.ones(n), handles]
    system = np.zeros((n + 3, n + 3))
    system[:n, :n] = kernel(handles, handles) + smoothing * np.eye(n)
    system[:n, n:], system[n:, :n] = plane, plane.T
    weights = np.linalg.inv(system)[:, :n]
    at_nodes = np.c_[kernel(nodes, handles), np.ones(len(nodes)), nodes]
    return (at_nodes @ weights).astype(np.float32)


def smoothstep(x: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, a cubic between."""
    t = np.clip((x - low) / np.maximum(np.subtract(high, low), 1e-9), 0.0, 1.0)
    return t * t * (3 - 2 * t)


def curve(points: np.ndarray, count: int) -> np.ndarray:
    """`count` points of the Catmull-Rom spline through (n, 2) `points`, ends included."""
    p = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    at = np.linspace(0, len(points) - 1, count)
    i = np.minimum(at.astype(int), len(points) - 2)
    t = (at - i)[:, None]
    a, b, c, d = p[i], p[i + 1], p[i + 2], p[i + 3]
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
