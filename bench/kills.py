"""Kills a real server, its worker, or both, at random moments of a talking head, and looks whether the file is the same.

    python -m bench.kills [--kills 50] [--seconds 60] [--seed 0]

One kill (SIGKILL) in each run of the job. A line for each tells what was killed and how many segments were rendered again;
the last line sums up. Linux only: it looks at processes through /proc.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.server import Server, kill, lives
from bench.talk import EXAMPLES, looped

VICTIMS = ("server", "worker", "both")
UNFINISHED = ("queued", "running")
PATIENCE = 600.0


@dataclass
class Segments:
    """Looks again and again at the files that a job leaves, and so knows how often each segment was made."""

    folder: Path
    made: set[tuple[str, int]] = field(default_factory=set)
    over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Segments:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.over.set()
        self._thread.join()

    @property
    def twice(self) -> int:
        """How many were finished more than once."""
        return len(self.made) - len({name for name, _ in self.made})

    def begun(self) -> bool:
        """Whether one is being made."""
        return any(self.folder.glob("*.part"))

    def _look(self) -> None:
        while not self.over.wait(0.02):
            with suppress(FileNotFoundError):  # the folder goes when the job ends
                for path in self.folder.glob("segment-*.mp4"):
                    self.made.add((path.name, path.stat().st_mtime_ns))


@dataclass
class Studio:
    """The server in use, and the job that is asked of it again and again."""

    outputs: Path
    portrait: Path
    voice: Path

    def __post_init__(self) -> None:
        self.server = Server(self.outputs)
        self._files = {"portrait": self.server.upload(self.portrait), "voice": self.server.upload(self.voice)}

    def submit(self) -> str:
        return self.server.submit("talk", **self._files, seed=1, size=256)

    def kill(self, victim: str) -> None:
        """A worker whose server is killed ends by itself; return when all are gone."""
        workers = self.server.workers()
        if victim != "worker":
            kill(self.server.process.pid)
            self.server.process.wait()
        if victim != "server":
            for worker in workers:
                kill(worker)
        while any(map(lives, workers)):
            time.sleep(0.01)

    def revive(self) -> None:
        if self.server.process.poll() is not None:
            self.server = Server(self.outputs)

    def finished(self, job_id: str) -> str:
        """The SHA-256 of the job's file, when it is done; its state otherwise."""
        deadline = time.monotonic() + PATIENCE
        while (job := self.server.job(job_id))["state"] in UNFINISHED:
            if time.monotonic() > deadline:
                return "never finished"
            time.sleep(0.1)
        if job["state"] != "done":
            return f"{job['state']}: {job['error']}"
        return hashlib.sha256(self.server.read(f"/api/artifacts/{job['result']['artifacts'][0]['id']}")).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the clip")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        voice = looped(EXAMPLES / "hello_english.wav", arguments.seconds, Path(name))
        studio = Studio(Path(name) / "outputs", EXAMPLES / "eileen_collins.jpg", voice)
        try:
            expected = studio.finished(studio.submit())
            begun = time.monotonic()
            assert studio.finished(studio.submit()) == expected, "two uninterrupted runs differ"
            whole = time.monotonic() - begun
            print(f"uninterrupted: {whole:.1f} s, {expected[:16]}", flush=True)
            runs: list[tuple[bool, int]] = []
            while len(runs) < arguments.kills:
                run = one(studio, VICTIMS[len(runs) % 3], dice.random() * whole, expected, len(runs) + 1)
                runs += [] if run is None else [run]
        finally:
            studio.server.stop()
    same, repeated = sum(same for same, _ in runs), max(again for _, again in runs)
    print(f"{same} of {len(runs)} finished with the identical file; at most {repeated} segments rendered again after a kill")


def one(studio: Studio, victim: str, moment: float, expected: str, number: int) -> tuple[bool, int] | None:
    """Run the job and kill once. Whether the file is the same, and how many segments were rendered again.

    None when the job had ended before its moment came: that was no kill.
    """
    begun = time.monotonic()
    job_id = studio.submit()
    with Segments(studio.outputs / ".galatea" / "steps" / job_id) as segments:
        time.sleep(moment)
        if studio.server.job(job_id)["state"] not in UNFINISHED:
            assert studio.finished(job_id) == expected, "a job that nobody disturbed has another result"
            return None
        studio.kill(victim)
        lost = int(segments.begun())
        studio.revive()
        came = studio.finished(job_id)
    again = lost + segments.twice
    outcome = "identical" if came == expected else f"NOT identical: {came}"
    took = time.monotonic() - begun
    print(f"{number}: {victim} at {moment:.1f} s: {outcome}, {again} segments again, {took:.1f} s in all", flush=True)
    return came == expected, again


if __name__ == "__main__":
    main()
