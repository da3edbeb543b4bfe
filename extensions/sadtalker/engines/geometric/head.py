"""The head's pose: the photo is laid over a head-shaped surface, turned, and the neck and surroundings follow softly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from extensions.sadtalker.face import FaceFrame
from extensions.sadtalker.turning import NECK_PIVOT, bump, head_depth, sides
from extensions.sadtalker.types import Portrait
from extensions.sadtalker.warp import Grid, smoothstep

GRID_STEP = 8  # pixels; the pose is smooth, so nodes this far apart cost no visible accuracy
BROW_LIFT = 0.06  # face units (distances between the eyes)
STIFF, FREE = 0.95, 1.7  # the head's ellipse times these: rigid inside the first, untouched outside the second
BORDER = 0.6  # nothing beyond the canvas is known, so movement fades this near to its border


@dataclass(frozen=True)
class HeadPose:
    """Moves the canvas with the head. Built once per portrait."""

    grid: Grid
    units: np.ndarray  # (h, w, 2) nodes in face units about the pivot of roll
    depth: np.ndarray  # (h, w) towards the viewer, in face units
    weight: np.ndarray  # (h, w, 1) 1 on the head, 0 where nothing moves
    brows: np.ndarray  # (h, w, 1) how much a node follows the brows
    frame: FaceFrame

    @classmethod
    def of(cls, portrait: Portrait) -> HeadPose:
        landmarks, view = portrait.landmarks, portrait.view
        frame = FaceFrame.of(landmarks)
        grid = Grid(view, GRID_STEP)
        at, face = frame.to_face(grid.nodes), frame.to_face(landmarks)
        centre, half_width = sides(face)
        x, y = at[..., 0] - centre, at[..., 1]
        depth = head_depth(at, face)
        away = np.hypot(x / (1.25 * half_width), y / 2.1)
        weight = 1 - smoothstep(away, STIFF, FREE * portrait.reach)
        weight *= smoothstep(_to_border(grid.nodes, portrait.canvas.shape) / frame.iod, 0.0, BORDER)
        brows = sum(bump(at - face[brow].mean(0) + (0, 0.06), 0.38, 0.2) for brow in (slice(17, 22), slice(22, 27)))
        return cls(
            grid,
            np.stack([x, y - NECK_PIVOT], -1).astype(np.float32),
            depth.astype(np.float32),
            weight[..., None].astype(np.float32),
            np.clip(brows, 0, 1)[..., None].astype(np.float32),
            frame,
        )

    def backward_map(self, pose: np.ndarray, brow: float) -> np.ndarray:
        """(H, W, 2) float32 map for the view. pose: yaw, pitch, roll in degrees, shift_x, shift_y in face units."""
        yaw, pitch, roll = np.radians(pose[:3])
        x, y, z = self.units[..., 0], self.units[..., 1], self.depth
        x1, z1 = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
        y1 = y * np.cos(pitch) + z1 * np.sin(pitch)
        x2, y2 = x1 * np.cos(roll) - y1 * np.sin(roll), x1 * np.sin(roll) + y1 * np.cos(roll)
        moved = np.stack([x2 - x + pose[3], y2 - y + pose[4]], -1) * self.weight
        moved[..., 1:] -= BROW_LIFT * brow * self.brows
        displacement = self.frame.vectors(moved).astype(np.float32)
        return self.grid.backward_map(displacement)


def _to_border(nodes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels from each (..., 2) node to the nearest border of a picture of that shape."""
    x, y = nodes[..., 0], nodes[..., 1]
    return np.minimum(np.minimum(x, shape[1] - 1 - x), np.minimum(y, shape[0] - 1 - y))
