"""Peak memory of a long clip against a short one, drawn by SadTalker's networks, of which the first frames alone are drawn.

    python -m bench.talking_memory [--minutes 1 10] [--frames 40 200] [--weights models/SadTalker] [--precision exact]

All frames of ten minutes take hours on a processor. What comes before them is done whole: the voice heard, coefficients and
keypoints of every frame. Then as many frames are drawn, pasted and encoded as --frames says, so that two things are seen: what
the length takes, and whether memory grows from frame to frame. Without --weights the networks are those of tests/, with few
channels: the memory that does not grow is less then, and the ratios above those of the real ones.

Each line is one run of the command line in a fresh process, on a shipped example.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from bench.talk import EXAMPLES, looped

ROOT = Path(__file__).resolve().parent.parent
TWIN = "--as-the-command-line"
SMALL = "--small-networks"
STOPPED = 130


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10])
    parser.add_argument("--frames", type=int, nargs="+", default=[40, 200])
    parser.add_argument("--weights", type=Path, help="a folder with SadTalker's files")
    parser.add_argument("--precision", choices=["exact", "fast"], default="exact")
    parser.add_argument("--mode", default="crop")
    arguments = parser.parse_args()
    how = ("--accuracy", arguments.precision, "--preprocess", arguments.mode, "--size", "256")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spoken = next(iter(sorted(EXAMPLES.glob("*.wav"))))
        voices = {minutes: looped(spoken, 60 * minutes, folder) for minutes in arguments.minutes}
        first = None
        for minutes, frames in [
            *((minutes, arguments.frames[0]) for minutes in arguments.minutes),
            *((arguments.minutes[0], frames) for frames in arguments.frames[1:]),
        ]:
            started = time.perf_counter()
            found = peak(folder, voices[minutes], frames, arguments.weights, how)
            first = first or found
            line = f"{minutes:g} min, {frames} frames drawn: {found:.0f} MB at most, {found / first:.3f} x"
            print(f"{line} ({time.perf_counter() - started:.0f} s)", flush=True)


def peak(folder: Path, voice: Path, frames: int, weights: Path | None, how: tuple[str, ...]) -> float:
    """The largest resident size in MB of a run that ends after so many frames."""
    portrait = next(iter(sorted(EXAMPLES.glob("*.jpg"))))
    command = [
        sys.executable, "-m", "bench.talking_memory", TWIN, str(frames), str(weights or SMALL), "talk", str(portrait), str(voice),
        "--engine", "sadtalker", "--seed", "1", "--max-voice-minutes", "60", "--device", "cpu", "--allow-pickles",
        "--models-dir", str(folder / "models"), "--outputs-dir", str(folder / "outputs"), "--out", str(folder / "out.mp4"), *how,
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != STOPPED or "Enough" not in said:
        raise SystemExit(f"{' '.join(command)} failed: {said.strip()}")
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def as_the_command_line(frames: int, weights: str, argv: list[str]) -> int:
    """app.py in this process, with these networks (a folder, or SMALL), which give up after so many frames."""
    import app
    from extensions.sadtalker.engines.neural import checkpoints
    from extensions.sadtalker.engines.neural.engine import NeuralEngine
    from tests.small_networks import SmallCheckpoint
    from webui.errors import Cancelled

    real, draw = checkpoints.find, NeuralEngine.render

    def find(places: Any, size: int) -> Any:
        return SmallCheckpoint(places[0]) if weights == SMALL else real([Path(weights)], size)

    def render(*given: Any) -> Iterator[Any]:
        yield from islice(draw(*given), frames)
        raise Cancelled("Enough was drawn.")

    checkpoints.find, NeuralEngine.render = find, render  # pyright: ignore[reportAttributeAccessIssue]
    return app.main(argv)


if __name__ == "__main__":
    if sys.argv[1:2] == [TWIN]:
        sys.exit(as_the_command_line(int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
    main()
