"""Talking head: time against the voice's own length, and peak memory against a short clip. Run it on an idle machine.

    python -m bench.talk [PORTRAIT VOICE] [--whole PICTURE]

Each line is one run of the command line in a fresh process, on the shipped example unless files are named. Start-up (the
interpreter and its imports) is not counted in the times, as said in each line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "extensions" / "sadtalker" / "examples"


@dataclass(frozen=True)
class Run:
    """facts: what `talk --json` said; peak_mb: largest resident size of the process or of its encoder."""

    facts: dict
    peak_mb: float

    @property
    def voice_seconds(self) -> float:
        return self.facts["frames"] / self.facts["fps"]


def talk(portrait: Path, voice: Path, out: Path, *options: str) -> Run:
    """One run of the command line."""
    command = [sys.executable, str(ROOT / "app.py"), "talk", str(portrait), str(voice), "--out", str(out), "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {printed.strip()}")
    scale = 1 / 2**20 if sys.platform == "darwin" else 1 / 2**10
    return Run(json.loads(printed.strip().splitlines()[-1]), usage.ru_maxrss * scale)


def looped(voice: Path, seconds: float, folder: Path) -> Path:
    """The voice again and again until it is `seconds` long, 16 kHz mono."""
    import imageio_ffmpeg

    out = folder / f"{seconds:.0f}s.wav"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-stream_loop", "-1", "-i", str(voice)]
    subprocess.run([*command, "-t", str(seconds), "-ac", "1", "-ar", "16000", str(out)], check=True, stdin=subprocess.DEVNULL)
    with wave.open(str(out)) as made:
        assert abs(made.getnframes() / made.getframerate() - seconds) < 0.1
    return out


def report(name: str, run: Run) -> None:
    seconds = run.facts["seconds"]
    width, height = run.facts["size"]
    print(
        f"{name}: {seconds['total'] / run.voice_seconds:.2f} x real time ({seconds['total']:.2f} s for {run.voice_seconds:.1f} s "
        f"of voice, {width}x{height}, first preview after {seconds['first_preview']:.2f} s, start-up of "
        f"{seconds['start_up']:.2f} s not counted)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("portrait", nargs="?", type=Path, default=next(iter(sorted(EXAMPLES.glob("*.jpg"))), None))
    parser.add_argument("voice", nargs="?", type=Path, default=next(iter(sorted(EXAMPLES.glob("*.wav"))), None))
    parser.add_argument("--whole", type=Path, help="a picture for the full mode, scaled to 1024 x 1536 (default: PORTRAIT)")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        voice, out = looped(arguments.voice, 16, folder), folder / "out.mp4"
        report("crop 512", talk(arguments.portrait, voice, out, "--seed", "1"))
        whole = sized(arguments.whole or arguments.portrait, folder)
        report("full 1024x1536", talk(whole, voice, out, "--preprocess", "full", "--seed", "1"))
        peaks = [
            talk(arguments.portrait, looped(arguments.voice, seconds, folder), out, "--size", "256", "--seed", "1").peak_mb
            for seconds in (60, 600)
        ]
        print(f"peak memory, 10 minutes against 1: {peaks[1] / peaks[0]:.3f} x ({peaks[1]:.0f} MB against {peaks[0]:.0f} MB)")


def sized(picture: Path, folder: Path) -> Path:
    """The picture cut to 2:3 and scaled to 1024 x 1536."""
    from PIL import Image, ImageOps

    out = folder / "whole.png"
    with Image.open(picture) as image:
        ImageOps.fit(image.convert("RGB"), (1024, 1536), centering=(0.5, 0.2)).save(out)
    return out


if __name__ == "__main__":
    main()
