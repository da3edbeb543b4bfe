"""The colours that attribute values stand for, RGB 0..1. Seen on the sheets of `portraits`, told apart at 128 pixels."""

from __future__ import annotations

import numpy as np


def _rgb(hexes: dict[str, str]) -> dict[str, np.ndarray]:
    return {name: np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)], np.float32) for name, code in hexes.items()}


SKIN = _rgb({"pale": "fbdac8", "tan": "e3ae85", "brown": "ad7650", "dark": "7a4f39"})

HAIR = _rgb(
    {
        "black": "25201f",
        "brown": "6b4226",
        "blond": "e8c267",
        "red": "c4491a",
        "grey": "8d8f94",
        "white": "eceae6",
        "blue": "2f62c9",
        "pink": "ee7fb2",
        "green": "37a057",
    }
)

EYES = _rgb({"brown": "6b3a17", "blue": "2f83dd", "green": "3a9a4a", "grey": "79838c"})

CLOTH = _rgb(
    {
        "red": "cf2f2f",
        "orange": "ee8528",
        "yellow": "f2cf3c",
        "green": "3d9a4e",
        "blue": "2f5fc0",
        "purple": "7d48b0",
        "pink": "f08fb4",
        "black": "2b2b31",
        "white": "f1f0ec",
        "grey": "8f949b",
    }
)

WALL = _rgb(
    {
        "red": "c75450",
        "orange": "eda05a",
        "yellow": "f0d67a",
        "green": "86b98a",
        "blue": "7fa8dc",
        "purple": "a58bc6",
        "pink": "efb3c6",
        "black": "35353c",
        "white": "f2f1ee",
        "grey": "a7abb0",
    }
)
