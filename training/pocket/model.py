"""The parts of the pocket model, a Stable Diffusion 1.x checkpoint in small: sizes, and the tokenizer. Trains no network."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH = 192
"""Of the text encoder's hidden states, and so of the UNet's cross attention."""

MAX_TOKENS = 77
MERGES = 1000
START, END = "<|startoftext|>", "<|endoftext|>"

_WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
"""How CLIP cuts a text into words."""


def vae() -> AutoencoderKL:
    """Pictures to latents of an eighth of their side, and back."""
    blocks = 4
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(32, 64, 96, 128),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=128,
    )


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        # No attention at the finest of the three scales: half of the time of a step, and what it adds is small.
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128, 224),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def text_encoder(vocabulary: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="quick_gelu",
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.x's noise."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def train_tokenizer(captions: Iterable[str], folder: Path) -> None:
    """CLIP's way of cutting words into pieces, with a vocabulary of our own. Any text can be said in it."""
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = len(letters) * 2 + MERGES
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False)
    # Each byte ends a word somewhere, so that any word can be spelled.
    tokenizer.train_from_iterator([*captions, *letters], trainer)
    pieces = dict(tokenizer.get_vocab())
    for letter in letters:
        for piece in (letter, f"{letter}</w>"):
            pieces.setdefault(piece, len(pieces))
    for special in (START, END):
        pieces[special] = len(pieces)

    folder.mkdir(parents=True, exist_ok=True)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    known = CLIPTokenizer(vocab=pieces, merges=[tuple(merge) for merge in merges], model_max_length=MAX_TOKENS)
    known.save_pretrained(folder)
