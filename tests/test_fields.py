"""Widgets made from request fields: their kind, their bounds, and that an empty one stays empty."""

from __future__ import annotations

import gradio as gr
import pytest

from extensions.sadtalker.jobs import TalkingHeadRequest
from webui.ui.fields import widgets

OPTIONS = tuple(name for name in TalkingHeadRequest.model_fields if name not in ("portrait", "voice"))


@pytest.fixture(scope="module")
def made() -> dict:
    return widgets(TalkingHeadRequest, OPTIONS, "talking", lambda key: key)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("engine", gr.Radio),
        ("size", gr.Radio),
        ("still", gr.Checkbox),
        ("pose_style", gr.Slider),
        ("expression_scale", gr.Slider),
        ("fps", gr.Slider),
        ("seed", gr.Textbox),
        ("face", gr.Textbox),
    ],
)
def test_each_kind_of_field_has_its_widget(made: dict, name: str, kind: type):
    assert type(made[name]) is kind
    assert (made[name].label, made[name].info) == (f"field_{name}", f"help_{name}")


def test_defaults_and_bounds_are_the_models(made: dict):
    for name, widget in made.items():
        default = TalkingHeadRequest.model_fields[name].default
        assert widget.value == default or (default is None and not widget.value), name
    assert (made["pose_style"].minimum, made["pose_style"].maximum, made["pose_style"].step) == (0, 45, 1)
    assert [value for _, value in made["size"].choices] == [256, 512]


def test_a_field_that_does_not_exist_is_an_error():
    with pytest.raises(KeyError):
        widgets(TalkingHeadRequest, ("mood",), "talking", str)
