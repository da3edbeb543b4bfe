"""SadTalker's renderer: time per frame, exact and fast, against the plain float32 network, in one run. Run it on an idle machine.

    python -m bench.talking_nets [--weights models/SadTalker] [--sizes 256 512] [--rounds 3] [--device auto]

The plain network is upstream's way: nothing folded, nothing kept from frame to frame (bench.plain_renderer). In each round every
network draws one frame, so that all of them see the same machine; said is the median of the rounds, as time that passed and as
time of all cores, which other programs disturb less. On a GPU also frames a second and the share of the rate that it multiplies
matrices at, as measured here.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bench.plain_renderer import PlainRenderer
from extensions.sadtalker.engines.neural import checkpoints
from extensions.sadtalker.engines.neural.networks import blocks
from extensions.sadtalker.engines.neural.networks.generator import Generator, half

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Subject:
    """A network that draws. frame: draws the same frame at each call; megabytes: of its weights."""

    name: str
    frame: Callable[[], torch.Tensor]
    megabytes: float


@dataclass(frozen=True)
class Took:
    """Seconds of one frame: passed, and of all cores."""

    wall: float
    cores: float


def timed(draw: Callable[[], torch.Tensor]) -> tuple[Took, torch.Tensor]:
    wall, cores = time.perf_counter(), time.process_time()
    frame = draw().cpu()
    return Took(time.perf_counter() - wall, time.process_time() - cores), frame


def subjects(weights: Path, size: int, device: str) -> list[Subject]:
    checkpoint = checkpoints.find([weights], size)
    if checkpoint.size != size:
        raise SystemExit(f"{weights} has no files for size {size}.")
    noise = torch.Generator().manual_seed(0)
    photo = F.interpolate(torch.rand(1, 3, 16, 16, generator=noise), size, mode="bicubic").clamp(0, 1).to(device)
    rest = (torch.rand(1, 15, 3, generator=noise) * 1.4 - 0.7).to(device)
    moved = rest + 0.05 * torch.randn(1, 15, 3, generator=noise).to(device)
    plain = PlainRenderer(checkpoint.tensors("generator", device=device))
    whole = blocks.exactly()(lambda: plain(photo, rest, moved))  # float32 as it is: no TF32
    found = [Subject("plain float32", whole, _megabytes(plain.tensors.values()))]
    for precision in ("exact", "fast"):
        net = Generator.of(checkpoint.tensors("generator", device=device), precision)
        source = net.source(photo, rest)
        held = _megabytes([*net.buffers(), *net.parameters()])
        name = f"{precision} ({net.numbers})"
        found.append(Subject(name, lambda net=net, source=source: net.frame(source, moved), held))
    return found


def report(weights: Path, size: int, rounds: int, device: str) -> None:
    found = subjects(weights, size, device)
    for one in found[1:]:
        one.frame()  # fills what is kept from frame to frame
    took: dict[str, list[Took]] = {one.name: [] for one in found}
    frames: dict[str, torch.Tensor] = {}
    for _ in range(rounds):
        for one in found:
            seconds, frames[one.name] = timed(one.frame)
            took[one.name].append(seconds)
    print(f"size {size}, one frame at a time, {rounds} rounds")
    plain, exact = (frames[one.name] for one in found[:2])
    base = _median(took[found[0].name])
    for one in found:
        spent = _median(took[one.name])
        line = f"  {one.name:<40} {1e3 * spent.wall:7.0f} ms ({1e3 * spent.cores:7.0f} ms of cores)  "
        line += f"{spent.wall / base.wall:.2f} x ({spent.cores / base.cores:.2f} x)  weights {one.megabytes:.0f} MB"
        if one is not found[0]:
            line += f"  largest difference to plain {float((frames[one.name] - plain).abs().max()):.1e}"
        if one is found[2]:
            line += f", PSNR to exact {_psnr(frames[one.name], exact):.1f} dB"
        print(line, flush=True)
    if device != "cpu":
        _share(found, {one.name: _median(took[one.name]).wall for one in found}, device)


def _share(found: list[Subject], seconds: dict[str, float], device: str) -> None:
    """How much of the device's rate of multiplying matrices is reached, the plain network's work taken for that of all."""
    with FlopCounterMode(display=False) as counter:
        found[0].frame()
    for one in found[1:]:
        dtype = half(torch.device(device)) if one is found[2] else torch.float32
        rate = counter.get_total_flops() / seconds[one.name]
        share = rate / _matrix_rate(device, dtype or torch.float32)
        print(f"  {one.name}: {1 / seconds[one.name]:.1f} frames/s, {rate / 1e12:.1f} TFLOP/s, {share:.0%} of its matrix rate")


def _matrix_rate(device: str, dtype: torch.dtype, side: int = 8192) -> float:
    """Operations a second."""
    a = torch.randn(side, side, device=device, dtype=dtype)
    (a @ a).sum().item()
    start = time.perf_counter()
    for _ in range(10):
        a @ a
    (a @ a).sum().item()
    return 11 * 2 * side**3 / (time.perf_counter() - start)


def _median(times: list[Took]) -> Took:
    return Took(statistics.median(one.wall for one in times), statistics.median(one.cores for one in times))


def _psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def _megabytes(tensors) -> float:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=ROOT / "models" / "SadTalker", help="a folder with SadTalker's files")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], choices=[256, 512])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="PyTorch's name of it")
    arguments = parser.parse_args()
    print(f"PyTorch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads")
    for size in arguments.sizes:
        report(arguments.weights, size, arguments.rounds, arguments.device)


if __name__ == "__main__":
    main()
