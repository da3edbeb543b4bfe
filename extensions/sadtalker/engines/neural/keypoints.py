"""The head pose and the expression of a frame put on a face's canonical keypoints, in upstream's order of computing.

A last digit of a keypoint can decide whether a voxel of the frame moves: see networks.exact_motion.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

PI = 3.14
"""As upstream's networks were trained with."""


def moved(
    canonical: torch.Tensor,
    heads: Mapping[str, torch.Tensor],
    *,
    yaw: torch.Tensor | None = None,
    pitch: torch.Tensor | None = None,
    roll: torch.Tensor | None = None,
) -> torch.Tensor:
    """(N, 15, 3): turned, lifted and with the expression added.

    canonical: (1 or N, 15, 3); heads: what MappingNet gives of N frames; yaw, pitch, roll: (N,) degrees instead of theirs.
    """
    given = {"yaw": yaw, "pitch": pitch, "roll": roll}
    turns = [degrees(heads[name]) if angle is None else angle for name, angle in given.items()]
    turned = torch.einsum("bmp,bkp->bkm", rotation(*turns), canonical.expand(len(heads["exp"]), -1, -1))
    # Of the translation only what lifts the head is used: the others are the camera's affair.
    lift = heads["t"][:, None] * heads["t"].new_tensor([0.0, 1.0, 0.0])
    return turned + lift + heads["exp"].unflatten(1, (-1, 3))


def degrees(heads: torch.Tensor) -> torch.Tensor:
    """(N, 66), how likely each of 66 steps of three degrees is, -> (N,): the angle to expect."""
    steps = torch.arange(heads.shape[1], device=heads.device, dtype=heads.dtype)
    return (heads.softmax(1) * steps).sum(1) * 3 - 99


def rotation(yaw: torch.Tensor, pitch: torch.Tensor, roll: torch.Tensor) -> torch.Tensor:
    """Degrees, each (N,), -> (N, 3, 3): first roll, then yaw, then pitch."""
    (cy, cp, cr), (sy, sp, sr) = ([f(angle / 180 * PI) for angle in (yaw, pitch, roll)] for f in (torch.cos, torch.sin))
    nil, one = torch.zeros_like(cy), torch.ones_like(cy)
    nod, turn, tilt = (
        torch.stack(values, dim=1).unflatten(1, (3, 3))
        for values in (
            (one, nil, nil, nil, cp, -sp, nil, sp, cp),
            (cy, nil, sy, nil, one, nil, -sy, nil, cy),
            (cr, -sr, nil, sr, cr, nil, nil, nil, one),
        )
    )
    return torch.einsum("bij,bjk,bkm->bim", nod, turn, tilt)
