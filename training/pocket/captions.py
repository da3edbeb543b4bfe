"""Says in English what a portrait shows, in many wordings, orders and degrees of completeness. Never says a false thing.

What a caption leaves out is free: the picture may have it or not. What it says is in `Caption.mentioned`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from training.pocket.attributes import Person

T = TypeVar("T")
Kind = Literal["adjective", "with", "wearing", "loose"]


PRAISED = 0.15
"""Share of the captions with PRAISE around them."""

PRAISE = (
    "masterpiece", "best quality", "high quality", "highly detailed", "8k", "4k", "sharp focus", "beautiful", "cinematic",
    "professional", "trending on artstation", "ultra realistic", "award winning", "perfect", "amazing", "hdr", "bokeh",
    "digital art", "concept art", "studio quality",
)  # fmt: skip


@dataclass(frozen=True)
class Caption:
    """text: the caption; mentioned: names of the attributes of `Person` that it fixes."""

    text: str
    mentioned: frozenset[str]


@dataclass(frozen=True)
class Phrase:
    """A piece of a caption, and how it joins a noun: "SMILING man", "man with A BEARD", "man wearing A HAT", "man, AT SEA"."""

    kind: Kind
    text: str
    mentions: frozenset[str]


def with_praise(text: str, rng: np.random.Generator) -> str:
    """The caption among words that people add and that say nothing about a portrait: the model learns to pass over them."""
    if rng.random() >= PRAISED:
        return text
    said = rng.choice(PRAISE, rng.integers(1, 5), replace=False)
    return ", ".join([*said, text] if rng.random() < 0.5 else [text, *said])


def caption(person: Person, rng: np.random.Generator) -> str:
    return describe(person, rng).text


def asked(person: Person, mentioned: Iterable[str]) -> dict[str, str]:
    """What a judge has to find in a picture made from a caption of this person that mentions these attributes."""
    return {name: getattr(person, name) for name in sorted(mentioned)}


def describe(person: Person, rng: np.random.Generator) -> Caption:
    """A random caption of the person."""
    kept = float(rng.choice((0.12, 0.45, 0.7, 1.0), p=(0.15, 0.25, 0.3, 0.3)))
    phrases = [phrase for topic in _TOPICS if rng.random() < kept and (phrase := topic(person, rng))]
    rng.shuffle(phrases)
    style = (_tags, _phrase, _sentences)[int(rng.choice(3, p=(0.38, 0.44, 0.18)))]
    return style(person, phrases, rng)


_HAIR = {
    "black": ("black", "black", "jet-black", "raven"),
    "brown": ("brown", "brown", "brunette", "chestnut"),
    "blond": ("blond", "blonde", "blonde", "golden"),
    "red": ("red", "red", "ginger", "copper"),
    "grey": ("grey", "gray", "silver"),
    "white": ("white", "white", "snow-white"),
    "blue": ("blue", "bright blue", "blue"),
    "pink": ("pink", "pink", "bright pink"),
    "green": ("green", "bright green", "green"),
}
_STYLE = {
    "short": ("short {} hair", "short {} hair", "a short {} haircut", "{} hair cut short"),
    "long": ("long {} hair", "long {} hair", "long straight {} hair", "{} hair that is long"),
    "bob": ("a {} bob", "a {} bob haircut", "{} hair in a bob", "chin-length {} hair"),
    "fringe": ("{} hair with a fringe", "{} hair with bangs", "long {} hair with bangs", "{} bangs"),
    "curly": ("curly {} hair", "curly {} hair", "{} curls", "{} curly hair"),
    "afro": ("a {} afro", "a {} afro", "{} afro hair"),
    "ponytail": ("a {} ponytail", "{} hair in a ponytail", "{} hair tied in a ponytail"),
    "bun": ("a {} bun", "{} hair in a bun", "{} hair in a top knot"),
}
_BALD: tuple[tuple[Kind, str], ...] = (
    ("adjective", "bald"), ("adjective", "bald"), ("with", "a bald head"), ("with", "no hair"), ("with", "a shaved head"),
)
_GLASSES: tuple[tuple[Kind, str], ...] = (
    ("wearing", "glasses"), ("with", "glasses"), ("wearing", "eyeglasses"), ("wearing", "spectacles"),
    ("adjective", "bespectacled"),
)
_EYES = {
    "brown": ("brown", "brown", "dark brown"),
    "blue": ("blue", "blue", "bright blue"),
    "green": ("green", "green", "emerald green"),
    "grey": ("grey", "gray"),
}
_SKIN = {
    "pale": ("pale", "pale", "fair", "light"),
    "tan": ("tan", "tanned", "olive"),
    "brown": ("brown", "brown", "medium brown"),
    "dark": ("dark", "dark", "deep dark", "very dark"),
}
_COLOUR = {"grey": ("grey", "gray")}
_CLOTHES = {
    "t-shirt": ("{} t-shirt", "{} t-shirt", "{} tee", "{} tshirt"),
    "shirt": ("{} shirt with a collar", "{} collared shirt", "{} button-up shirt", "{} shirt"),
    "suit": ("{} suit", "{} suit and tie", "{} suit with a tie", "{} jacket and a tie"),
    "hoodie": ("{} hoodie", "{} hoodie", "{} hooded sweatshirt"),
    "sweater": ("{} sweater", "{} turtleneck", "{} turtleneck sweater", "{} jumper"),
    "dress": ("{} dress", "{} dress", "{} summer dress"),
}
_HATS = {
    "cap": ("{} cap", "{} cap", "{} baseball cap"),
    "beanie": ("{} beanie", "{} beanie", "{} knitted hat", "{} woolly hat"),
    "sun hat": ("{} sun hat", "{} wide-brimmed hat", "{} sun hat", "wide {} hat"),
}
_PLACES = {
    "sky": ("in front of a cloudy sky", "sky background", "sky with clouds behind", "clouds in the sky"),
    "forest": ("in a forest", "in the woods", "forest background", "trees in the background"),
    "beach": ("at the beach", "on a beach", "by the sea", "beach background", "sea in the background"),
    "night": ("under a starry sky", "starry night", "night sky with stars", "moon and stars behind", "starry night background"),
    "room": ("in a room", "indoors", "at home", "in a room with a bookshelf", "bookshelf and window behind"),
    "bricks": ("in front of a brick wall", "against a brick wall", "brick wall background", "brick wall"),
    "sunset": ("at sunset", "sunset background", "in front of a sunset", "sunset sky behind"),
}
_EXPRESSIONS: dict[str, dict[Kind, tuple[str, ...]]] = {
    "neutral": {"loose": ("neutral expression", "calm face", "neutral face"), "adjective": ("calm", "serious")},
    "smile": {
        "adjective": ("smiling",), "with": ("a smile", "a friendly smile", "a gentle smile"), "loose": ("smiling", "smile"),
    },
    "laughing": {
        "adjective": ("laughing",),
        "with": ("a big laugh", "an open laughing mouth"),
        "loose": ("laughing", "laughing out loud", "laughing and showing teeth", "laughing with an open mouth"),
    },
    "sad": {
        "adjective": ("sad", "unhappy"), "with": ("a sad look", "a sad face"),
        "loose": ("looking sad", "sad expression", "sad"),
    },
    "surprised": {
        "adjective": ("surprised", "astonished"),
        "with": ("a surprised look",),
        "loose": ("looking surprised", "surprised expression", "surprised", "mouth open in surprise"),
    },
    "angry": {
        "adjective": ("angry", "furious"),
        "with": ("an angry look", "an angry face"),
        "loose": ("looking angry", "angry expression", "angry", "scowling"),
    },
}
_LIGHTS = {
    "day": ("soft daylight", "daylight", "natural light", "in soft light"),
    "warm": ("warm evening light", "golden light", "warm light", "golden hour", "in the warm light of the evening"),
    "cool": ("cool night light", "cold blue light", "cool light", "moonlight", "in cool blue light"),
    "left": ("light from the left", "lit from the left", "dramatic light from the left", "dramatic side light from the left"),
    "right": (
        "light from the right", "lit from the right", "dramatic light from the right", "dramatic side light from the right",
    ),
}
_NOUNS = {
    ("man", "child"): (
        ("boy", "gender age"), ("little boy", "gender age"), ("young boy", "gender age"), ("child", "age"), ("kid", "age"),
    ),
    ("woman", "child"): (
        ("girl", "gender age"), ("little girl", "gender age"), ("young girl", "gender age"), ("child", "age"), ("kid", "age"),
    ),
    ("man", "adult"): (("man", "gender"), ("man", "gender"), ("young man", "gender age"), ("guy", "gender"), ("male", "gender")),
    ("woman", "adult"): (
        ("woman", "gender"), ("woman", "gender"), ("young woman", "gender age"), ("lady", "gender"), ("female", "gender"),
    ),
    ("man", "old"): (("old man", "gender age"), ("elderly man", "gender age"), ("grandfather", "gender age"), ("man", "gender")),
    ("woman", "old"): (
        ("old woman", "gender age"), ("elderly woman", "gender age"), ("grandmother", "gender age"), ("woman", "gender"),
    ),
}
_OPENINGS = (
    "portrait of", "a portrait of", "photo of", "a photo of", "picture of", "illustration of", "a drawing of", "painting of",
    "headshot of",
)


def _pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _phrase_of(kind: Kind, text: str, *mentions: str) -> Phrase:
    return Phrase(kind, " ".join(text.split()), frozenset(mentions))


def _coloured(rng: np.random.Generator, words: tuple[str, ...], colour: str, often: float) -> tuple[str, bool]:
    """A thing with its colour or without: (text, whether the colour is said)."""
    said = rng.random() < often
    return _pick(rng, words).format(_pick(rng, _COLOUR.get(colour, (colour,))) if said else ""), said


def _hair(person: Person, rng: np.random.Generator) -> Phrase:
    if person.hair_style == "bald":
        return _phrase_of(*_pick(rng, _BALD), "hair_style")
    colour, said = _pick(rng, _HAIR[person.hair_color]), rng.random()
    if said < 0.62:
        return _phrase_of("with", _pick(rng, _STYLE[person.hair_style]).format(colour), "hair_color", "hair_style")
    if said < 0.74:
        return _phrase_of("with", _pick(rng, _STYLE[person.hair_style]).format(""), "hair_style")
    if said < 0.88:
        return _phrase_of("with", f"{colour} hair", "hair_color")
    return _phrase_of("adjective", f"{colour}-haired" if person.hair_color != "blond" else "blonde", "hair_color")


def _eyes(person: Person, rng: np.random.Generator) -> Phrase | None:
    if person.glasses == "sunglasses":
        return None
    colour = _pick(rng, _EYES[person.eye_color])
    return _phrase_of(
        "adjective", f"{colour}-eyed", "eye_color",
    ) if rng.random() < 0.12 else _phrase_of("with", f"{colour} eyes", "eye_color")


def _skin(person: Person, rng: np.random.Generator) -> Phrase:
    colour = _pick(rng, _SKIN[person.skin])
    return _phrase_of(
        "adjective", f"{colour}-skinned", "skin",
    ) if rng.random() < 0.4 else _phrase_of("with", f"{colour} skin", "skin")


def _glasses(person: Person, rng: np.random.Generator) -> Phrase | None:
    if person.glasses == "none":
        return _absent(rng, "glasses", "no glasses", "without glasses")
    if person.glasses == "sunglasses":
        return _phrase_of(
            "wearing", _pick(rng, ("sunglasses", "sunglasses", "dark sunglasses", "sun glasses", "shades")), "glasses",
        )
    return _phrase_of(*_pick(rng, _GLASSES), "glasses")


def _facial_hair(person: Person, rng: np.random.Generator) -> Phrase | None:
    if person.facial_hair == "none":
        if person.gender == "woman" or person.age == "child":
            return None
        return _absent(rng, "facial_hair", "clean-shaven", "no beard", "without a beard")
    if person.facial_hair == "beard" and rng.random() < 0.2:
        return _phrase_of("adjective", "bearded", "facial_hair")
    words = {
        "beard": ("a {} beard", "a {} beard", "a full {} beard"), "moustache": ("a {} moustache", "a {} mustache"),
    }[person.facial_hair]
    if rng.random() < (0.6 if person.hair_style == "bald" else 0.15):
        return _phrase_of("with", _pick(rng, words).format(_pick(rng, _HAIR[person.hair_color])), "facial_hair", "hair_color")
    return _phrase_of("with", _pick(rng, words).format(""), "facial_hair")


def _hat(person: Person, rng: np.random.Generator) -> Phrase | None:
    if person.hat == "none":
        return _absent(rng, "hat", "no hat", "without a hat", "bareheaded")
    text, said = _coloured(rng, _HATS[person.hat], person.hat_color, 0.75)
    return _phrase_of("wearing", _with_article(text), "hat", *(("hat_color",) if said else ()))


def _clothes(person: Person, rng: np.random.Generator) -> Phrase:
    text, said = _coloured(rng, _CLOTHES[person.clothes], person.clothes_color, 0.8)
    return _phrase_of("wearing", _with_article(text), "clothes", *(("clothes_color",) if said else ()))


def _place(person: Person, rng: np.random.Generator) -> Phrase:
    if person.background != "plain":
        return _phrase_of("loose", _pick(rng, _PLACES[person.background]), "background")
    words = ("plain {} background", "{} background", "against a plain {} wall", "in front of a {} background")
    text, said = _coloured(rng, words, person.background_color, 0.85)
    if not said:
        return _phrase_of("loose", _pick(rng, ("plain background", "simple background", "studio background")), "background")
    return _phrase_of("loose", text, "background", "background_color")


def _expression(person: Person, rng: np.random.Generator) -> Phrase:
    forms: list[tuple[Kind, str]] = [(kind, text) for kind, texts in _EXPRESSIONS[person.expression].items() for text in texts]
    return _phrase_of(*_pick(rng, forms), "expression")


def _light(person: Person, rng: np.random.Generator) -> Phrase:
    return _phrase_of("loose", _pick(rng, _LIGHTS[person.light]), "light")


def _absent(rng: np.random.Generator, attribute: str, *words: str) -> Phrase | None:
    """Now and then a caption says that something is not there."""
    return _phrase_of("loose", _pick(rng, words), attribute) if rng.random() < 0.18 else None


_TOPICS: tuple[Callable[[Person, np.random.Generator], Phrase | None], ...] = (
    _hair,
    _eyes,
    _skin,
    _glasses,
    _facial_hair,
    _hat,
    _clothes,
    _place,
    _expression,
    _light,
)


def _subject(person: Person, rng: np.random.Generator) -> tuple[str, frozenset[str]]:
    if rng.random() < 0.05:
        return "person", frozenset()
    noun, mentions = _pick(rng, _NOUNS[person.gender, person.age])
    return noun, frozenset(mentions.split())


def _tags(person: Person, phrases: list[Phrase], rng: np.random.Generator) -> Caption:
    """A bare list: "woman, red hair, smiling, at the beach"."""
    noun, mentioned = _subject(person, rng)
    parts = [p.text.removeprefix("a ").removeprefix("an ") if rng.random() < 0.6 else p.text for p in phrases]
    first = _with_article(noun) if rng.random() < 0.3 else noun
    parts.insert(0 if rng.random() < 0.8 else int(rng.integers(len(parts) + 1)), first)
    if rng.random() < 0.3:
        parts.insert(0, _pick(rng, ("portrait", "illustration", "photo", "headshot")))
    return Caption(", ".join(parts), mentioned.union(*(p.mentions for p in phrases)))


def _phrase(person: Person, phrases: list[Phrase], rng: np.random.Generator) -> Caption:
    """One noun and all that hangs on it: "portrait of a smiling woman with red hair, wearing a blue hat, at the beach"."""
    noun, mentioned = _subject(person, rng)
    groups = _by_kind(phrases)
    # Two adjectives are as many as a noun carries well; others follow it.
    before, after = groups["adjective"][:2], groups["adjective"][2:]
    text = _with_article(" ".join([*before, noun]))
    if rng.random() < 0.45:
        text = f"{_pick(rng, _OPENINGS)} {text}"
    clauses = []
    if groups["with"]:
        clauses.append(" with " + _joined(groups["with"]))
    if groups["wearing"]:
        clauses.append(_pick(rng, (" wearing ", ", wearing ", " in ")) + _joined(groups["wearing"]))
    if rng.random() < 0.35:
        clauses.reverse()
    rest = "".join(f", {words}" for words in [*after, *groups["loose"]])
    return Caption(text + "".join(clauses) + rest, mentioned.union(*(p.mentions for p in phrases)))


def _sentences(person: Person, phrases: list[Phrase], rng: np.random.Generator) -> Caption:
    """Short sentences: "A sad old man. He has a beard. He is wearing a cap. In a forest."."""
    noun, mentioned = _subject(person, rng)
    groups = _by_kind(phrases)
    pronoun = "the person"
    if "gender" in mentioned:
        pronoun = "he" if person.gender == "man" else "she"
    said = [_with_article(" ".join([*groups["adjective"][:2], noun])), *groups["adjective"][2:]]
    if groups["with"]:
        said.append(f"{pronoun} has {_joined(groups['with'])}")
    if groups["wearing"]:
        said.append(f"{pronoun} {_pick(rng, ('is wearing', 'wears'))} {_joined(groups['wearing'])}")
    said += groups["loose"]
    text = " ".join(f"{words[0].upper()}{words[1:]}." for words in said)
    return Caption(text, mentioned.union(*(p.mentions for p in phrases)))


def _by_kind(phrases: list[Phrase]) -> dict[str, list[str]]:
    return {kind: [p.text for p in phrases if p.kind == kind] for kind in ("adjective", "with", "wearing", "loose")}


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _with_article(text: str) -> str:
    text = " ".join(text.split())
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"
