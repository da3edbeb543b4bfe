"""A widget per field of a request model: bounds, default and help come from the model and are declared nowhere else."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin

import gradio as gr
from gradio.components import Component
from pydantic import BaseModel
from pydantic.fields import FieldInfo

SLIDER_STEPS = 200
"""A bounded number gets a slider when it has no more steps than this, a number box otherwise."""

Text = Callable[[str], Any]


def widgets(model: type[BaseModel], names: tuple[str, ...], tab: str, text: Text) -> dict[str, Component]:
    """Widgets for these fields, in this order. Raises KeyError for a name the model has not.

    text: gives a label for the keys "field_<name>" and "help_<name>".
    """
    return {name: _widget(name, model.model_fields[name], tab, text) for name in names}


def _widget(name: str, field: FieldInfo, tab: str, text: Text) -> Component:
    common: dict[str, Any] = {
        "label": text(f"field_{name}"),
        "info": text(f"help_{name}"),
        "elem_id": f"field-{tab}-{name.replace('_', '-')}",
        "value": field.default,
    }
    kind = _plain(field.annotation)
    if get_origin(kind) is Literal:
        return gr.Radio(choices=[(str(value), value) for value in get_args(kind)], **common)
    if kind is bool:
        return gr.Checkbox(**common)
    if field.default is None or kind not in (int, float):
        # Gradio's number box turns an empty value into 0 as soon as it is shown. What a text box holds, the model reads.
        return gr.Textbox(max_lines=1, **common)
    return _number(field, kind, common)


def _number(field: FieldInfo, kind: type, common: dict[str, Any]) -> Component:
    low, high = _bound(field, "ge"), _bound(field, "le")
    step = 1 if kind is int else 0.05 if high is not None and high <= 5 else 1
    if low is not None and high is not None and (high - low) / step <= SLIDER_STEPS:
        return gr.Slider(minimum=low, maximum=high, step=step, **common)
    return gr.Number(precision=0 if kind is int else None, step=step, **common)


def _bound(field: FieldInfo, side: str) -> float | None:
    return next((getattr(rule, side) for rule in field.metadata if hasattr(rule, side)), None)


def _plain(annotation: Any) -> Any:
    """`int | None` is an int that may be empty."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(part for part in get_args(annotation) if part is not type(None))
    return annotation
