"""The head as something solid that is turned: its shape, angles and rotations, and where points of the face go. For every
engine alike.

Space is as a viewer sees it: x to the picture's right, y down, z towards the viewer.
"""

from __future__ import annotations

import numpy as np

from extensions.sadtalker.face import LEFT_EYE, RIGHT_EYE, FaceFrame
from extensions.sadtalker.types import HEAD, Motion

HEAD_HALF_HEIGHT = 1.9  # face units (distances between the eyes), as all lengths here
HEAD_DEPTH = 1.15
NOSE_DEPTH = 0.32
NECK_PIVOT = 1.5  # down from the eyes: where the head rolls about
NOSE, RIGHT_CORNER, LEFT_CORNER = 30, 48, 54


def rotation(degrees: np.ndarray) -> np.ndarray:
    """(..., 3, 3) of (..., 3) yaw, pitch and roll as HeadMotion has them: yaw goes first, roll last."""
    yaw, pitch, roll = np.moveaxis(np.radians(np.asarray(degrees, float)), -1, 0)
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)
    sideways = _matrix(np.cos(yaw), zero, np.sin(yaw), zero, one, zero, -np.sin(yaw), zero, np.cos(yaw))
    down = _matrix(one, zero, zero, zero, np.cos(pitch), np.sin(pitch), zero, -np.sin(pitch), np.cos(pitch))
    about = _matrix(np.cos(roll), -np.sin(roll), zero, np.sin(roll), np.cos(roll), zero, zero, zero, one)
    return about @ down @ sideways


def angles(turned: np.ndarray) -> np.ndarray:
    """(..., 3): the yaw, pitch and roll, in degrees, of (..., 3, 3) rotations."""
    yaw = np.arctan2(-turned[..., 2, 0], turned[..., 2, 2])
    pitch = np.arcsin(np.clip(-turned[..., 2, 1], -1.0, 1.0))
    roll = np.arctan2(-turned[..., 0, 1], turned[..., 1, 1])
    return np.degrees(np.stack([yaw, pitch, roll], -1))


def head_depth(at: np.ndarray, face: np.ndarray) -> np.ndarray:
    """How far (..., 2) points of the head lie towards the viewer. All in face units; face: the 68 landmarks."""
    centre, half_width = sides(face)
    x, y = at[..., 0] - centre, at[..., 1]
    depth = HEAD_DEPTH * np.clip(1 - np.square(x / half_width) - np.square((y - 0.1) / HEAD_HALF_HEIGHT), 0, None)
    return depth + NOSE_DEPTH * bump(at - face[30] + (0, 0.1), 0.22, 0.34)


def about_pivot(at: np.ndarray, face: np.ndarray) -> np.ndarray:
    """(..., 3) points of the head as it is turned: across, down, and towards the viewer, about the pivot of its roll."""
    centre, _ = sides(face)
    return np.stack([at[..., 0] - centre, at[..., 1] - NECK_PIVOT, head_depth(at, face)], -1)


def sides(face: np.ndarray) -> tuple[float, float]:
    """Where the middle of the head is across, and half its width."""
    jaw = face[:17]
    low, high = jaw[:, 0].min(), jaw[:, 0].max()
    return (low + high) / 2, 1.22 * (high - low) / 2


def bump(at: np.ndarray, width: float, height: float) -> np.ndarray:
    """A Gaussian hill of (..., 2) points about the origin."""
    return np.exp(-np.square(at[..., 0] / width) - np.square(at[..., 1] / height))


def five_points(landmarks: np.ndarray, motion: Motion) -> np.ndarray:
    """(T, 5, 2) pixels: eyes, tip of the nose and corners of the mouth in every frame. landmarks: (68, 2) pixels in the photo."""
    frame = FaceFrame.of(landmarks)
    face = frame.to_face(landmarks)
    at = np.stack([face[RIGHT_EYE].mean(0), face[LEFT_EYE].mean(0), *face[[NOSE, RIGHT_CORNER, LEFT_CORNER]]])
    solid = about_pivot(at, face)
    pose = np.stack([motion[name] for name in HEAD], 1).astype(float)
    turned = np.einsum("tij,pj->tpi", rotation(pose[:, :3])[:, :2], solid)
    return frame.to_pixels(turned + (at - solid[:, :2]) + pose[:, None, 3:])


def _matrix(*entries: np.ndarray) -> np.ndarray:
    return np.stack(entries, -1).reshape(*entries[0].shape, 3, 3)
