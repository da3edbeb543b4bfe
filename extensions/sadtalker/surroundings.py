"""How the picture round a head follows it: rigid with the head, softly along the neck, not at all far away.

The same idea as in engines/geometric/head.py, for a head that something else renders. Moves no pixels itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from extensions.sadtalker.face import FaceFrame
from extensions.sadtalker.silhouette import Skull
from extensions.sadtalker.turning import about_pivot, rotation
from extensions.sadtalker.types import Box, HeadMotion
from extensions.sadtalker.warp import Grid, smoothstep

NODES = 14  # of the grid per face unit (the distance between the eyes, as all lengths here)
ELLIPSE = (1.52, 2.1)  # the head's half axes: of half the cheeks' width, and down the face
STIFF, FREE = 0.95, 1.7  # the ellipse times these: rigid inside the first, still outside the second
BORDER = 0.3  # nothing beyond the picture is known, so movement towards its border and from it fades this near to it


@dataclass(frozen=True)
class Surroundings:
    """Built once per photo.

    grid:   nodes over the part of the picture that may move.
    solid:  (h, w, 3) float32, the nodes as points of the head, see turning.about_pivot.
    weight: (h, w, 2) float32, of movement along x and y: 1 on the head, 0 where nothing moves.
    """

    grid: Grid
    solid: np.ndarray
    weight: np.ndarray
    frame: FaceFrame

    @classmethod
    def of(cls, shape: tuple[int, ...], landmarks: np.ndarray, place: Box, reach: float = 1.0) -> Surroundings:
        """shape: of the picture; landmarks: (68, 2) in it; place: where frames belong, which the grid covers, too; reach: how far
        round the head the picture follows, 1 is normal.
        """
        frame = FaceFrame.of(landmarks)
        face = frame.to_face(landmarks)
        skull = Skull.of(face)
        axes = np.array([ELLIPSE[0] * skull.half, ELLIPSE[1]])
        grid = Grid(_reach(frame, skull, FREE * reach * axes, place, shape), max(2, round(frame.iod / NODES)))
        at = frame.to_face(grid.nodes)
        away = np.hypot((at[..., 0] - skull.centre) / axes[0], at[..., 1] / axes[1])
        weight = (1 - smoothstep(away, STIFF, FREE * reach))[..., None]
        weight = weight * smoothstep(_to_borders(grid.nodes, shape) / frame.iod, 0.0, BORDER)
        return cls(grid, about_pivot(at, face).astype(np.float32), weight.astype(np.float32), frame)

    def displacement(self, head: HeadMotion) -> np.ndarray:
        """(h, w, 2) float32 pixels: how far the picture moves at each node."""
        turned = self.solid @ rotation(np.array([head.yaw, head.pitch, head.roll]))[:2].T.astype(np.float32)
        moved = turned - self.solid[..., :2] + np.array([head.shift_x, head.shift_y], np.float32)
        return (self.frame.vectors(moved) * self.weight).astype(np.float32)

    def backward(self, displacement: np.ndarray, steps: int = 4) -> np.ndarray:
        """(h, w, 2) float32 pixels from each node to where what is seen there comes from. See Grid.backward_map."""
        offset = -displacement
        for _ in range(steps - 1):
            offset = -self.grid.sample(displacement, self.grid.nodes + offset)
        return offset


def _reach(frame: FaceFrame, skull: Skull, axes: np.ndarray, place: Box, shape: tuple[int, ...]) -> Box:
    """The smallest box round `place` and the ellipse in which anything moves."""
    spread = np.abs(frame.axes.T) @ axes * frame.iod  # of a tilted box, which holds the tilted ellipse
    centre = frame.to_pixels(np.array([skull.centre, 0.0]))
    low = np.minimum(np.floor(centre - spread), (place.left, place.top)).astype(int)
    high = np.maximum(np.ceil(centre + spread), (place.right, place.bottom)).astype(int)
    return Box(max(0, int(low[0])), max(0, int(low[1])), min(shape[1], int(high[0])), min(shape[0], int(high[1])))


def _to_borders(nodes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(h, w, 2) pixels from each node to the nearer of the picture's sides, and of its top and bottom, 0 beyond it."""
    return np.clip(np.minimum(nodes, (shape[1] - 1, shape[0] - 1) - nodes), 0, None)
