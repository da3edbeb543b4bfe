"""X/Y/Z plots: a picture for each combination of values, in a step that a crash does not undo, then sheets of them side by side.

Pictures are made model by model, so that each is loaded once. Imported when the first plot runs.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from webui.builtin import draw, save, studio
from webui.builtin.axes import AXES, NOTHING, Cell, Value
from webui.builtin.grid import Sheet, sheet
from webui.builtin.kinds import Img2ImgRequest, PlotRequest, Txt2ImgRequest, plot_cells
from webui.builtin.studio import Means
from webui.imaging import infotext
from webui.plugin_api import Artifact, Cancelled, JobContext, JobResult

SKIPPED: dict[str, Any] = {}
"""What a step gives back whose picture was skipped."""

Lines = dict[str, list[Value]]
CellRequest = Txt2ImgRequest | Img2ImgRequest


def run(ctx: JobContext, request: PlotRequest) -> JobResult:
    """Make the plot: its sheets, one for each z value, then every picture. Cancelled, it keeps those that are there."""
    started = time.perf_counter()
    ctx.progress(0.0, "choosing the model")
    lines, cells = plot_cells(request, ctx.seed)
    asked = [cell_request(request, cell) for cell in cells]
    for one in asked:
        draw.check(one)
    means = [Means(**one) for one in ctx.step("means", lambda: _chosen(ctx, asked))]
    for one, chosen in zip(asked, means, strict=True):
        draw.tell_exchanged(ctx, one, chosen)
    order = sorted(range(len(cells)), key=lambda number: means.index(means[number]))
    with ExitStack() as stack:
        pictures = Pictures(ctx, asked, means, order, stack)
        made = ctx.map("picture", pictures.make, range(len(order)))
    found = {one["number"]: one for one in made if one}
    if not found:
        raise Cancelled("The job ended before the first picture of the plot was there.")
    if skipped := made.count(SKIPPED):
        ctx.warn(f"Skipped pictures, which were not kept: {skipped}.")
    ctx.progress(1.0, "saving")
    sheets = [_sheet(ctx, request, lines, cells, found, z) for z in range(len(lines["z"]))]
    words = draw.stem(request.prompt) or "plot"
    kept = [draw.copied(ctx, draw.name(number), f"{words} {found[number]['seed']}", request.format) for number in sorted(found)]
    complete = len(found) == len(cells) and all(one["complete"] for one in found.values())
    facts = {
        "model": ", ".join(dict.fromkeys(one.model for one in means)),
        "sheets": len(sheets),
        **{f"{axis}_values": [one.written for one in lines[axis]] for axis in AXES if lines[axis] != [Value("", {})]},
        "seeds": [found[number]["seed"] for number in sorted(found)],
        "infotexts": [found[number]["infotext"] for number in sorted(found)],
        "blurred": sum(one["blurred"] for one in found.values()),
        "complete": complete,
        "skipped": skipped,
        "seconds": {"total": round(time.perf_counter() - started, 3)},
    }
    return JobResult((*sheets, *kept), facts)


def cell_request(request: PlotRequest, cell: Cell) -> CellRequest:
    """What a cell asks for, as if it had been asked for alone."""
    if request.image is None:
        return Txt2ImgRequest(**cell.fields)
    known = {name: value for name, value in cell.fields.items() if name in Img2ImgRequest.model_fields}
    return Img2ImgRequest(**known, image=request.image, resize=request.resize)


def _chosen(ctx: JobContext, asked: list[CellRequest]) -> list[dict[str, Any]]:
    """The means of each cell. Each model and VAE is looked for once."""
    known: dict[tuple[str | None, str | None], dict[str, Any]] = {}
    for one in asked:
        if (one.model, one.vae) not in known:
            known[one.model, one.vae] = asdict(studio.choose(ctx.settings, one))
    return [known[one.model, one.vae] for one in asked]


class Pictures:
    """Makes one cell after another. A model is leased for the first picture that needs it, until another one is needed."""

    def __init__(
        self, ctx: JobContext, asked: list[CellRequest], means: list[Means], order: list[int], stack: ExitStack
    ):
        """order: of the cells. stack: ends the lease."""
        self._ctx, self._asked, self._means, self._order, self._stack = ctx, asked, means, order, stack
        self._draw = draw.prepared(ctx, asked[0], means[0].longest_side)
        self._watch = draw.PartWatch(ctx, "picture", len(order))
        self._taken: tuple[Means, Any] | None = None

    def make(self, place: int) -> dict[str, Any] | None:
        """Make the picture of this place in the order, and leave it in the job's folder. SKIPPED when it was; None when the job
        was stopped before there was anything of it."""
        number = self._order[place]
        request, means = self._asked[number], self._means[number]
        self._watch.part, self._watch.span = place, (place, place + 1)
        if self._taken is None or self._taken[0] != means:
            self._stack.close()
            self._watch.progress(0.0, "loading the model")
            self._taken = means, draw.taken(self._ctx, means, self._stack)
        model, how, seen = self._taken[1]
        seed = self._ctx.seed if request.seed is None else request.seed
        for picture in self._draw(model, request, self._watch, seed, how):
            return SKIPPED if picture.skipped else draw.left(self._ctx, request, means, number, seen(picture))
        return None


def _sheet(
    ctx: JobContext, request: PlotRequest, lines: Lines, cells: list[Cell], found: dict[int, dict[str, Any]], z: int
) -> Artifact:
    """Save the sheet of a z value."""
    here = {number: cell for number, cell in enumerate(cells) if cell.z == z and number in found}
    pictures = {(cell.x, cell.y): ctx.folder / draw.name(number) for number, cell in here.items()}
    labels = {axis: [_label(request, axis, value) for value in lines[axis]] for axis in AXES}
    made = sheet(pictures, labels["x"], labels["y"], labels["z"][z], legend=request.legend)
    _tell(ctx, made)
    ctx.preview(made.rgb, finished=True)
    text = infotext.write(_facts(request, ctx.seed, next(iter(found.values()))["infotext"]), request.prompt, request.negative)
    words = draw.stem(request.prompt)
    with ctx.output(f".{request.format}", f"{words} plot" if len(lines["z"]) == 1 else f"{words} plot {z + 1}") as output:
        save.write_picture(output.path, made.rgb, text, request.format)
    assert output.artifact is not None
    return output.artifact


def _label(request: PlotRequest, axis: str, value: Value) -> str:
    name = getattr(request, f"{axis}_axis")
    return f"{name}: {value.written}" if name != NOTHING and not value.search else value.written


def _tell(ctx: JobContext, made: Sheet) -> None:
    if made.scale < 1:
        ctx.warn(f"The plot's sheet would be too large, so its pictures were made smaller in it, to {made.scale:.0%}.")
    if made.boxes:
        ctx.warn("This computer has no font with all letters of the plot's legend: those that it lacks are boxes.")


def _facts(request: PlotRequest, seed: int, of_a_picture: str) -> dict[str, object]:
    """A1111's facts of a plot, of which it can be made again. seed: the job's.

    of_a_picture: the infotext of one of its pictures. What may follow there from that one's own values is as it was asked for.
    """
    facts: dict[str, object] = {**infotext.read(of_a_picture).facts, save.UNFINISHED: None, save.SAFETY: None}
    facts |= {"Sampler": request.sampler, "Schedule type": request.schedule, "Clip skip": request.clip_skip, "Seed": seed}
    facts |= {"Variation seed": request.variation_seed, "Variation seed strength": request.variation or None}
    facts |= {"VAE": request.vae, "VAE hash": None, save.OWN_SIZE: True if request.size is None else None}
    facts |= {save.KIND: "plot", save.SCRIPT: save.PLOT}
    for axis in AXES:
        if (name := getattr(request, f"{axis}_axis")) != NOTHING:
            facts |= {f"{axis.upper()} Type": name, f"{axis.upper()} Values": getattr(request, f"{axis}_values")}
    return facts | {save.LEGEND: None if request.legend else False}
