"""Requests checked against their models, with a sentence per field that is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from webui.errors import InvalidRequest
from webui.jobs.types import ARTIFACT_FORMAT


def validated(model: type[BaseModel], request: Mapping[str, Any] | BaseModel) -> BaseModel:
    """The request as `model`. Raises InvalidRequest with a sentence per field that is wrong."""
    if isinstance(request, model):
        return request
    if isinstance(request, BaseModel):
        request = request.model_dump()
    try:
        return model.model_validate(dict(request))
    except ValidationError as error:
        raise InvalidRequest(" ".join(_sentence(problem) for problem in error.errors())) from error


@cache
def artifact_fields(model: type[BaseModel]) -> tuple[str, ...]:
    """The names of a request's fields that hold ids of files, one that may be empty included."""
    properties = model.model_json_schema(by_alias=False).get("properties", {})
    return tuple(
        name
        for name, schema in properties.items()
        if any(one.get("format") == ARTIFACT_FORMAT for one in (schema, *schema.get("anyOf", ())))
    )


def _sentence(problem: Mapping[str, Any]) -> str:
    """What is wrong, in plain words. The page has each of them in Chinese, too (webui/ui/locales/sentences.zh.json)."""
    name = f"'{'.'.join(map(str, problem['loc']))}'" if problem["loc"] else "The request"
    kind, given, facts = problem["type"], problem.get("input"), problem.get("ctx", {})
    if kind == "missing":
        return f"{name} is missing."
    if kind == "extra_forbidden":
        return f"{name} is not an option here."
    if kind in _BOUND_WORDS:
        word, key = _BOUND_WORDS[kind]
        return f"{name} must be {word} {facts[key]:.12g}, not {repr(given)[:80]}."
    if kind in _LENGTH_WORDS:
        word, key, one, several = _LENGTH_WORDS[kind]
        return f"{name} must have {word} {facts[key]} {one if facts[key] == 1 else several}; it has {len(given or ())}."
    if expected := _expected(kind, problem["msg"], facts):
        return f"{name} must be {expected}, not {str(given)[:80]!r}."
    return f"{name} cannot be taken: {facts.get('error') or problem['msg']}".rstrip(".") + "."


def _expected(kind: str, message: str, facts: Mapping[str, Any]) -> str | None:
    """What is asked for; None for what must be told otherwise, such as a sentence of the model's own check."""
    if kind in ("literal_error", "enum"):
        return facts["expected"]
    if kind == "string_pattern_mismatch":
        return f"text that fits the pattern {facts['pattern']}"
    known = next((words for start, words in _TYPE_WORDS.items() if kind.startswith(start)), None)
    said = re.match(r"[\w ]+ should be ([^,]+)", message)  # "Input should be a valid URL, relative URL without a base"
    return known or (said.group(1) if said else None)


_BOUND_WORDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
    "multiple_of": ("a multiple of", "multiple_of"),
}

_LENGTH_WORDS = {
    "string_too_short": ("at least", "min_length", "character", "characters"),
    "string_too_long": ("at most", "max_length", "character", "characters"),
    "too_short": ("at least", "min_length", "entry", "entries"),
    "too_long": ("at most", "max_length", "entry", "entries"),
}

# Start of pydantic's kind of problem (int_parsing, int_type, int_from_float ...) -> what is asked for.
_TYPE_WORDS = {
    "int_": "a whole number",
    "float_": "a number",
    "finite_number": "a number",
    "bool_": "true or false",
    "string_": "text",
    "list_": "a list",
    "dict_": "a list of names and values",
}
