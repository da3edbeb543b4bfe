"""From the start of the program to the first frame that SadTalker's networks draw: seconds, against importing PyTorch alone.

    python -m bench.talking_start --weights DIR [--size 256] [--rounds 3]

Each time is that of a fresh process, `talk` with a shipped portrait and voice, ended at its first frame. Files are read once
before, so that they lie in memory as after a first run: a cold disk has times of its own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "extensions" / "sadtalker" / "examples"

TORCH = "import torch"

TALK = """
import os, sys, time
import psutil
import app
from extensions.sadtalker import filming

def mark(clock, name):
    if name == "first_preview":
        print("seconds", time.time() - psutil.Process().create_time(), flush=True)
        os._exit(0)

filming.Stopwatch.mark = mark
sys.exit(app.main(sys.argv[1:]))
"""


def seconds_of(code: str, *arguments: str) -> float:
    """Of a fresh Python with this code, until it prints them."""
    told = "import time, psutil\n" + code + "\nprint('seconds', time.time() - psutil.Process().create_time())"
    run = subprocess.run([sys.executable, "-c", told, *arguments], capture_output=True, text=True)
    lines = [line for line in run.stdout.splitlines() if line.startswith("seconds ")]
    if not lines:
        raise SystemExit(run.stdout + run.stderr)
    return float(lines[0].split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="a folder with SadTalker's files")
    parser.add_argument("--size", default="256", choices=("256", "512"))
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "models").mkdir()  # hashes are remembered there
        flags = ["--models-dir", f"{folder}/models", "--outputs-dir", f"{folder}/outputs", "--sadtalker-dir", str(given.weights)]
        flags += ["--engine", "sadtalker", "--size", given.size]
        talk = ["talk", str(EXAMPLES / "grace_hopper.jpg"), str(EXAMPLES / "hello_english.wav"), *flags]
        seconds_of(TALK, *talk)  # files are hashed once, and then remembered
        for accuracy in ("fast", "exact"):
            found = []
            for _ in range(given.rounds):
                bare = seconds_of(TORCH)
                found.append((seconds_of(TALK, *talk, "--accuracy", accuracy), bare))
            ours, bare = (statistics.median(column) for column in zip(*found, strict=True))
            told = f"{ours:5.1f} s to the first frame; PyTorch alone {bare:.1f} s: {ours / bare:.1f} x"
            print(f"{given.size}, {accuracy:<6} {told}", flush=True)


if __name__ == "__main__":
    main()
