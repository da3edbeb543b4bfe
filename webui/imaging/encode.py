"""Prompts to what the UNet listens to: the hidden states of CLIP's text encoders, weighted word by word, for each step.

A text of any length is cut into chunks of 75 tokens, each of which CLIP reads alone, as A1111 does. Every chunk is encoded
once and by itself, so that a text's encoding never depends on what else was asked for.

Textual inversion is not read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from webui.errors import InvalidRequest
from webui.imaging import prompt as grammar

CHUNK = 75
"""Tokens of a chunk, between its first and its last."""

COMMA_BACKTRACK = 20
"""A full chunk ends at its last comma if no more than this many tokens stand behind it."""

MAX_CHUNKS = 1024
"""Of all texts that one prompt and its negative make over the steps: 250 MB of hidden states for SD 1.x."""

_TOO_LARGE = "A weight in the prompt is too large for this model to compute with. Stay well below 100."

Emphasis = Literal["Original", "No norm", "Ignore", "None"]
"""What weights do. Original: hidden states are multiplied, then rescaled to the mean they had; No norm: multiplied only;
Ignore: read and not used; None: not read, brackets and BREAK are words."""


class TextParts(Protocol):
    """What is needed of a model. One or two tokenizers and CLIP text encoders, in the order in which the UNet has them."""

    @property
    def architecture(self) -> str: ...
    @property
    def tokenizers(self) -> Sequence[Any]: ...
    @property
    def text_encoders(self) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Conditioning:
    """Encoded texts. hidden: (texts, 77 x chunks, width); pooled: (texts, width), for SDXL, else None."""

    hidden: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True)
class Guide:
    """What one step is led by. uncond: what to lead away from, None without guidance; conds: of AND's parts, with weights."""

    uncond: Conditioning | None
    conds: tuple[tuple[Conditioning, float], ...]


@dataclass(frozen=True)
class Conditionings:
    """What each step of a pass is led by. networks: what was taken out of the prompts, to be told."""

    uncond: tuple[tuple[int, Conditioning], ...]
    conds: tuple[tuple[tuple[tuple[int, Conditioning], ...], float], ...]
    networks: tuple[grammar.Network, ...]

    def at(self, step: int) -> Guide:
        """The first step is 1; what holds at the last one holds behind it. All hidden states of a pass have one shape.

        The same objects come back as long as the words stay the same.
        """
        if step < 1:
            raise ValueError(f"there is no step {step}; the first is 1")
        conds = tuple((_held(schedule, step), weight) for schedule, weight in self.conds)
        return Guide(_held(self.uncond, step) if self.uncond else None, conds)


def _held(schedule: tuple[tuple[int, Conditioning], ...], step: int) -> Conditioning:
    return next((held for until, held in schedule if step <= until), schedule[-1][1])


class Conditioner:
    """Encodes texts with a model's text encoders. Made for one request; keeps every chunk that it has encoded.

    clip_skip: 1 for the last layer, 2 for the one before, as A1111 counts. SDXL always takes the one before the last and has
               no use for it: the attribute `clip_skip` is then 1, whatever was asked for.

    Raises InvalidRequest when the text encoder has fewer layers.
    """

    def __init__(self, model: TextParts, clip_skip: int = 1, emphasis: Emphasis = "Original") -> None:
        if emphasis not in get_args(Emphasis):
            raise InvalidRequest(f"There is no emphasis “{emphasis}”. Choose one of {', '.join(get_args(Emphasis))}.")
        self._xl = model.architecture.startswith("sdxl")
        self.clip_skip = 1 if self._xl else clip_skip
        self._emphasis: Emphasis = emphasis
        layer = -2 if self._xl else -self.clip_skip
        self._readers = [
            _Reader(tokenizer, encoder, layer, normed=not self._xl)
            for tokenizer, encoder in zip(model.tokenizers, model.text_encoders, strict=True)
        ]

    def encode(self, texts: Sequence[str]) -> Conditioning:
        """At least one text, without schedules, AND and networks. Shorter ones are padded with empty chunks.

        Raises InvalidRequest when the texts have more than MAX_CHUNKS, or weights too large to be computed with.
        """
        found = self._encode_each(texts)
        each = [found[text] for text in texts]
        pooled = [one.pooled for one in each if one.pooled is not None]
        return Conditioning(torch.cat([one.hidden for one in each]), torch.cat(pooled) if pooled else None)

    def conditionings(self, prompt: str, negative_prompt: str | None, steps: int, base_steps: int | None = None) -> Conditionings:
        """What each step is led by. Everything is encoded now, so that the text encoders may leave the device afterwards.

        prompt:          as its owner wrote it, in the whole grammar.
        negative_prompt: likewise, but AND is a word in it. None when there is no guidance. An empty one is all zeros for SDXL.
        steps:           of this pass. base_steps: of the first pass, in the second one of hires fix.

        Raises what `encode` raises.
        """
        parsed = grammar.parse(prompt)
        if not all(isfinite(part.weight) for part in parsed.parts):
            raise InvalidRequest(_TOO_LARGE)
        negative, networks = grammar.strip_networks(negative_prompt or "")
        away = grammar.schedule(negative, steps, base_steps) if negative_prompt is not None else []
        towards = [(grammar.schedule(part.text, steps, base_steps), part.weight) for part in parsed.parts]
        found = self._encode_each(text for said in (away, *(said for said, _ in towards)) for _, text in said)
        uncond = _held_until(away, found)
        if self._xl and not negative.strip():
            uncond = tuple((until, _zeros(held)) for until, held in uncond)
        conds = tuple((_held_until(said, found), weight) for said, weight in towards)
        return Conditionings(uncond, conds, (*parsed.networks, *networks))

    def _encode_each(self, texts: Iterable[str]) -> dict[str, Conditioning]:
        """Each different text by itself, (1, 77 x chunks, width), all of one length."""
        read = {text: [reader.chunks(text, self._emphasis) for reader in self._readers] for text in dict.fromkeys(texts)}
        longest = max(len(chunks) for by_reader in read.values() for chunks in by_reader)
        if longest * len(read) > MAX_CHUNKS:
            raise InvalidRequest(
                f"The prompt makes {len(read)} texts of up to {longest} chunks of {CHUNK} tokens; the most is {MAX_CHUNKS} "
                "chunks in all. Shorten the prompts, or let fewer words change between steps."
            )
        return {text: self._encoded(by_reader, longest) for text, by_reader in read.items()}

    def _encoded(self, by_reader: Sequence[Sequence[_Chunk]], length: int) -> Conditioning:
        """One text, padded to `length` chunks. by_reader: its chunks for each text encoder."""
        hidden, pooled = [], None
        for reader, chunks in zip(self._readers, by_reader, strict=True):
            padded = [*chunks, *[reader.chunk([])] * (length - len(chunks))]
            hidden.append(torch.cat([reader.hidden(chunk, self._emphasis) for chunk in padded], dim=1))
            own = reader.pooled(padded[0])
            pooled = pooled if own is None else own
        return Conditioning(torch.cat(hidden, dim=-1), pooled)


def _held_until(said: Sequence[tuple[int, str]], found: dict[str, Conditioning]) -> tuple[tuple[int, Conditioning], ...]:
    return tuple((until, found[text]) for until, text in said)


def _zeros(like: Conditioning) -> Conditioning:
    return Conditioning(torch.zeros_like(like.hidden), None if like.pooled is None else torch.zeros_like(like.pooled))


@dataclass(frozen=True)
class _Chunk:
    """What CLIP reads at once: the ids of 77 tokens, and a weight for each."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


class _Reader:
    """One tokenizer and its text encoder.

    layer:  whose hidden states are taken, -1 for the last. normed: whether they pass the encoder's last norm.
    """

    def __init__(self, tokenizer: Any, encoder: Any, layer: int, normed: bool) -> None:
        most = encoder.config.num_hidden_layers
        if not 1 <= -layer <= most:
            raise InvalidRequest(f"Clip skip is {-layer}, but this model's text encoder has {most} layers. Choose 1 to {most}.")
        self._tokenizer, self._encoder, self._layer, self._normed = tokenizer, encoder, layer, normed
        comma = tokenizer.convert_tokens_to_ids(",</w>")
        self._comma = None if comma == tokenizer.unk_token_id else comma
        self._known: dict[tuple[int, ...], tuple[Tensor, Tensor | None]] = {}

    def chunks(self, text: str, emphasis: Emphasis) -> list[_Chunk]:
        """The text's chunks, at least one. BREAK ends one wherever it stands, an empty one too."""
        sections = [[(text, 1.0)]] if emphasis == "None" else grammar.attention(text)
        *ended, last = [self._tokens(section, emphasis) for section in sections]
        cut = [piece for section in ended for piece in self._cut(section)]
        return [self.chunk(piece) for piece in [*cut, *(self._cut(last) if last or not cut else [])]]

    def chunk(self, tokens: Sequence[tuple[int, float]]) -> _Chunk:
        """Up to 75 tokens with their weights, made 77. SD 2 and SDXL pad with another token than the one that ends."""
        start, end, pad = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id, self._tokenizer.pad_token_id
        rest = CHUNK - len(tokens)
        ids = (start, *(token for token, _ in tokens), end, *(end if pad is None else pad for _ in range(rest)))
        return _Chunk(ids, (1.0, *(weight for _, weight in tokens), 1.0, *[1.0] * rest))

    def hidden(self, chunk: _Chunk, emphasis: Emphasis) -> Tensor:
        """(1, 77, width), weighted."""
        hidden, _ = self._encode(chunk.ids)
        return hidden if set(chunk.weights) == {1.0} else _weighted(hidden, chunk.weights, emphasis)

    def pooled(self, chunk: _Chunk) -> Tensor | None:
        """(1, width), not weighted; None when the encoder has no projection."""
        return self._encode(chunk.ids)[1]

    def _tokens(self, section: Sequence[tuple[str, float]], emphasis: Emphasis) -> list[tuple[int, float]]:
        if not section:
            return []
        words = [words for words, _ in section]
        read = self._tokenizer(words, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        weights = [1.0 if emphasis == "Ignore" else weight for _, weight in section]
        return [(token, weight) for ids, weight in zip(read, weights, strict=True) for token in ids]

    def _cut(self, tokens: Sequence[tuple[int, float]]) -> list[Sequence[tuple[int, float]]]:
        """Into pieces of up to 75, after a comma where one is near."""
        pieces, start = [], 0
        while len(tokens) - start > CHUNK:
            end = start + CHUNK
            if tokens[end][0] != self._comma:
                near = range(end, end - COMMA_BACKTRACK, -1)
                end = next((after for after in near if tokens[after - 1][0] == self._comma), end)
            pieces.append(tokens[start:end])
            start = end
        return [*pieces, tokens[start:]]

    def _encode(self, ids: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """A chunk's hidden and pooled states, computed when first asked for."""
        if ids not in self._known:
            inner = self._layer != -1
            with torch.no_grad():
                output = self._encoder(torch.tensor([ids], device=self._encoder.device), output_hidden_states=inner)
                hidden = output.hidden_states[self._layer] if inner else output.last_hidden_state
                if inner and self._normed:
                    # transformers 5.6 took the inner text_model out of CLIPTextModel; CLIPTextModelWithProjection has it still.
                    hidden = getattr(self._encoder, "text_model", self._encoder).final_layer_norm(hidden)
            self._known[ids] = hidden, getattr(output, "text_embeds", None)
        return self._known[ids]


def _weighted(hidden: Tensor, weights: Sequence[float], emphasis: Emphasis) -> Tensor:
    factors = torch.tensor(weights, device=hidden.device, dtype=torch.float32)[None, :, None]
    result = hidden.float() * factors
    if emphasis == "Original":
        result = result * (hidden.float().mean() / result.mean())
    result = result.to(hidden.dtype)
    if not result.isfinite().all():
        raise InvalidRequest(_TOO_LARGE)
    return result
