"""A finished picture made better: enlarged, its faces restored. Imported when the first such job runs.

    read -> enlarge (one upscaler, or two blended) -> cut to size -> find faces -> restore them -> save

A1111's order, names and infotext. What the file said of how it was made is kept.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from webui.builtin import save
from webui.builtin.kinds import LITE, LONGEST_SIDE, ExtrasRequest, any_size
from webui.imaging import infotext, restore, upscale
from webui.imaging.enhancers import STOPPED
from webui.plugin_api import Cancelled, InvalidRequest, JobContext, JobResult, face_finder, read_picture
from webui.weights import detect

KIND = "extras"

_RESULT = re.compile(r"\d{8}-\d{6}-(.+)-[0-9a-f]{16}")
"""How a file that was made here is called: with the name that it had before."""

LONGEST = {"jpg": 65_500, "webp": 16_383}
"""Pixels of a side that a file of this kind can have; a PNG has room for all that is made here."""

LARGER, FACES = (0.02, 0.75), (0.8, 0.98)
"""Parts of the progress."""


def run(ctx: JobContext, request: ExtrasRequest, started: float) -> JobResult:
    """Make the picture. Raises webui.errors only.

    started: time.perf_counter() when the job began.
    """
    work = Work(ctx, request)
    rgb = work.read()
    if request.upscaler:
        with work.timed("upscale"):
            rgb = work.enlarge(rgb)
    if request.restore and request.restore_strength > 0:
        with work.timed("restore"):
            rgb = work.restore_faces(rgb)
    work.check_cancelled()
    ctx.preview(rgb, finished=True)
    ctx.progress(1.0, "saving")
    source = ctx.input(request.image)
    text = kept_and_extended(source, {"Size": f"{rgb.shape[1]}x{rgb.shape[0]}"}, work.facts)
    done = ", ".join(f"{key}: {_quoted(str(value))}" for key, value in work.facts.items())
    with ctx.output(f".{request.format}", _RESULT.sub(r"\1", source.stem)) as output:
        save.write_picture(output.path, rgb, text, request.format, done)
    assert output.artifact is not None
    said = {
        **work.said,
        "size": [rgb.shape[1], rgb.shape[0]],
        "infotexts": [text],
        "postprocessing": done,
        "seconds": {**work.seconds, "total": round(time.perf_counter() - started, 3)},
    }
    return JobResult((output.artifact,), said)


def kept_and_extended(source: Path, own: dict[str, object], facts: dict[str, object]) -> str:
    """The infotext of a file with what was done to it now. own: said besides when the file had none."""
    text = infotext.extract(source) or ""
    found = infotext.read(text)
    if found.facts:
        return infotext.write({**found.facts, **facts}, found.prompt, found.negative_prompt)
    return infotext.write({**own, **facts, save.KIND: KIND}, found.prompt, found.negative_prompt) if facts else text


class Work:
    """One job. facts: by A1111's names, for infotext; said: for the result; seconds: per part."""

    def __init__(self, ctx: JobContext, request: ExtrasRequest):
        self._ctx, self._request = ctx, request
        self._models: dict[str, Any] = {"device": ctx.settings.device, "allow_pickles": ctx.settings.allow_pickles}
        self.facts: dict[str, object] = {}
        self.said: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}

    def read(self) -> np.ndarray:
        """The picture at its full size."""
        self._ctx.progress(0.0, "reading the picture")
        self._check_means()
        picture = read_picture(self._ctx.input(self._request.image), LONGEST_SIDE)
        for note in picture.notes:
            self._ctx.warn(note)
        if picture.alpha is not None:
            self._ctx.warn("The picture was transparent in places; these are white now.")
        if not self._request.upscaler:
            self._check_fits(*picture.rgb.shape[1::-1])
        return picture.rgb

    def enlarge(self, rgb: np.ndarray) -> np.ndarray:
        """The picture in its new size, by one upscaler or two."""
        asked = self._request
        second = asked.upscaler_2 if asked.upscaler_2_visibility > 0 else None
        middle = LARGER[1] if second is None else sum(LARGER) / 2
        large, width, height = self._by(asked.upscaler or "", rgb, (LARGER[0], middle), None)
        if second:
            other, _, _ = self._by(second, rgb, (middle, LARGER[1]), (width, height))
            large = upscale.blended(large, other, asked.upscaler_2_visibility)
        if asked.size and asked.crop:
            large = _middle(large, *any_size(asked.size))
            self.facts["Postprocess crop to"] = asked.size
        return large

    def _by(
        self, name: str, rgb: np.ndarray, span: tuple[float, float], size: tuple[int, int] | None
    ) -> tuple[np.ndarray, int, int]:
        """The picture by one upscaler, and its width and height. size: to have these."""
        asked, first = self._request, size is None
        self._ctx.progress(span[0], "loading the upscaler")
        with upscale.leased(name, self._ctx.settings.models_dir, **self._models) as upscaler:
            scale = asked.scale or float(upscaler.scale)
            wanted = any_size(asked.size) if asked.size else None
            width, height = size or upscale.target_size(rgb.shape[1], rgb.shape[0], scale, wanted, asked.crop)
            self._check_fits(*(wanted if wanted and asked.crop else (width, height)))
            self._ctx.progress(span[0], "enlarging")
            tell = self._progress(span, "enlarging")
            large = upscaler.to_size(rgb, width, height, tell, lambda: self._ctx.cancelled)
        if first:
            grown = {"Postprocess upscale to": asked.size} if asked.size else {"Postprocess upscale by": f"{scale:g}"}
            self.facts |= {**grown, "Postprocess upscaler": upscaler.name}
            self.said["upscaler"] = upscaler.name
        else:
            self.facts["Postprocess upscaler 2"] = self.said["upscaler_2"] = upscaler.name
        self.check_cancelled()
        return large, width, height

    def restore_faces(self, rgb: np.ndarray) -> np.ndarray:
        """The picture with all its faces restored; as it is, and a warning, when none is found."""
        ctx, asked = self._ctx, self._request
        ctx.progress(LARGER[1], "finding faces")
        faces = face_finder().find(rgb)
        self.check_cancelled()
        self.said["faces"] = len(faces)
        if not faces:
            ctx.warn("No face was found in the picture, so none was restored.")
            return rgb
        ctx.progress(FACES[0], "loading the face restorer")
        with restore.leased(asked.restore or "", ctx.settings.models_dir, **self._models) as restorer:
            ctx.progress(FACES[0], "restoring faces")
            tell = self._progress(FACES, "restoring faces")
            watch: dict[str, Any] = {"progress": tell, "stopped": lambda: ctx.cancelled}
            how = {"strength": asked.restore_strength, "fidelity": asked.fidelity}
            rgb = restorer.picture(rgb, [face.landmarks for face in faces], **how, **watch)
        make = detect.NAMES[restorer.make]
        self.said["restorer"] = restorer.name
        self.facts[f"{make} visibility"] = f"{asked.restore_strength:.3g}"
        if restorer.make == "codeformer":
            self.facts["CodeFormer weight"] = f"{asked.fidelity:.3g}"
        return rgb

    def check_cancelled(self) -> None:
        if self._ctx.cancelled:
            raise Cancelled(STOPPED)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[part] = round(time.perf_counter() - begun, 3)

    def _check_means(self) -> None:
        """Raise what will be missing, before any work: ModelMissing, UnsupportedModel, InvalidRequest."""
        asked, settings = self._request, self._ctx.settings
        upscalers = [name for name in (asked.upscaler, asked.upscaler_2) if name and not upscale.without_file(name)]
        if settings.lite and (asked.restore or upscalers):
            raise InvalidRequest(LITE)
        for name in upscalers:
            upscale.find(name, settings.models_dir, allow_pickles=settings.allow_pickles)
        if asked.restore:
            restore.find(asked.restore, settings.models_dir, allow_pickles=settings.allow_pickles)

    def _check_fits(self, width: int, height: int) -> None:
        """Raise InvalidRequest for a picture that the file which was asked for cannot hold."""
        kind = self._request.format
        if kind in LONGEST and max(width, height) > LONGEST[kind]:
            raise InvalidRequest(
                f"A {kind} file holds no picture of {width}x{height} pixels: {LONGEST[kind]} is the longest side. Choose png, or "
                "a smaller scale or size."
            )

    def _progress(self, span: tuple[float, float], stage: str) -> Callable[[float], None]:
        begin, end = span
        return lambda done: self._ctx.progress(begin + done * (end - begin), stage)


def _middle(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    top, left = (rgb.shape[0] - height) // 2, (rgb.shape[1] - width) // 2
    return np.ascontiguousarray(rgb[top : top + height, left : left + width])


def _quoted(value: str) -> str:
    """A1111's way with values in a line of facts."""
    return json.dumps(value, ensure_ascii=False) if re.search("[,:\n]", value) else value
