"""Putting a rendered head back into its photo: milliseconds a frame, against the seamlessClone per frame that it replaces.

    python -m bench.paste [--side 1024] [PICTURE ...]

Each picture (the shipped examples unless files are named) is brought to as many pixels as a square of that side has, and once
more cut down to the head, which then fills it; the frames are its own square, turned a little. Time is that on the processor,
on one core; a busy machine makes both slower: compare by their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from extensions.sadtalker.paste import Paste
from extensions.sadtalker.preprocess import head_box
from extensions.sadtalker.types import Box, HeadMotion
from webui.faces import face_finder
from webui.pictures import read_picture

EXAMPLES = Path(__file__).resolve().parent.parent / "extensions" / "sadtalker" / "examples"
FRAMES = 24


def clone(picture: np.ndarray, frame: np.ndarray, place: Box) -> np.ndarray:
    """What upstream does with every frame."""
    sized = cv2.resize(frame, (place.width, place.height))
    centre = (place.left + place.right) // 2, (place.top + place.bottom) // 2
    return cv2.seamlessClone(sized, picture, np.full_like(sized, 255), centre, cv2.NORMAL_CLONE)


def turned(square: np.ndarray, degrees: float, size: int) -> np.ndarray:
    """The head as a network would draw it: the photo's square, rolled about its middle."""
    h, w = square.shape[:2]
    turn = cv2.getRotationMatrix2D((w / 2, h * 0.8), -degrees, 1.0)
    return cv2.resize(cv2.warpAffine(square, turn, (w, h), borderMode=cv2.BORDER_REPLICATE), (size, size))


def milliseconds(one: Callable[[int], object], count: int) -> float:
    """The median time of a call, after one that is not counted."""
    one(0)
    taken = []
    for number in range(count):
        begun = time.process_time()
        one(number)
        taken.append(1000 * (time.process_time() - begun))
    return statistics.median(taken)


def close_up(picture: np.ndarray) -> np.ndarray:
    """The head with little round it."""
    height, width = picture.shape[:2]
    return picture[head_box(face_finder().find(picture)[0].landmarks, 1.1, width, height).slices]


def brought_to(side: int, picture: np.ndarray) -> np.ndarray:
    scale = side / np.sqrt(picture.shape[0] * picture.shape[1])
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def measure(name: str, picture: np.ndarray) -> None:
    landmarks = face_finder().find(picture)[0].landmarks
    height, width = picture.shape[:2]
    for mode, wider in (("full", 1.0), ("extfull", 1.2)):
        place = head_box(landmarks, wider, width, height)
        for size in (256, 512):
            frames = [turned(picture[place.slices], 5 * np.sin(k), size) for k in range(FRAMES)]
            heads = [HeadMotion(roll=5 * float(np.sin(k))) for k in range(FRAMES)]
            begun = time.process_time()
            paste = Paste(picture, place, landmarks, frames[0])
            built = time.process_time() - begun
            ours = milliseconds(lambda k, p=paste, f=frames, h=heads: p.put(f[k], h[k]), FRAMES)
            theirs = milliseconds(lambda k, f=frames, at=place: clone(picture, f[k], at), 4)
            print(
                f"{name:<24} {width}x{height} {mode:<8} {size} in {place.width}x{place.height}: "
                f"{ours:5.1f} ms a frame, seamlessClone {theirs:6.1f} ms, ratio {ours / theirs:.3f}; made in {built:.2f} s"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", type=Path, metavar="PICTURE")
    parser.add_argument("--side", type=int, default=1024, help="of the square whose number of pixels the pictures have")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    for path in given.pictures or sorted(EXAMPLES.glob("*.jpg")):
        picture = read_picture(path).rgb
        measure(path.stem, brought_to(given.side, picture))
        measure(f"{path.stem}, close up", brought_to(given.side, close_up(picture)))


if __name__ == "__main__":
    main()
