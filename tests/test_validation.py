"""Sentences about requests that do not fit their model: of any kind of field, and with what to do instead."""

from __future__ import annotations

from datetime import date
from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from webui.errors import InvalidRequest
from webui.jobs.validation import validated


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class AnyRequest(BaseModel):
    """A field of every sort that extensions are likely to have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field("a", min_length=1, max_length=5)
    code: str = Field("a", pattern="^[a-z]+$")
    style: Literal["plain", "fancy"] = "plain"
    size: Literal[256, 512] = 256
    width: int = Field(8, ge=8, multiple_of=8)
    strength: float = Field(0.5, gt=0, lt=1)
    tiled: bool = False
    seed: int | None = None
    colour: Colour = Colour.RED
    layers: list[int] = Field([1], min_length=1, max_length=2)
    weights: dict[str, float] = {}
    day: date | None = None

    @field_validator("prompt")
    @classmethod
    def polite(cls, prompt: str) -> str:
        if prompt == "quick":
            raise ValueError("Say please")
        return prompt

    @model_validator(mode="after")
    def small(self) -> AnyRequest:
        if self.width > 1000 and self.tiled:
            raise ValueError("Too wide for tiles. Choose at most 1000.")
        return self


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "abcdefgh"}, "'prompt' must have at most 5 characters; it has 8."),
    ({"prompt": ""}, "'prompt' must have at least 1 character; it has 0."),
    ({"prompt": 5}, "'prompt' must be text, not '5'."),
    ({"prompt": "quick"}, "'prompt' cannot be taken: Say please."),
    ({"code": "A1"}, "'code' must be text that fits the pattern ^[a-z]+$, not 'A1'."),
    ({"style": "odd"}, "'style' must be 'plain' or 'fancy', not 'odd'."),
    ({"size": "256"}, "'size' must be 256 or 512, not '256'."),
    ({"width": 12}, "'width' must be a multiple of 8, not 12."),
    ({"width": 0}, "'width' must be at least 8, not 0."),
    ({"width": "9" * 5000}, f"'width' must be a whole number, not '{'9' * 80}'."),
    ({"strength": 0}, "'strength' must be more than 0, not 0."),
    ({"strength": 1}, "'strength' must be less than 1, not 1."),
    ({"strength": "much"}, "'strength' must be a number, not 'much'."),
    ({"tiled": "perhaps"}, "'tiled' must be true or false, not 'perhaps'."),
    ({"seed": ""}, "'seed' must be a whole number, not ''."),
    ({"colour": "green"}, "'colour' must be 'red' or 'blue', not 'green'."),
    ({"layers": []}, "'layers' must have at least 1 entry; it has 0."),
    ({"layers": [1, 2, 3]}, "'layers' must have at most 2 entries; it has 3."),
    ({"layers": "all"}, "'layers' must be a list, not 'all'."),
    ({"layers": ["top"]}, "'layers.0' must be a whole number, not 'top'."),
    ({"weights": 3}, "'weights' must be a list of names and values, not '3'."),
    ({"day": "soon"}, "'day' must be a valid date or datetime, not 'soon'."),
    ({"mood": 1}, "'mood' is not an option here."),
    ({"width": 1008, "tiled": True}, "The request cannot be taken: Too wide for tiles. Choose at most 1000."),
    ({"size": 1, "mood": 1}, "'size' must be 256 or 512, not '1'. 'mood' is not an option here."),
]
"""Requests, and what is said of them."""


@pytest.mark.parametrize(("request_", "expected"), REFUSED)
def test_what_is_wrong_is_a_sentence(request_: dict[str, Any], expected: str):
    with pytest.raises(InvalidRequest) as caught:
        validated(AnyRequest, request_)
    assert str(caught.value) == expected


def test_a_problem_without_words_of_its_own_is_told_in_pydantics():
    class Bytes(BaseModel):
        data: bytes = Field(b"ab", min_length=2)

    with pytest.raises(InvalidRequest, match="'data' cannot be taken: Data should have at least 2 bytes"):
        validated(Bytes, {"data": b"a"})
