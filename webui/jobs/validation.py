"""Requests checked against their models, with a sentence per field that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
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


def artifact_fields(model: type[BaseModel]) -> tuple[str, ...]:
    """The names of a request's fields that hold ids of files, one that may be empty included."""
    properties = model.model_json_schema(by_alias=False).get("properties", {})
    return tuple(
        name
        for name, schema in properties.items()
        if any(one.get("format") == ARTIFACT_FORMAT for one in (schema, *schema.get("anyOf", ())))
    )


def _sentence(problem: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in problem["loc"]) or "The request"
    kind, given, bounds = problem["type"], problem.get("input"), problem.get("ctx", {})
    if kind == "missing":
        return f"'{name}' is missing."
    if kind == "extra_forbidden":
        return f"'{name}' is not an option here."
    if kind in _BOUND_WORDS:
        word, key = _BOUND_WORDS[kind]
        return f"'{name}' must be {word} {bounds[key]:.12g}, not {repr(given)[:80]}."
    expected = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    expected = next((words for start, words in _TYPE_WORDS.items() if kind.startswith(start)), expected)
    return f"'{name}' must be {expected}, not {str(given)[:80]!r}."


_BOUND_WORDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}

# Start of pydantic's kind of problem (int_parsing, int_type, int_from_float ...) -> what is asked for.
_TYPE_WORDS = {"int_": "a whole number", "float_": "a number", "finite_number": "a number", "bool_": "true or false"}
