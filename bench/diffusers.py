"""What our way to a picture costs, against diffusers' pipeline called directly: same weights, seed and settings, both warm, CPU.

    python -m bench.diffusers [--models models] [--model pocket] [--pairs 40] [--steps 20] [--size WxH]
                              [--threads N]
    python -m bench.diffusers --random sd1

From the prompt to the decoded picture, with progress and previews on our side, as a job has them. Pairs are interleaved and take
turns in who is first; the median of their ratios counts. First the pictures are compared: they must be identical.

Without --random it is the model that comes with the program: 40 pairs at its own size. --random sd1 is a file of SD 1.5's full
size with random numbers (2 GB on the disk meanwhile, 5 GB of memory): 3 pairs at 256 x 256. Run it on an idle machine; on a busy
one, time on the processor with --threads 1 is worth more than the clock's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests import tiny
from tests.checkpoints import full_size
from webui.imaging.generate import txt2img
from webui.imaging.load import Model, load
from webui.imaging.requests import Txt2Img, read_size
from webui.imaging.samplers import resolve, scheduler
from webui.imaging.sizes import native_size
from webui.weights.catalog import Catalog

PROMPT, NEGATIVE, SEED, GUIDANCE = "portrait of a woman with red hair, green background", "blurry", 5, 7.0


class Silent:
    """A watch that does nothing with what it is told."""

    cancelled = False

    def progress(self, fraction: float, stage: str) -> None: ...

    def preview(self, image: np.ndarray) -> None: ...

    def warn(self, message: str) -> None:
        print(f"said: {message}")


def ours(model: Model, asked: argparse.Namespace, size: tuple[int, int]) -> Callable[[], np.ndarray]:
    request = Txt2Img(
        prompt=PROMPT, negative=NEGATIVE, cfg=GUIDANCE, steps=asked.steps, sampler=asked.sampler, size=f"{size[0]}x{size[1]}"
    )
    return lambda: next(txt2img(model, request, Silent(), SEED)).rgb


def theirs(model: Model, asked: argparse.Namespace, size: tuple[int, int]) -> Callable[[], np.ndarray]:
    kind = "StableDiffusionXLPipeline" if model.architecture == "sdxl" else "StableDiffusionPipeline"
    built = scheduler(resolve(asked.sampler), model, asked.steps)
    pipeline = tiny.pipeline(kind, model, type(built).from_config(built.config))
    options: dict[str, Any] = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": GUIDANCE}
    options |= {"num_inference_steps": asked.steps, "width": size[0], "height": size[1]}
    return lambda: np.asarray(pipeline(**options, generator=torch.Generator().manual_seed(SEED)).images[0])


def seconds(make: Callable[[], np.ndarray]) -> tuple[float, float]:
    """By the clock, and on the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    make()
    return time.perf_counter() - clock, time.process_time() - processor


def chosen(asked: argparse.Namespace) -> Model:
    if asked.random is None:
        return load(Catalog(asked.models).find(asked.model))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        checkpoints = Path(folder) / "Stable-diffusion"
        checkpoints.mkdir()
        full_size(checkpoints / "random.safetensors", "sd1")
        # What is mapped stays readable when its name is gone; Windows keeps the name, too, and so the folder.
        return load(Catalog(Path(folder)).find("random"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--random", choices=("sd1",))
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--size", type=read_size)
    parser.add_argument("--sampler", default="DPM++ 2M")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(asked.threads)
    load_now = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""  # Windows has none
    print(f"{os.cpu_count()} cores{load_now}, Python {sys.version.split()[0]}", flush=True)
    model = chosen(asked)
    size = asked.size or ((256, 256) if asked.random == "sd1" else native_size(model))
    sides = [make(model, asked, size) for make in (ours, theirs)]
    first, second = (side() for side in sides)
    same = np.array_equal(first, second)
    print(f"{size[0]}x{size[1]}, {asked.steps} steps, {asked.sampler}: pictures {'identical' if same else 'DIFFER'}")
    ratios: list[tuple[float, float]] = []
    for pair in range(asked.pairs or (3 if asked.random == "sd1" else 40)):
        order = (0, 1) if pair % 2 else (1, 0)
        taken = {which: seconds(sides[which]) for which in order}
        ratios.append((taken[0][0] / taken[1][0], taken[0][1] / taken[1][1]))
        clock, processor = ratios[-1]
        both = f"{taken[0][0]:.3f} s against {taken[1][0]:.3f} s"
        print(f"pair {pair + 1}: {both}, {clock:.3f}; on the processor {processor:.3f}", flush=True)
    clock, processor = (statistics.median(ratio[which] for ratio in ratios) for which in (0, 1))
    print(f"median ratio {clock:.3f} by the clock (at most 1.05), {processor:.3f} on the processor")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
