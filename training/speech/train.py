"""Makes extensions/sadtalker/engines/geometric/speech.npz. See README.md beside this file.

    python -m training.speech.train --work FOLDER        builds the corpus, trains, measures, exports

Every step resumes: shards of the corpus that exist are kept, and training goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from extensions.sadtalker.engines.geometric import speech
from extensions.sadtalker.features import LogMel
from extensions.sadtalker.types import Voice
from training.speech import augment, corpus
from training.speech.visemes import CHANNELS, Segment, labels

SHARD = 120
SHARDS = 72
CROP = 300
BATCH = 32
WIDTH = 80
DILATIONS = (1, 1, 2, 4, 8, 16, 1)
TAPS = (5, 3, 3, 3, 3, 3, 1)
OUTPUT = Path(speech.__file__).with_name("speech.npz")


def voice_of(x: np.ndarray) -> Voice:
    """Samples as the engine would hear them."""
    mel = LogMel()
    mel.push(x)
    return Voice(*mel.finish(), len(x) / augment.RATE)


# --- corpus -----------------------------------------------------------------------------------------------------------


def utterance(rng: np.random.Generator, espeak: corpus.Espeak) -> tuple[np.ndarray, list[Segment]]:
    """One spoken sentence at 16 kHz with its phones."""
    if rng.random() < 0.5:
        voice = str(rng.choice(corpus.TRAIN_VOICES))
        pitch = {"rms": 95, "slt": 170, "kal16": 105, "kal": 105}[voice] * rng.uniform(0.75, 1.5)
        x, rate, segments = corpus.flite(corpus.english(rng), voice, rng.uniform(0.75, 1.4), pitch)
    else:
        language = str(rng.choice(list(corpus.ESPEAK)))
        variant = language + str(rng.choice(corpus.VARIANTS))
        text = corpus.foreign(language, rng)
        x, rate, segments = espeak(text, variant, int(rng.integers(110, 230)), int(rng.integers(20, 85)))
    factor = rng.uniform(0.85, 1.2)
    return augment.resampled(x, rate, factor), augment.moved(segments, 0.0, factor)


def clip(rng: np.random.Generator, espeak: corpus.Espeak) -> tuple[np.ndarray, np.ndarray]:
    """(samples, labels) of one to three sentences with pauses between, recorded somehow; or of no speech at all."""
    if rng.random() < 0.06:
        x = augment.background(int(rng.uniform(2, 5) * augment.RATE), rng) * 10 ** (-rng.uniform(12, 50) / 20)
        return x, np.zeros((-(-len(x) // 160), len(CHANNELS)), np.float32)
    pieces, segments, now = [], [], 0.0
    for _ in range(int(rng.integers(1, 4))):
        x, spoken = utterance(rng, espeak)
        gap = float(rng.choice([0.0, rng.uniform(0.1, 0.5), rng.uniform(0.5, 1.5)]))
        quiet = np.zeros(int(gap * augment.RATE), np.float32)
        pieces += [quiet, x / (np.abs(x).max() + 1e-9) * rng.uniform(0.5, 1.0)]
        begin = now + len(quiet) / augment.RATE
        segments += [Segment("", now, begin)] * (len(quiet) > 0) + augment.moved(spoken, begin, 1.0)
        now = begin + len(x) / augment.RATE
    x = augment.recorded(np.concatenate(pieces), rng)
    return x, labels(segments, -(-len(x) // 160))


def build_shard(job: tuple[Path, int]) -> None:
    path, index = job
    rng, espeak = np.random.default_rng([20240601, index]), corpus.Espeak()
    loud_colours, made = [], []
    for _ in range(SHARD // 2):
        x, target = clip(rng, espeak)
        voice = voice_of(x)
        if voice.silent:
            continue
        energy = speech.loudness(voice)
        loud_colours.append(speech.bands(voice.log_mel[energy > np.percentile(energy, 95) - 4]).mean(axis=0))
        made.append((speech.bands(voice.log_mel), voice.level, target))
    parts = {f"{kind}{i}": a.astype(np.float16) for i, m in enumerate(made) for kind, a in zip("mlt", m, strict=True)}
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, count=len(made), colours=np.array(loud_colours, np.float32), **parts)
    temporary.replace(path)


def build_corpus(folder: Path, workers: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"shard{i:03d}.npz" for i in range(SHARDS)]
    missing = [(p, i) for i, p in enumerate(paths) if not p.exists()]
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(build_shard, missing))
    return paths


def load_corpus(paths: list[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(prior, rows, targets): clips one after another, each between CONTEXT rows of silence."""
    shards = [np.load(p) for p in paths]
    colours = np.concatenate([s["colours"] for s in shards])
    prior = (colours - colours.mean(axis=1, keepdims=True)).mean(axis=0)
    rows, targets = [], []
    for shard in shards:
        for i in range(int(shard["count"])):
            mel = np.repeat(shard[f"m{i}"].astype(np.float32), 2, axis=1)
            voice = Voice(mel, shard[f"l{i}"].astype(np.float32), len(mel) / 100)
            x = speech.normalised(mel, speech.colour(voice, prior))
            rows.append(np.pad(x, ((speech.CONTEXT,) * 2, (0, 0)), constant_values=-4.0).astype(np.float16))
            targets.append(np.pad(shard[f"t{i}"], ((speech.CONTEXT,) * 2, (0, 0))))
    return prior, np.concatenate(rows), np.concatenate(targets)


# --- network ----------------------------------------------------------------------------------------------------------


def network():
    """The torch twin of speech.SpeechNet."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            last = len(TAPS) - 1
            sizes = [speech.BANDS, *[WIDTH] * last, len(CHANNELS)]
            layers = zip(sizes[:-1], sizes[1:], TAPS, DILATIONS, strict=True)
            self.layers = nn.ModuleList(nn.Conv1d(a, b, taps, dilation=d) for a, b, taps, d in layers)

        def forward(self, x):
            for i, layer in enumerate(self.layers):
                y = layer(x)
                if i == len(self.layers) - 1:
                    return y
                if i > 0:
                    y = torch.relu(y) + x[:, :, DILATIONS[i] : -DILATIONS[i]]
                x = torch.relu(y)

    return Net()


def loss_of(logits, target):
    """Squared error of the slow shapes, cross entropy of what is there or not: tucked lip, lips shut, speech."""
    from torch.nn import functional

    shape = ((logits[:, :6].sigmoid() - target[:, :6]) ** 2).mean() * 12
    shut = functional.binary_cross_entropy_with_logits(logits[:, 6], target[:, 6])
    spoken = functional.binary_cross_entropy_with_logits(logits[:, 7], target[:, 7])
    tucked = functional.binary_cross_entropy_with_logits(logits[:, 4], target[:, 4])
    return shape + shut + 0.7 * tucked + 0.3 * spoken


def train(rows: np.ndarray, targets: np.ndarray, checkpoint: Path, steps: int, threads: int):
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    net = network()
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    done = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        done = state["done"]
        rng = np.random.default_rng([1, done])
    began, average = time.time(), 0.0
    for step in range(done, steps):
        starts = rng.integers(0, len(rows) - CROP - 2 * speech.CONTEXT, BATCH)
        x = np.stack([rows[s : s + CROP + 2 * speech.CONTEXT].T for s in starts]).astype(np.float32)
        y = np.stack([targets[s + speech.CONTEXT : s + speech.CONTEXT + CROP].T for s in starts]).astype(np.float32)
        loss = loss_of(net(torch.from_numpy(x)), torch.from_numpy(y))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        average = 0.98 * average + 0.02 * float(loss.detach())
        if (step + 1) % 500 == 0 or step + 1 == steps:
            state = {"net": net.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save({**state, "schedule": schedule.state_dict(), "done": step + 1}, checkpoint)
            print(f"step {step + 1}: loss {average:.4f}, {time.time() - began:.0f} s", flush=True)
    return net


def export(net, prior: np.ndarray, path: Path) -> None:
    parts = {"prior": prior.astype(np.float16), "dilations": np.array(DILATIONS, np.int16)}
    for i, layer in enumerate(net.layers):
        parts[f"kernel{i}"] = layer.weight.detach().numpy().transpose(2, 1, 0).astype(np.float16)
        parts[f"bias{i}"] = layer.bias.detach().numpy().astype(np.float16)
    np.savez_compressed(path, **parts)


# --- measurement ------------------------------------------------------------------------------------------------------


def closure_scores(voice_name: str, sentences: int, seed: int, fps: float = 25.0) -> dict[str, float]:
    """Recall and precision of shut lips on p b m of new sentences, within one frame of the phone's middle."""
    rng = np.random.default_rng(seed)
    hit = wanted = true = given = 0
    for _ in range(sentences):
        x, rate, segments = corpus.flite(corpus.english(rng), voice_name)
        voice = voice_of(augment.resampled(x, rate))
        times = np.arange(round(voice.seconds * fps)) / fps
        press = speech.mouth(voice, times)[:, speech.MOUTH.index("press")]
        peaks = np.flatnonzero(press >= 0.95)
        spans = np.array([(s.start, s.end) for s in segments if s.ipa in ("p", "b", "m")]).reshape(-1, 2)
        wanted += len(spans)
        hit += sum(bool(np.any(np.abs(times[peaks] - s.mean()) <= 1 / fps)) for s in spans)
        given += len(peaks)
        near = (times[peaks, None] >= spans[:, 0] - 1 / fps) & (times[peaks, None] <= spans[:, 1] + 1 / fps)
        true += int(near.any(axis=1).sum())
    return {"recall": hit / wanted, "precision": true / max(given, 1), "phones": wanted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the corpus and the checkpoint (250 MB)")
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure-only", action="store_true", help="only measure the weights that are shipped")
    args = parser.parse_args()
    if not args.measure_only:
        prior, rows, targets = load_corpus(build_corpus(args.work / "corpus", args.threads))
        print(f"{len(rows) / 360000:.1f} hours of speech", flush=True)
        net = train(rows, targets, args.work / "checkpoint.pt", args.steps, args.threads)
        export(net, prior, OUTPUT)
        speech.load_net.cache_clear()
    for name in (*corpus.TRAIN_VOICES[:3], corpus.HELD_OUT_VOICE):
        print(name, json.dumps({k: round(v, 3) for k, v in closure_scores(name, 40, seed=77).items()}))


if __name__ == "__main__":
    main()
