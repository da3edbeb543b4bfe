"""X/Y/Z plots: how values are written, what is made of them, and what comes back from a sheet."""

# The fixtures of tests/test_builtin.py are used here under their own names.
# ruff: noqa: F401, F811

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from tests.test_builtin import BY_NAME, calm, context, crash, made, models, photo, pixels, run, shelf, skipping
from webui.builtin import axes, grid, studio
from webui.builtin.kinds import PlotRequest, plot_cells
from webui.builtin.tabs import plot
from webui.errors import Cancelled, InvalidRequest
from webui.imaging import infotext
from webui.jobs.validation import validated

WORDS = {"prompt": "a red fox", "negative": "red", "seed": 5}


def written(axis: str, values: str) -> list[str]:
    return [one.written for one in axes.values(axis, values, WORDS)]


@pytest.mark.parametrize(
    ("axis", "values", "expected"),
    [
        ("Steps", "1-5", ["1", "2", "3", "4", "5"]),
        ("Steps", "1-5 (+2)", ["1", "3", "5"]),
        ("Steps", "10-4 (-3), 20", ["10", "7", "4", "20"]),
        ("Steps", "1-10 [4]", ["1", "4", "7", "10"]),
        ("Steps", "1-10[5],", ["1", "3", "5", "7", "10"]),
        ("Steps", "1,\r2\r\n3\n\0 4", ["1", "2", "3", "4"]),
        ("CFG scale", "1-2 (+0.5)", ["1.0", "1.5", "2.0"]),
        ("CFG scale", "5, 7.5", ["5.0", "7.5"]),
        ("CFG scale", "1-10 [4]", ["1.0", "4.0", "7.0", "10.0"]),
        ("Seed", "-1, 9, -1", ["5", "9", "7"]),
        ("Seed", "4294967295, -1", ["4294967295", "6"]),
        ("Prompt S/R", 'red, "very, very blue",', ["red", "very, very blue", ""]),
        ("Model", '"a, b.safetensors", pocket', ["a, b.safetensors", "pocket"]),
        ("Size", "64x96, 128 x 64", ["64x96", "128 x 64"]),
        ("Nothing", "whatever", [""]),
    ],
)
def test_values_are_written_as_in_a1111(axis: str, values: str, expected: list[str]):
    assert written(axis, values) == expected


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"x_axis": "Steps"}, "the axis Steps has no values."),
        ({"x_axis": "Steps", "x_values": "many"}, "Steps wants numbers such as 1, 2, 3 or 1-10 (+3) or 1-10 [4], not “many”."),
        ({"x_axis": "Steps", "x_values": "1.5"}, "Steps wants numbers"),
        ({"x_axis": "Steps", "x_values": "0-5"}, "Steps must be at least 1, not 0."),
        ({"x_axis": "CFG scale", "x_values": "5, 31"}, "CFG scale must be at most 30, not 31."),
        ({"x_axis": "Steps", "x_values": "5-1"}, "never gets to its end."),
        ({"x_axis": "Steps", "x_values": "1-5 (+0)"}, "never gets to its end."),
        ({"x_axis": "Size", "x_values": "64x7"}, "Size 64x7 must have sides from 64 to 4096"),
        ({"x_axis": "Prompt S/R", "x_values": "cat, dog"}, "“cat” is not in the prompt."),
        ({"x_axis": "Steps", "x_values": "1-2", "y_axis": "Steps", "y_values": "3"}, "Steps is on two axes."),
        ({"x_axis": "Seed", "x_values": "0-400"}, "that is a plot of 401 pictures, and the most is 400."),
        ({"x_axis": "Seed", "x_values": "0-4294967295 [4000000000]"}, "and the most is 400."),
        ({"x_axis": "Hires steps", "x_values": "1, 2"}, "Hires steps changes nothing without hires."),
        ({"x_axis": "Denoising strength", "x_values": "0.1, 0.2"}, "Denoising strength changes nothing here."),
        ({"image": "a", "hires": True}, "Leave the picture out, or hires."),
        ({"x_axis": "Steps", "x_values": "1-5 [0]"}, "Steps wants numbers"),
        ({"x_axis": "Prompt S/R"}, "the axis Prompt S/R has no values."),
        ({"x_axis": "Steps", "x_values": "9" * 5000}, "Steps wants numbers"),
        ({"x_axis": "CFG scale", "x_values": f"1-2 (+0.{'0' * 320}1)"}, "CFG scale wants numbers"),
        ({"x_axis": "Steps", "x_values": f"1-2 [{'9' * 5000}]"}, "Steps wants numbers"),
        ({"x_axis": "Model", "x_values": "a" * 301}, "Model “aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…” has more than 300"),
        ({"x_axis": "Sampler", "x_values": "a" * 61}, "has more than 60 characters."),
        ({"prompt": "a" * 8000, "x_axis": "Prompt S/R", "x_values": f"a,{'b' * 7000}"}, "a prompt has more than 8000"),
        ({"x_axis": "Style"}, "'x_axis' must be 'Nothing', 'Seed'"),
        ({"batch_count": 2}, "'batch_count' is not an option here."),
    ],
)
def test_what_cannot_be_drawn_is_refused_at_once(asked: dict[str, Any], said: str):
    with pytest.raises(InvalidRequest) as refused:
        validated(PlotRequest, {**WORDS, **asked})
    assert said in str(refused.value)


def test_seeds_begin_again_behind_the_last():
    request = validated(PlotRequest, {"x_axis": "Seed", "x_values": "-1, -1", "seed": 2**32 - 1})
    assert [cell.fields["seed"] for cell in plot_cells(request, 2**32 - 1)[1]] == [2**32 - 1, 0]


def test_names_that_are_not_there_are_said_before_anything_is_made(shelf: Path, tmp_path: Path):
    for axis, values, said in (("Sampler", "Euler, Eular", "no sampler “Eular”"), ("Model", "first, secnd", "no model 'secnd'")):
        ctx = context(shelf, tmp_path / axis)
        with pytest.raises(Exception, match=said):
            run(ctx, "plot", x_axis=axis, x_values=values)
        assert ctx.previews == 0


def test_each_cell_is_what_it_would_be_alone_and_the_sheet_shows_them_in_their_places(shelf: Path, tmp_path: Path):
    asked = {"x_axis": "Steps", "x_values": "1, 3", "y_axis": "Prompt S/R", "y_values": "red, blue", "legend": False}
    result = run(context(shelf, tmp_path / "plot"), "plot", **asked)
    sheet, *cells = (pixels(artifact.path) for artifact in result.artifacts)
    expected = [
        made(run(context(shelf, tmp_path / f"{steps} {colour}"), steps=steps, prompt=f"a {colour} lighthouse"))[0]
        for colour in ("red", "blue") for steps in (1, 3)
    ]  # fmt: skip
    assert made(result)[1:] == expected
    assert np.array_equal(sheet, np.vstack([np.hstack(cells[:2]), np.hstack(cells[2:])]))
    assert result.data["x_values"] == ["1", "3"] and result.data["y_values"] == ["red", "blue"] and result.data["complete"]


def test_a_sheet_for_each_z_and_models_are_loaded_once_each(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    leases, real = [], studio.leased
    monkeypatch.setattr(studio, "leased", lambda settings, means, say: leases.append(means.model) or real(settings, means, say))
    axes_asked = {"x_axis": "Model", "x_values": "first, painter", "y_axis": "Size", "y_values": "64x64, 72x64"}
    result = run(context(shelf, tmp_path), "plot", **axes_asked, z_axis="Seed", z_values="-1, -1", steps=1)
    assert leases == ["first", "painter"]
    assert result.data["sheets"] == 2 and len(result.artifacts) == 10
    sheets = [pixels(artifact.path) for artifact in result.artifacts[:2]]
    assert sheets[0].shape[0] > 2 * 64 and sheets[0].shape[1] > 2 * 72 and not np.array_equal(*sheets)
    found = [infotext.read(infotext.extract(artifact.path)).facts for artifact in result.artifacts[2:]]
    assert [one["Model"] for one in found] == ["first", "painter"] * 4 and [one["Seed"] for one in found] == ["5"] * 4 + ["6"] * 4


def test_a_plot_can_begin_with_a_picture(shelf: Path, tmp_path: Path):
    files = {"photo": photo(tmp_path / "photo.png")}
    asked = {"image": "photo", "x_axis": "Denoising strength", "x_values": "0.4, 1"}
    result = run(context(shelf, tmp_path / "plot", **files), "plot", **asked)
    alone = run(context(shelf, tmp_path / "alone", **files), "img2img", image="photo", strength=0.4)
    assert made(result)[1] == made(alone)[0] != made(result)[2]


def test_a_plot_that_died_goes_on_where_it_was(shelf: Path, tmp_path: Path):
    asked = {"x_axis": "Seed", "x_values": "1-3", "y_axis": "Model", "y_values": "first, painter", "steps": 1}
    whole = run(context(shelf, tmp_path / "whole"), "plot", **asked)
    ctx = context(shelf, tmp_path / "died")
    crash(ctx, "begin", "picture 3", kind="plot", **asked)
    again = ctx.again()
    assert made(run(again, "plot", **asked)) == made(whole)
    assert again.begun == ["picture 3", "picture 4", "picture 5"]


def test_what_was_skipped_or_not_made_is_grey(shelf: Path, tmp_path: Path):
    asked = {"x_axis": "Seed", "x_values": "1-3", "legend": False}
    ctx = skipping(context(shelf, tmp_path / "skip"), "denoising, picture 2 of 3")
    result = run(ctx, "plot", **asked)
    assert len(result.artifacts) == 3 and result.data["skipped"] == 1 and not result.data["complete"]
    sheet = pixels(result.artifacts[0].path)
    assert (sheet[:, 64:128] == grid.MISSING).all() and sheet[:, 128:].std() > 1
    ctx = context(shelf, tmp_path / "stop")
    ctx._on = lambda what, name: setattr(ctx, "cancelled", ctx.cancelled or name == "picture 1")
    assert run(ctx, "plot", **asked).data["skipped"] == 0 and ctx.warnings == []
    ctx = context(shelf, tmp_path / "cancel")
    ctx.cancelled = True
    with pytest.raises(Cancelled):
        run(ctx, "plot", **asked)


def test_a_sheet_gives_back_the_request_and_a_picture_its_own(shelf: Path, tmp_path: Path):
    asked = {"x_axis": "Steps", "x_values": "1-3 (+2)", "y_axis": "Prompt S/R", "y_values": 'red, "blue, green"', "legend": False}
    result = run(context(shelf, tmp_path), "plot", **asked, z_axis="Size", z_values="64x64")
    sheet, cell = (artifact.path for artifact in (result.artifacts[0], result.artifacts[1]))
    fields = BY_NAME["plot"].recall(sheet)
    assert fields.items() >= {**asked, "prompt": "a red lighthouse", "negative": "blurry", "seed": 5, "z_axis": "Size"}.items()
    assert BY_NAME["txt2img"].recall(sheet) is None and BY_NAME["plot"].recall(cell) is None
    assert BY_NAME["txt2img"].recall(cell)["steps"] == 1
    again = BY_NAME["plot"].handler(context(shelf, tmp_path / "again"), validated(PlotRequest, fields))
    assert made(again) == made(result)


@pytest.mark.parametrize(
    "asked",
    [
        {"x_axis": "Sampler", "x_values": "DPM++ 2M, Euler a", "size": None},
        {"x_axis": "Variation strength", "x_values": "0, 0.5", "variation_seed": 7, "clip_skip": 2},
        {"x_axis": "Seed", "x_values": "-1, 3, -1", "variation": 0.5, "schedule": "karras"},
    ],
)
def test_what_differs_between_cells_is_not_in_the_sheets_own_settings(shelf: Path, tmp_path: Path, asked: dict[str, Any]):
    result = run(skipping(context(shelf, tmp_path), "denoising, picture 1 of 3"), "plot", **asked)
    fields = BY_NAME["plot"].recall(result.artifacts[0].path)
    assert fields["seed"] == 5
    again = BY_NAME["plot"].handler(context(shelf, tmp_path / "again"), validated(PlotRequest, fields))
    assert made(again)[-1] == made(result)[-1]


def test_a_plot_of_a1111_is_read(tmp_path: Path):
    text = "a cat\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512, Script: X/Y/Z plot, X Type: Var. strength, "
    file = tmp_path / "grid.png"
    file.write_bytes(infotext.embed(Image.new("RGB", (8, 8)), text + 'X Values: "0.1, 0.2", Y Type: Style, Y Values: "a, b"'))
    fields = BY_NAME["plot"].recall(file)
    assert (fields["x_axis"], fields["x_values"]) == ("Variation strength", "0.1, 0.2") and "y_axis" not in fields


def black_square(folder: Path) -> dict[tuple[int, int], Path]:
    Image.new("RGB", (64, 64)).save(folder / "black.png")
    return {(0, 0): folder / "black.png"}


def test_the_legend_is_written_and_wrapped_and_chinese_where_a_font_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    black = black_square(tmp_path)
    plain = grid.sheet(black, ["CFG scale: 7.5"], ["a long value that has to be wrapped into lines"])
    assert plain.rgb.shape[1] <= 130 and plain.rgb.shape[0] > 64 and not plain.boxes
    monkeypatch.setattr(grid, "EAST_ASIAN_FONTS", ())
    assert grid.sheet(black, ["红发"], [""]).boxes
    assert not grid.sheet(black, ["红发"], [""], legend=False).boxes


def test_a_huge_sheet_is_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(grid, "MOST_PIXELS", 64 * 64)
    found = grid.sheet(black_square(tmp_path), ["a", "b"], ["c", "d"], legend=False)
    assert found.scale == 0.5 and found.rgb.shape == (64, 64, 3) and (found.rgb[:32, :32] == 0).all()


def test_the_accordion_asks_for_a_plot_once_there_is_an_axis_and_is_filled_again():
    with gr.Blocks(analytics_enabled=False):
        box = plot.accordion(SimpleNamespace(text=str), "txt2img")
    fields = {"prompt": "a red fox", "steps": 4, "batch_count": 2, "filmstrip": "1"}
    values = {widget: widget.value or "" for widget in box.inputs}
    assert box.asked("txt2img", fields, values) == ("txt2img", fields)
    chosen = values | {box.options["x_axis"]: "Seed", box.options["x_values"]: "1-3"}
    kind, asked = box.asked("txt2img", fields, chosen)
    assert kind == "plot" and validated(PlotRequest, asked).x_values == "1-3" and "batch_count" not in asked
    filled = box.filled(asked)
    assert {widget: filled[widget] for widget in box.inputs} == {**chosen, box.options["x_values"]: "1-3"}
    assert filled[box.box]["open"] is True and box.filled(fields)[box.box]["open"] is False
