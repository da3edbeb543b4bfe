"""What a drawn person can be: every attribute, its values, and how people are sampled. Draws nothing, says nothing."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

import numpy as np

Gender = Literal["man", "woman"]
Age = Literal["child", "adult", "old"]
Skin = Literal["pale", "tan", "brown", "dark"]
HairColor = Literal["black", "brown", "blond", "red", "grey", "white", "blue", "pink", "green"]
HairStyle = Literal["short", "long", "bob", "fringe", "curly", "afro", "ponytail", "bun", "bald"]
EyeColor = Literal["brown", "blue", "green", "grey"]
Glasses = Literal["none", "glasses", "sunglasses"]
FacialHair = Literal["none", "moustache", "beard"]
Hat = Literal["none", "cap", "beanie", "sun hat"]
Color = Literal["red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white", "grey"]
Clothes = Literal["t-shirt", "shirt", "suit", "hoodie", "sweater", "dress"]
Background = Literal["plain", "sky", "forest", "beach", "night", "room", "bricks", "sunset"]
Expression = Literal["neutral", "smile", "laughing", "sad", "surprised", "angry"]
Light = Literal["day", "warm", "cool", "left", "right"]

_WEIGHTS: dict[str, dict[str, float]] = {
    "age": {"child": 0.15, "adult": 0.67, "old": 0.18},
    "hair_style": {"short": 1.6, "bald": 0.8},
    "glasses": {"none": 0.6, "glasses": 0.24, "sunglasses": 0.16},
    "facial_hair": {"none": 0.44, "moustache": 0.24, "beard": 0.32},
    "hat": {"none": 0.61, "cap": 0.13, "beanie": 0.13, "sun hat": 0.13},
    "background": {"plain": 2.0},
    "expression": {"neutral": 0.27, "smile": 0.27, "laughing": 0.13, "sad": 0.11, "surprised": 0.11, "angry": 0.11},
    "light": {"day": 0.4, "warm": 0.15, "cool": 0.15, "left": 0.15, "right": 0.15},
}
"""Relative frequency of values, 1 for those not named; attributes not named are uniform."""

UNDER_HATS = ("short", "long", "bob", "curly", "ponytail", "bald")
"""Hair styles that can still be told under a hat."""


@dataclass(frozen=True)
class Person:
    """One portrait in words. What cannot be seen of it has a value all the same (see `Person.hidden`)."""

    gender: Gender = "woman"
    age: Age = "adult"
    skin: Skin = "tan"
    hair_color: HairColor = "brown"
    hair_style: HairStyle = "long"
    eye_color: EyeColor = "brown"
    glasses: Glasses = "none"
    facial_hair: FacialHair = "none"
    hat: Hat = "none"
    hat_color: Color = "red"
    clothes: Clothes = "t-shirt"
    clothes_color: Color = "blue"
    background: Background = "plain"
    background_color: Color = "grey"
    expression: Expression = "neutral"
    light: Light = "day"

    def hidden(self) -> frozenset[str]:
        """Attributes whose value cannot be seen in this portrait, so that a caption must not speak of them."""
        unseen = set()
        if self.hair_style == "bald" and self.facial_hair == "none":
            unseen.add("hair_color")
        if self.glasses == "sunglasses":
            unseen.add("eye_color")
        if self.hat == "none":
            unseen.add("hat_color")
        if self.background != "plain":
            unseen.add("background_color")
        return frozenset(unseen)


ATTRIBUTES: tuple[str, ...] = tuple(field.name for field in fields(Person))

_HINTS = get_type_hints(Person)


def values(attribute: str) -> tuple[str, ...]:
    """Every value that the attribute can have."""
    return get_args(_HINTS[attribute])


def sample(rng: np.random.Generator) -> Person:
    """A random person. Attributes are independent of each other, except where one would hide or contradict another:

    facial hair is for grown men, dresses are for women and girls, and who wears a hat has hair that can be told under it.
    """
    chosen: dict[str, Any] = {name: _pick(rng, name, values(name)) for name in ATTRIBUTES}
    if chosen["gender"] == "woman" or chosen["age"] == "child":
        chosen["facial_hair"] = "none"
    if chosen["gender"] == "man" and chosen["clothes"] == "dress":
        chosen["clothes"] = _pick(rng, "clothes", [value for value in values("clothes") if value != "dress"])
    if chosen["hat"] != "none" and chosen["hair_style"] not in UNDER_HATS:
        chosen["hair_style"] = _pick(rng, "hair_style", UNDER_HATS)
    return Person(**chosen)


def _pick(rng: np.random.Generator, attribute: str, among: tuple[str, ...] | list[str]) -> str:
    weights = np.array([_WEIGHTS.get(attribute, {}).get(value, 1.0) for value in among])
    # One number drawn per choice, whatever is chosen, keeps the choices that follow unaffected.
    return among[int(np.searchsorted(np.cumsum(weights / weights.sum()), rng.random(), side="right").clip(0, len(among) - 1))]
