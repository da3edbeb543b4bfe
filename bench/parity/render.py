"""Stages from coefficients to frames: semantics, free view, mapping, keypoints, the renderer, and all of them in a row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch

from bench.parity.report import COEFFICIENTS, FRAMES, LEVELS, SEMANTICS, Compared, Goldens, Nets, Stage, compare
from extensions.sadtalker import camera
from extensions.sadtalker.engines.neural import keypoints, render
from extensions.sadtalker.engines.neural import semantics as windows_of
from extensions.sadtalker.engines.neural.coefficients import EXPRESSION, WHOLE

RAMP = "free view takes its angles at an even pace and reaches the last one; upstream's ramps stop a step short of each"

BATCH = {"make_animation": 2, "make_animation_full": 1}
"""Frames that upstream drew at once, which the file does not tell (GOLDENS.md does)."""


def semantics(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    for case in goldens.cases("semantics/output"):
        array = f"semantics/output/{case}"
        if array in goldens:
            yield _ramp(goldens, array, goldens[f"semantics/input/input_{case.replace('_c_seq', '_list')}"], _frames(goldens))
            continue
        target = goldens[f"{array}/target"]
        batch, _, channels, _ = target.shape
        coefficients, source = goldens["semantics/input/coeff"], goldens["semantics/input/source_coeff"]
        options: dict[str, Any] = {"full": channels == WHOLE, "still": "still" in case}
        scale = _scale(coefficients, target) if "scale" in case else 1.0
        ours = windows_of.windows(coefficients, source, 0, len(coefficients), expression_scale=scale, **options)
        photo = windows_of.of_photo(source, full=options["full"]).repeat(batch, axis=0)
        yield compare(f"{array}/source", photo, goldens[f"{array}/source"], SEMANTICS)
        yield compare(f"{array}/target", _batched(ours, batch), target, SEMANTICS)


def free_view(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    for case in goldens.cases("camera/input"):
        frames = int(re.search(r"\d+", case).group())  # type: ignore[union-attr]  # "n50": 50 frames
        yield _ramp(goldens, f"camera/output/{case}", goldens[f"camera/input/{case}"], frames)


def mapping(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    for case in goldens.cases("mapping/input"):
        windows = torch.from_numpy(goldens[f"mapping/input/{case}"])
        heads = nets.mapping(full=windows.shape[1] == WHOLE)(windows)
        for name in goldens.cases(f"mapping/output/{case}"):
            array = f"mapping/output/{case}/{name}"
            yield compare(array, heads[name], goldens[array], COEFFICIENTS)


def kp(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    for case in goldens.cases("kp/input"):
        image = goldens[f"kp/input/{case}"]
        array = f"kp/output/{case.replace('image', 'canonical')}"
        yield compare(array, nets.keypoints(image.shape[0])(_picture(image)), goldens[array], COEFFICIENTS)


def kp_transform(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    if not goldens.cases("kp_transform/input"):
        return
    given = {name: torch.from_numpy(goldens[f"kp_transform/input/{name}"]) for name in goldens.cases("kp_transform/input")}
    canonical, turns = given["kp_canonical"], ("yaw", "pitch", "roll")
    angles = [keypoints.degrees(given[name]) for name in turns]
    free = {name: given[f"{name}_in"] for name in turns}
    ours = {
        "degrees_ypr": torch.stack(angles, dim=1),
        "rotation": keypoints.rotation(*angles),
        "kp": keypoints.moved(canonical, given),
        "kp_override": keypoints.moved(canonical, given, **free),
        "kp_yaw_only": keypoints.moved(canonical, given, yaw=free["yaw"]),
    }
    for name, value in ours.items():
        array = f"kp_transform/output/{name}"
        yield compare(array, value, goldens[array], COEFFICIENTS)


def generator(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    for image in (name for name in goldens.cases("generator/input") if name.startswith("image")):
        picture = _picture(goldens[f"generator/input/{image}"])
        net = nets.generator(picture.shape[-1])
        source = net.source(picture, torch.from_numpy(goldens["generator/input/kp_source"]))
        driving = torch.from_numpy(goldens["generator/input/kp_driving"])
        with _watched(net) as seen:
            frames = [net.frame(source, driving[:1])]
        frames += [net.frame(source, one[None]) for one in driving[1:]]
        array = f"generator/output/{image.replace('image', 'frames')}"
        yield compare(array, torch.cat(frames).permute(0, 2, 3, 1), goldens[array], FRAMES)
        seen["feature3d"] = source.voxels.permute(3, 0, 1, 2)
        seen["fourth"] = _channels_first(net.warped(source, seen["deformation"][None]))
        for name in goldens.cases("generator/output"):
            array = f"generator/output/{name}"
            match = re.fullmatch(r"(?:frame0_)?(\w+?)(?:_stride\d+)?", name)
            if match and match[1] in seen:
                golden = goldens[array]
                yield compare(array, _strided(seen[match[1]], golden.shape), golden, FRAMES)


def generator512(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    if not goldens.cases("generator512/input"):
        return
    picture = _picture(goldens["generator512/input/image"])
    net = nets.generator(picture.shape[-1])
    canonical = nets.keypoints(picture.shape[-1])(picture)
    source = net.source(picture, torch.from_numpy(goldens["generator512/input/kp_source"]))
    with _watched(net) as seen:
        frame = net.frame(source, torch.from_numpy(goldens["generator512/input/kp_driving"]))
    for name, ours, bound in (
        ("canonical", canonical, COEFFICIENTS),
        ("frame", frame[0].permute(1, 2, 0), FRAMES),
        ("occlusion", seen["occlusion"], FRAMES),
    ):
        array = f"generator512/output/{name}"
        yield compare(array, ours, goldens[array], bound)


def make_animation(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    if not goldens.cases("make_animation/input"):
        return
    frames = _animation(goldens, nets, "make_animation", full=False)
    array = "make_animation/output/frames"
    yield compare(array, frames.permute(0, 2, 3, 1), goldens[array], FRAMES)
    first = goldens["make_animation/output/frame0_uint8"]
    yield compare("make_animation/output/frame0_uint8", render.eight_bit(frames[:1])[0], first, LEVELS)
    width, height = goldens["make_animation/input/crop_info_size_wh"]
    array = "make_animation/output/frame0_resized_uint8"
    # Of upstream's frame: a level there is up to two here.
    size = first.shape[1]
    yield compare(array, cv2.resize(first, (size, int(size * height / width))), goldens[array], LEVELS)


def make_animation_full(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    if not goldens.cases("make_animation_full/input"):
        return
    angles = {}
    for name in ("yaw", "pitch", "roll"):
        array = f"make_animation_full/output/{name}_c_seq"
        frames = len(goldens["make_animation_full/input/coeff"])
        yield _ramp(goldens, array, goldens[f"make_animation_full/input/{name}_list"], frames)
        angles[name] = goldens[array].reshape(-1)[:frames]
    drawn = _animation(goldens, nets, "make_animation_full", full=True, angles=angles)
    array = "make_animation_full/output/frames"
    yield compare(array, drawn.permute(0, 2, 3, 1), goldens[array], FRAMES)


STAGES: dict[str, Stage] = {
    "semantics": semantics, "camera": free_view, "mapping": mapping, "kp": kp, "kp_transform": kp_transform,
    "generator": generator, "generator512": generator512, "make_animation": make_animation,
    "make_animation_full": make_animation_full,
}  # fmt: skip


def _animation(
    goldens: Goldens, nets: Nets, stage: str, *, full: bool, angles: dict[str, np.ndarray] | None = None
) -> torch.Tensor:
    """The clip of a stage, (T, 3, S, S) 0..1, as render.frames has it but for the eight bits."""
    given = {name: goldens[f"{stage}/input/{name}"] for name in goldens.cases(f"{stage}/input")}
    size = given["image"].shape[0]
    scale = float(given["expression_scale"][0]) if "expression_scale" in given else 1.0
    mapping, detector = (_in_batches(net, BATCH[stage]) for net in (nets.mapping(full=full), nets.keypoints(size)))
    generator = nets.generator(size)
    drawing = render.Nets(mapping, detector, lambda: generator, generator.device)
    face = render.prepare(drawing, given["image"], given["source_coeff"], full=full)
    windows = windows_of.windows(
        given["coeff"], given["source_coeff"], 0, len(given["coeff"]), full=full, still=False, expression_scale=scale
    )
    turns = {name: torch.from_numpy(degrees) for name, degrees in (angles or {}).items()}
    points = keypoints.moved(face.canonical, drawing.mapping(torch.from_numpy(windows)), **turns)
    return torch.cat(list(render.drawn(drawing, face, points.numpy())))


def _in_batches(net: Any, batch: int) -> Any:
    """The network called with as many rows at once as upstream did, and with the same ones: its last digits depend on that, and
    a voxel at the threshold of the dense motion on them. (The product calls these two once for a photo and for many frames.)
    """

    def called(rows: torch.Tensor) -> Any:
        shared = torch.from_numpy(_batched(rows.numpy(), batch))
        found = [net(shared[:, i].contiguous()) for i in range(shared.shape[1])]
        if isinstance(found[0], dict):
            return {name: _unbatched([one[name] for one in found], len(rows)) for name in found[0]}
        return _unbatched(found, len(rows))

    return called


def _unbatched(found: list[torch.Tensor], count: int) -> torch.Tensor:
    return torch.stack(found, dim=1).flatten(0, 1)[:count]


def _ramp(goldens: Goldens, array: str, degrees: np.ndarray, frames: int) -> Compared:
    """Ours may be another only where upstream's ramps are what upstream has."""
    golden = goldens[array]
    ours, theirs = (_batched(way(degrees.tolist(), frames), golden.shape[0]) for way in (camera.sequence, _as_upstream))
    understood = compare(array, theirs, golden, SEMANTICS).within
    return compare(array, ours, golden, SEMANTICS, deviates=RAMP if understood else "")


def _as_upstream(degrees: list[float], frames: int) -> np.ndarray:
    """Upstream's ramps, each without its end: cut off, or their last angle repeated, for so many frames."""
    pace = np.abs(np.diff(degrees)).sum() / max(frames - 1, 1)
    ramps = [np.arange(start, end, pace * np.sign(end - start)) for start, end in pairwise(degrees) if start != end]
    taken = np.concatenate(ramps or [degrees[:1]])
    return np.concatenate([taken, taken[-1:].repeat(frames)])[:frames]


def _frames(goldens: Goldens) -> int:
    return len(goldens["semantics/input/coeff"])


def _batched(rows: np.ndarray, batch: int) -> np.ndarray:
    """As upstream shares out frames: a block of them for each item of the batch, the last one repeated to fill the last block."""
    missing = -len(rows) % batch
    return np.concatenate([rows, rows[-1:].repeat(missing, axis=0)]).reshape(batch, -1, *rows.shape[1:])


def _scale(coefficients: np.ndarray, target: np.ndarray) -> float:
    """The expression scale of a case, which the file does not tell, but for what came of it: in each window's middle, here."""
    middle = target[:, :, EXPRESSION, windows_of.RADIUS].reshape(-1, 64)[: len(coefficients)].astype(np.float64)
    unscaled = coefficients[:, EXPRESSION].astype(np.float64)
    return round(float((middle * unscaled).sum() / (unscaled**2).sum()), 4)


def _picture(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def _channels_first(image: torch.Tensor) -> torch.Tensor:
    return image[0].permute(2, 0, 1)


def _strided(array: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Every nth value along each side, so that it has this shape."""
    return array[tuple(slice(None, None, -(-mine // its)) for mine, its in zip(array.shape, shape, strict=True))]


@contextmanager
def _watched(net: Any) -> Iterator[dict[str, torch.Tensor]]:
    """What the parts of a generator say about one frame, as the golden file has it: channels first."""
    seen: dict[str, torch.Tensor] = {}

    def motion(_module: Any, _inputs: Any, output: Any) -> None:
        seen["deformation"], seen["occlusion"] = output[0][0].clone(), output[1][0, :, :, 0].clone()

    def volume(_module: Any, _inputs: Any, output: Any) -> None:
        seen["hourglass"] = output[0].clone()

    def mask(_module: Any, _inputs: Any, output: Any) -> None:
        seen["mask"] = output[0].softmax(0)

    def image(name: str) -> Any:
        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            seen[name] = _channels_first(output).clone()

        return keep

    parts = [
        (net.dense_motion, motion), (net.dense_motion.hourglass, volume), (net.dense_motion.mask, mask),
        (net.decoder.middle[-1], image(f"G_middle_{len(net.decoder.middle) - 1}")), (net.decoder.grow[0], image("up_0")),
    ]  # fmt: skip
    with ExitStack() as hooks:
        for part, look in parts:
            hooks.callback(part.register_forward_hook(look).remove)
        yield seen
