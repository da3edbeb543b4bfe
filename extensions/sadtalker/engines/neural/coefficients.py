"""Faces to 3DMM coefficients: of the photo, and of reference clips frame by frame.

A row is 73 numbers: 64 of the expression, 3 angles in radians, 3 of the translation, and how the face lay in the picture (scale,
x and y in pixels, y up), which depend on its size. What is animated are the first 70.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch

from extensions.sadtalker.engines.neural import geometry
from extensions.sadtalker.engines.neural.networks.recon import PARTS
from webui.plugin_api import NoFaceFound

EXPRESSION = slice(0, 64)
POSE = slice(64, 70)
MOTION = 70
WHOLE = 73

_BATCH = 8


class Fit(Protocol):
    """networks.recon.FaceFit."""

    def __call__(self, faces: torch.Tensor) -> torch.Tensor: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...


def fit(image: np.ndarray, landmarks: np.ndarray | None, net: Fit) -> np.ndarray:
    """The photo's row, (1, 73) float32.

    image:     (S, S, 3) uint8 RGB, as the networks get it.
    landmarks: 68 iBUG points or the five of geometry.STANDARD_POINTS in it, y down; None to take the face for one in the middle,
               as upstream does where it finds none (the studio refuses such a picture).
    """
    aligned = aligned_face(image, landmarks)
    return rows([aligned], regressed([aligned.image], net))


def aligned_face(image: np.ndarray, landmarks: np.ndarray | None) -> geometry.Aligned:
    height = image.shape[0]
    points = geometry.standard(height) if landmarks is None else geometry.upward(landmarks, height)
    return geometry.align(image, points)


def regressed(faces: list[np.ndarray], net: Fit) -> np.ndarray:
    """Aligned faces, (224, 224, 3) uint8 RGB -> all coefficients, (N, 257) float32, see recon.PARTS."""
    batch = torch.from_numpy(np.stack(faces)).to(next(net.parameters()).device)
    return net(batch.permute(0, 3, 1, 2).float() / 255).cpu().numpy()


def parts(values: np.ndarray) -> dict[str, np.ndarray]:
    """All coefficients, (N, 257), by what they are."""
    return dict(zip(PARTS, np.split(values, np.cumsum(list(PARTS.values()))[:-1], axis=1), strict=True))


def rows(faces: list[geometry.Aligned], values: np.ndarray) -> np.ndarray:
    """(N, 73) float32 from all 257 coefficients and where the faces lay."""
    found = parts(values)
    places = np.array([[face.scale, face.x, face.y] for face in faces], np.float32)
    return np.concatenate([found["exp"], found["angle"], found["trans"], places], axis=1)


def of_clip(clip: Iterable[tuple[np.ndarray, np.ndarray]], net: Fit, *, size: int, whole: bool = False) -> np.ndarray:
    """The rows of a reference clip, (n, 73) float32, n at least 1. No frame is held.

    clip:  of each frame the picture, (H, W, 3) uint8 RGB, and the 68 points of its face there, y down. All are cut where the
           first one's face is.
    whole: the clip shows only what is to be animated (the mode resize): nothing is cut.

    Raises NoFaceFound when there is no frame.
    """
    faces: list[geometry.Aligned] = []
    found: list[np.ndarray] = []
    crop: geometry.Crop | None = None
    for frame, landmarks in clip:
        crop = crop or geometry.crop_of(landmarks, (frame.shape[1], frame.shape[0]))
        picture, place = (frame, (0, 0, *crop.size)) if whole else (crop.cut(frame), crop.place())
        faces.append(aligned_face(geometry.resized(picture, size), geometry.into(landmarks, place, size)))
        if len(faces) == _BATCH:
            found.append(rows(faces, regressed([face.image for face in faces], net)))
            faces = []
    if faces:
        found.append(rows(faces, regressed([face.image for face in faces], net)))
    if not found:
        raise NoFaceFound("The reference video has no frame in which a face is found. Choose another one.")
    return np.concatenate(found)
