r"""The grammar of prompts, as people know it from AUTOMATIC1111's web UI. Pure text in, pure text out: no torch, no model.

    (word) ((word)) [word] (word:1.3)     attention: x 1.1, x 1.21, / 1.1, x 1.3; nesting multiplies
    \( \) \[ \] \\                        brackets and backslashes that are meant as such
    [from:to:when] [to:when] [from::when] other words after a step (3) or a part of the steps (0.4, anything with a dot)
    [one|other|third]                     other words at each step; an option may be empty
    BREAK                                 what follows begins a chunk of its own
    this AND that :0.5                    several prompts, each with its weight
    <lora:name:0.7>                       a network to be loaded; taken out of the prompt, and told

They are read in this order: networks are taken out (`parse`), parts are split at AND (`parse`), each part becomes the texts
of the steps (`schedule`), each text becomes words with weights (`attention`).

No text is an error: what does not fit the grammar is taken literally. Every function takes time in proportion to the
text, however its brackets are nested, and none recurses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

ATTENTION = 1.1
"""What one pair of round brackets multiplies the attention by, and one of square brackets divides it by."""

_NETWORK = re.compile(r"<(\w+):([^<>]+)>")
_AND = re.compile(r"\bAND\b")
_BREAK = re.compile(r"\bBREAK\b")
_WEIGHT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
_WHEN = re.compile(rf"{_WEIGHT.pattern}(?:[eE][-+]?[0-9]+)?")

_SCHEDULE_TOKEN = re.compile(r"\\.|[\[\]():|]|[^\\\[\]():|]+|\\", re.DOTALL)
_ATTENTION_TOKEN = re.compile(
    rf"\\(?P<escaped>[()\[\]\\]?)|:\s*(?P<weight>{_WEIGHT.pattern})\s*\)|(?P<bracket>[()\[\]])|[^\\()\[\]:]+|:"
)


@dataclass(frozen=True)
class Network:
    """A network that a prompt asks for: <type:name:args[0]:args[1]...>."""

    type: str
    name: str
    args: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"<{':'.join((self.type, self.name, *self.args))}>"


@dataclass(frozen=True)
class Part:
    """One of the prompts that AND composes. Its text still has schedules and attention in it."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Prompt:
    """A prompt in its parts, at least one, and the networks that were taken out of it."""

    parts: tuple[Part, ...]
    networks: tuple[Network, ...] = ()


def parse(prompt: str) -> Prompt:
    """Take the networks out and split what is left at AND."""
    text, networks = strip_networks(prompt)
    return Prompt(tuple(split_and(text)), tuple(networks))


def strip_networks(text: str) -> tuple[str, list[Network]]:
    """The text without <type:...>, and what was taken out of it, in order."""
    found = [(kind, *arguments.split(":")) for kind, arguments in _NETWORK.findall(text)]
    return _NETWORK.sub("", text), [Network(kind, name, tuple(args)) for kind, name, *args in found]


def split_and(text: str) -> list[Part]:
    """The parts between AND, each with the weight that stands after its last colon, 1 when there is none.

    A prompt without AND has no weight to be read: "a screen, 16:9" keeps its end. (AUTOMATIC1111 takes the 9 for one.)
    """
    parts = _AND.split(text)
    return [Part(text)] if len(parts) == 1 else [_weighted(part) for part in parts]


def _weighted(part: str) -> Part:
    text, _, weight = part.rpartition(":")
    if _WEIGHT.fullmatch(weight.strip()) and ":" in part:
        return Part(text.strip(), float(weight))
    return Part(part.strip())


@dataclass(frozen=True)
class _Choice:
    """A square bracket that says different things at different steps.

    options: first and last (exclusive) token of each text. switch: the last step of the first of two options; None when
    they take turns. end: the token behind the bracket.
    """

    options: tuple[tuple[int, int], ...]
    switch: int | None
    end: int

    def option(self, step: int) -> tuple[int, int]:
        if self.switch is None:
            return self.options[(step - 1) % len(self.options)]
        return self.options[0 if step <= self.switch else 1]


@dataclass
class _Open:
    """A bracket that is not closed yet. Indices of tokens: itself, and the colons and bars right inside of it."""

    bracket: str
    start: int
    colons: list[int]
    bars: list[int]


def schedule(text: str, steps: int, base_steps: int | None = None) -> list[tuple[int, str]]:
    """What the text says at which steps: (last step, text) pairs in order, neighbours differ. The last one ends at `steps`.

    text:       one part of a prompt. Attention and escapes are left as they are.
    steps:      of this pass, the first is 1.
    base_steps: in the second pass of hires fix, the steps of the first: a whole number then counts on from these, and a
                fraction from 1.0, so that [a:b:1.5] changes in the middle of the second pass.
    """
    tokens = _SCHEDULE_TOKEN.findall(text)
    choices = _choices(tokens, steps, base_steps)
    turns = any(choice.switch is None for choice in choices.values())
    switches = {choice.switch for choice in choices.values() if choice.switch is not None}
    ends = range(1, steps + 1) if turns else sorted({*switches, steps} - {0})
    result: list[tuple[int, str]] = []
    for end in ends:
        now = _at_step(tokens, choices, end)
        if result and result[-1][1] == now:
            result.pop()
        result.append((end, now))
    return result


def _choices(tokens: Sequence[str], steps: int, base_steps: int | None) -> dict[int, _Choice]:
    """The choices of a text by their first token.

    A bracket counts only if all that is inside of it fits the grammar. One that does not, or has no partner, makes all
    brackets literal that are open around it, and the reading goes on behind it.
    """
    choices: dict[int, _Choice] = {}
    stack: list[_Open] = []
    for index, token in enumerate(tokens):
        if token in ("(", "["):
            stack.append(_Open(token, index, [], []))
        elif token == ":" and stack:
            stack[-1].colons.append(index)
        elif token == "|" and stack:
            stack[-1].bars.append(index)
        elif token in (")", "]"):
            opened = stack.pop() if stack else None
            if opened is None or not _fits(opened, token, tokens, index):
                stack.clear()
            elif token == "]" and (opened.colons or opened.bars):
                choices[opened.start] = _choice(opened, tokens, index, steps, base_steps)
    return choices


def _fits(opened: _Open, closing: str, tokens: Sequence[str], end: int) -> bool:
    """Whether the bracket that `tokens[end]` closes is one of the grammar's."""
    if opened.bracket + closing == "()":
        return len(opened.colons) <= 1
    if opened.bracket + closing != "[]":
        return False
    return not opened.colons or (len(opened.colons) <= 2 and _has_number(opened, tokens, end))


def _has_number(opened: _Open, tokens: Sequence[str], end: int) -> bool:
    last = opened.colons[-1]
    return end - last == 2 and _WHEN.fullmatch(tokens[last + 1].strip()) is not None


def _choice(opened: _Open, tokens: Sequence[str], end: int, steps: int, base_steps: int | None) -> _Choice:
    if not opened.colons:
        edges = [opened.start, *opened.bars, end]
        return _Choice(tuple((a + 1, b) for a, b in pairwise(edges)), None, end + 1)
    *first, last = opened.colons
    before = (opened.start + 1, first[0]) if first else (end, end)
    after = ((first or [opened.start])[0] + 1, last)
    return _Choice((before, after), _switch(tokens[last + 1].strip(), steps, base_steps), end + 1)


def _switch(when: str, steps: int, base_steps: int | None) -> int:
    """The last step, 0 to `steps`, before the words change."""
    passed = 0.0 if base_steps is None else 1.0
    step = (float(when) - passed) * steps if "." in when else float(when) - (base_steps or 0)
    return int(max(0, min(steps, step)))


def _at_step(tokens: Sequence[str], choices: dict[int, _Choice], step: int) -> str:
    said: list[str] = []
    index, stop = 0, len(tokens)
    outside: list[tuple[int, int]] = []
    while index < stop or outside:
        if index == stop:
            index, stop = outside.pop()
        elif index in choices:
            outside.append((choices[index].end, stop))
            index, stop = choices[index].option(step)
        else:
            said.append(tokens[index])
            index += 1
    return "".join(said)


def attention(text: str) -> list[list[tuple[str, float]]]:
    """The words and their weights: a list for each section between BREAKs, of (words, weight) in order.

    Neighbours of one weight are one, empty ones are left out; so a section, and with it the result of "", may be [[]].
    Brackets and escapes are gone from the words; an unclosed bracket reaches to the end. A weight may be infinite when
    it was written so large.
    """
    pieces, pairs = _pieces(text)
    factors: list[float] = []
    for pair in pairs:  # one that is around another comes before it
        factors.append(pair.factor * (factors[pair.around] if factors else 1.0))
    sections: list[list[tuple[str, float]]] = [[]]
    for piece in pieces:
        if piece.breaks:
            sections.append([])
        if piece.words:
            sections[-1].append((piece.words, factors[piece.round] * factors[piece.square]))
    return [_merged(section) for section in sections]


@dataclass
class _Pair:
    """Two brackets, by what they multiply the attention and the pair of the same kind that is around them."""

    factor: float
    around: int


@dataclass(frozen=True)
class _Piece:
    """Words, the innermost pairs of either kind around them, and whether BREAK stands before them."""

    words: str
    round: int
    square: int
    breaks: bool = False


def _pieces(text: str) -> tuple[list[_Piece], list[_Pair]]:
    """Round and square brackets are paired apart from each other; the first pair is around everything."""
    pairs = [_Pair(1.0, 0)]
    pieces: list[_Piece] = []
    innermost = {"(": 0, "[": 0}
    for token in _ATTENTION_TOKEN.finditer(text):
        bracket = ")" if token["weight"] else token["bracket"]
        kind = {")": "(", "]": "["}.get(bracket, bracket)
        if bracket in innermost:
            pairs.append(_Pair(ATTENTION if kind == "(" else 1 / ATTENTION, innermost[kind]))
            innermost[kind] = len(pairs) - 1
        elif bracket and innermost[kind]:
            pair = pairs[innermost[kind]]
            pair.factor = float(token["weight"] or pair.factor)
            innermost[kind] = pair.around
        else:
            escaped = token["escaped"]
            for index, words in enumerate(_BREAK.split(token[0]) if escaped is None else [escaped]):
                pieces.append(_Piece(words, innermost["("], innermost["["], breaks=index > 0))
    return pieces, pairs


def _merged(section: list[tuple[str, float]]) -> list[tuple[str, float]]:
    return [("".join(words for words, _ in same), weight) for weight, same in groupby(section, key=lambda piece: piece[1])]
