"""What the parts of a checkpoint are read from: A1111's single files and diffusers folders, in one shape (`Origin`).

Gives configs, tensors by diffusers' names, each read when it is asked for, and tokenizers. Builds no network.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch

from webui.errors import UnsupportedModel
from webui.weights import files, folders, names
from webui.weights.names import Names, Source

Tensors = Mapping[str, Callable[[], torch.Tensor]]
"""A network's tensors by name, each read when it is called."""


class Origin(Protocol):
    """What the parts of a checkpoint are read from."""

    def config(self, part: str) -> dict[str, Any]: ...

    def tensors(self, part: str) -> Tensors: ...

    def tokenizer(self, part: str) -> Any: ...


@dataclass(frozen=True)
class SingleFile:
    """A1111's single file: tensors in LDM's names, numbers from configs/."""

    name: str
    header: files.Header
    numbers: dict[str, Any]
    read: Callable[[str], torch.Tensor]
    configs: Path

    def config(self, part: str) -> dict[str, Any]:
        return self.numbers[part]

    def tensors(self, part: str) -> Tensors:
        prefix, inside = self._inside(part)
        found = self._named(part, prefix, inside)
        return {new: _reading(self.read, prefix, source) for new, source in found.items()}

    def tokenizer(self, part: str) -> Any:
        return clip_tokenizer(self.configs / "tokenizer" / "merges.txt.gz", self.numbers[part]["pad_token"])

    def _inside(self, part: str) -> tuple[str, list[str]]:
        """The prefix of a part's tensors in this file, and their names without it."""
        for prefix in _PREFIXES[part]:
            if inside := [name[len(prefix) :] for name in self.header if name.startswith(prefix)]:
                return prefix, inside
        # A file that holds this part alone, without a prefix.
        return "", [name for name in self.header if name.startswith(_BARE.get(part, ()))]

    def _named(self, part: str, prefix: str, inside: list[str]) -> Names:
        if part == "unet":
            return names.unet(inside, self.numbers["unet"]["layers_per_block"])
        if part == "vae":
            return names.vae(inside)
        return names.open_clip(inside) if prefix.endswith(".model.") else names.clip(inside)


_PREFIXES = {
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.transformer.", "cond_stage_model.model.", "conditioner.embedders.0.transformer."),
    "text_encoder_2": ("conditioner.embedders.1.model.",),
}

_BARE = {
    "unet": (
        "conv_in.",
        "conv_norm_out.",
        "conv_out.",
        "time_embedding.",
        "add_embedding.",
        "down_blocks.",
        "mid_block.",
        "up_blocks.",
    ),
    "vae": ("encoder.", "decoder.", "quant_conv.", "post_quant_conv."),
}


@dataclass(frozen=True)
class Folder:
    """A diffusers folder: names and numbers as we need them."""

    folder: Path
    half: bool
    allow_pickles: bool

    def config(self, part: str) -> dict[str, Any]:
        return folders.read_json(self.folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json"))

    def tensors(self, part: str) -> Tensors:
        found: dict[str, Callable[[], torch.Tensor]] = {}
        for file in folders.weights(self.folder, part, half=self.half):
            inside = files.header(file, allow_pickles=self.allow_pickles)
            read = files.reader(file, allow_pickles=self.allow_pickles)
            named = names.vae(inside) if part == "vae" else names.clip(inside)
            found |= {new: _reading(read, "", source) for new, source in named.items()}
        return found

    def tokenizer(self, part: str) -> Any:
        from transformers import CLIPTokenizer

        try:
            # As in clip_tokenizer: what is written in a prompt is text.
            return CLIPTokenizer.from_pretrained(self.folder / part, local_files_only=True, split_special_tokens=True)
        except Exception as error:  # a damaged vocabulary makes the library fail in any way, by a bare Exception too
            raise UnsupportedModel(f"The {part} of {self.folder.name} cannot be read. Copy the whole folder again.") from error


def _reading(read: Callable[[str], torch.Tensor], prefix: str, source: Source) -> Callable[[], torch.Tensor]:
    return lambda: _taken(read(prefix + source.name), source)


def _taken(tensor: torch.Tensor, source: Source) -> torch.Tensor:
    """What `source` means of the tensor in the file; a view where that is possible. One of no such shape stays as it is."""
    if source.third is not None and tensor.ndim:
        tensor = tensor.tensor_split(3)[source.third]
    if source.matrix and tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]
    return tensor.T.contiguous() if source.transpose and tensor.ndim == 2 else tensor


def clip_tokenizer(merges: Path, pad: str) -> Any:
    """CLIP's tokenizer, 77 tokens at most, padded with `pad`.

    What is written in a prompt is text: a "!" is the word it was in training, also where padding has that sign.
    """
    from transformers import CLIPTokenizer

    vocabulary, pairs = _clip_vocabulary(merges)
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, pad_token=pad, model_max_length=77, split_special_tokens=True)


@lru_cache(maxsize=2)
def _clip_vocabulary(merges: Path) -> tuple[dict[str, int], Any]:
    """Token -> id, and the merges in order. The ids follow from the merges (github.com/openai/CLIP, clip/simple_tokenizer.py)."""
    lines = gzip.decompress(merges.read_bytes()).decode("utf-8").splitlines()[1:]
    pairs = [(first, second) for first, second in (line.split() for line in lines)]
    letters = _byte_letters()
    tokens = letters + [f"{letter}</w>" for letter in letters] + ["".join(pair) for pair in pairs]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, pairs


def _byte_letters() -> list[str]:
    """A visible letter for each byte, in the order of byte-level BPE: bytes that are letters already come first and stand for
    themselves."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in visible] + [chr(256 + number) for number in range(256 - len(visible))]
