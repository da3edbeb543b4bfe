"""Prompts become hidden states: diffusers' own for a plain prompt, A1111's chunks and weights for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from webui.errors import InvalidRequest
from webui.imaging.encode import MAX_CHUNKS, Conditioner, Conditioning
from webui.imaging.prompt import Network

PROMPT, NEGATIVE = "a red-haired woman, smiling at the camera", "blurry, 猫"
START, END = "<|startoftext|>", "<|endoftext|>"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Parts:
    architecture: str
    tokenizers: tuple[Any, ...]
    text_encoders: tuple[Any, ...]


class Counting:
    """A text encoder that counts what it is asked."""

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.calls = encoder, 0

    def __call__(self, ids: Tensor, **options: Any) -> Any:
        self.calls += 1
        assert ids.shape == (1, 77)
        return self.encoder(ids, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)


def tokenizer(pad: str = END) -> CLIPTokenizer:
    """CLIP's, with no merges: every letter is a token."""
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), START, END]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77, pad_token=pad)


def config(words: CLIPTokenizer, width: int, layers: int = 4) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=width,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def random_weights(encoder: Any) -> Any:
    """As CLIP's are in one way that counts: the mean of the hidden states is not zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0.02, 0.3, generator=generator)
    return encoder.eval()


@pytest.fixture(scope="module")
def sd1() -> Parts:
    words = tokenizer()
    return Parts("sd1", (words,), (random_weights(CLIPTextModel(config(words, 16))),))


@pytest.fixture(scope="module")
def sdxl() -> Parts:
    first, second = tokenizer(), tokenizer(pad="!")
    encoders = CLIPTextModel(config(first, 16)), CLIPTextModelWithProjection(config(second, 24))
    return Parts("sdxl", (first, second), tuple(map(random_weights, encoders)))


def diffusion_parts(width: int) -> dict[str, Any]:
    """The rest of a pipeline, which encoding a prompt does not touch."""
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    return {
        "unet": unet,
        "vae": AutoencoderKL(norm_num_groups=4, block_out_channels=(4,)),
        "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1),
    }


def same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def letters(count: int, *commas: int) -> str:
    """`count` tokens; those at `commas` are commas."""
    return " ".join("," if index in commas else "x" for index in range(count))


# What diffusers does, to the bit


def test_a_plain_prompt_is_encoded_as_diffusers_does(sd1: Parts):
    pipeline = StableDiffusionPipeline(
        tokenizer=sd1.tokenizers[0],
        text_encoder=sd1.text_encoders[0],
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **diffusion_parts(16),
    )
    cond, uncond = pipeline.encode_prompt(PROMPT, "cpu", 1, True, NEGATIVE)
    found = Conditioner(sd1).conditionings(PROMPT, NEGATIVE, 20).at(1)
    assert found.uncond is not None and same(found.uncond.hidden, uncond)
    assert same(found.conds[0][0].hidden, cond) and found.conds[0][0].pooled is None
    together = Conditioner(sd1).encode([PROMPT, NEGATIVE])
    assert torch.equal(together.hidden, torch.cat([cond, uncond]))


def test_sdxl_is_encoded_as_diffusers_does(sdxl: Parts):
    pipeline = StableDiffusionXLPipeline(
        tokenizer=sdxl.tokenizers[0],
        tokenizer_2=sdxl.tokenizers[1],
        text_encoder=sdxl.text_encoders[0],
        text_encoder_2=sdxl.text_encoders[1],
        add_watermarker=False,
        **diffusion_parts(40),
    )
    for negative in (NEGATIVE, None):
        cond, uncond, pooled, uncond_pooled = pipeline.encode_prompt(PROMPT, negative_prompt=negative)
        found = Conditioner(sdxl).conditionings(PROMPT, negative or "", 20).at(1)
        assert found.conds[0][0].hidden.shape == (1, 77, 40) and found.uncond is not None
        assert same(found.conds[0][0].hidden, cond) and same(found.conds[0][0].pooled, pooled)
        assert same(found.uncond.hidden, uncond) and same(found.uncond.pooled, uncond_pooled)
        assert negative or not found.uncond.hidden.any()


@pytest.mark.parametrize("skip", [1, 2, 3, 4])
def test_clip_skip_takes_an_earlier_layer_through_the_last_norm(sd1: Parts, skip: int):
    encoder = sd1.text_encoders[0]
    ids = sd1.tokenizers[0](PROMPT, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = encoder.final_layer_norm(encoder(ids, output_hidden_states=True).hidden_states[-skip])
    assert torch.equal(Conditioner(sd1, skip).encode([PROMPT]).hidden, expected)


@pytest.mark.parametrize("skip", [0, 5])
def test_clip_skip_beyond_the_layers_is_refused(sd1: Parts, skip: int):
    with pytest.raises(InvalidRequest, match="Choose 1 to 4"):
        Conditioner(sd1, skip)


def test_sdxl_has_no_use_for_clip_skip(sdxl: Parts):
    assert Conditioner(sdxl, 12).clip_skip == 1
    assert torch.equal(Conditioner(sdxl, 12).encode([PROMPT]).hidden, Conditioner(sdxl).encode([PROMPT]).hidden)


def test_sd2_pads_with_its_own_token():
    words = tokenizer(pad="!")
    parts = Parts("sd2", (words,), (random_weights(CLIPTextModel(config(words, 16))),))
    ids = words(PROMPT, padding="max_length", return_tensors="pt").input_ids
    assert ids[0, -1] == words.pad_token_id != words.eos_token_id
    with torch.no_grad():
        assert torch.equal(Conditioner(parts).encode([PROMPT]).hidden, parts.text_encoders[0](ids).last_hidden_state)


# Chunks


def chunks(parts: Parts, text: str) -> list[Tensor]:
    return list(Conditioner(parts).encode([text]).hidden.split(77, dim=1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (letters(75), [letters(75)]),
        (letters(76), [letters(75), "x"]),
        (letters(160), [letters(75), letters(75), letters(10)]),
        (letters(80, 60), [letters(61, 60), letters(19)]),
        (letters(80, 55), [letters(56, 55), letters(24)]),
        (letters(80, 54), [letters(75, 54), letters(5)]),
        (letters(80, 74), [letters(75, 74), letters(5)]),
        (letters(80, 75), [letters(75), letters(5, 0)]),
        (letters(80, 60, 75), [letters(75, 60), letters(5, 0)]),
        (letters(75, 60), [letters(75, 60)]),
        ("x BREAK y", ["x", "y"]),
        ("BREAK x BREAK BREAK y BREAK", ["", "x", "", "y"]),
        (f"{letters(75)} BREAK y", [letters(75), "y"]),
        ("BREAK", [""]),
        ("", [""]),
    ],
)
def test_long_prompts_are_read_in_chunks(sd1: Parts, text: str, expected: list[str]):
    found = chunks(sd1, text)
    assert len(found) == len(expected)
    for one, part in zip(found, expected, strict=True):
        assert torch.equal(one, Conditioner(sd1).encode([part]).hidden)


def test_shorter_texts_are_padded_with_empty_chunks(sdxl: Parts):
    found = Conditioner(sdxl).encode(["x", "x BREAK y BREAK z"])
    assert found.hidden.shape == (2, 3 * 77, 40)
    empty = Conditioner(sdxl).encode([""]).hidden[0]
    assert torch.equal(found.hidden[0], torch.cat([Conditioner(sdxl).encode(["x"]).hidden[0], empty, empty]))


def test_sdxls_pooled_states_are_of_the_first_chunk(sdxl: Parts):
    found = Conditioner(sdxl).encode(["x BREAK y"])
    assert same(found.pooled, Conditioner(sdxl).encode(["x"]).pooled)
    assert same(Conditioner(sdxl).encode(["y", "x BREAK y"]).pooled, Conditioner(sdxl).encode(["y", "x"]).pooled)


# Weights


def test_a_weight_multiplies_hidden_states_and_keeps_their_mean(sd1: Parts):
    plain, weighted = Conditioner(sd1).encode(["x y z", "x (y:1.5) z"]).hidden
    expected = plain.clone()
    expected[2] *= 1.5  # the first is the start token
    expected *= plain.mean() / expected.mean()
    torch.testing.assert_close(weighted, expected)
    assert weighted.mean() == pytest.approx(float(plain.mean()), rel=1e-5)
    assert not torch.allclose(weighted, plain)


def test_without_norm_the_other_words_stay_as_they_are(sd1: Parts):
    plain, weighted = Conditioner(sd1, emphasis="No norm").encode(["x y z", "x [y] z"]).hidden
    torch.testing.assert_close(weighted[2], plain[2] / 1.1)
    assert torch.equal(weighted[[0, 1, *range(3, 77)]], plain[[0, 1, *range(3, 77)]])


def test_each_chunk_keeps_its_own_mean(sd1: Parts):
    plain, weighted = (Conditioner(sd1).encode([text]).hidden[0] for text in ("x BREAK y z", "x BREAK (y:2) z"))
    assert torch.equal(weighted[:77], plain[:77])
    assert weighted[77:].mean() == pytest.approx(float(plain[77:].mean()), rel=1e-5)


def test_emphasis_can_be_ignored_or_not_read_at_all(sd1: Parts):
    plain = Conditioner(sd1).encode(["x y z"]).hidden
    assert torch.equal(Conditioner(sd1, emphasis="Ignore").encode(["x (y:1.5) z"]).hidden, plain)
    literal = Conditioner(sd1).encode([r"x \(y:1.5\) z"]).hidden
    assert torch.equal(Conditioner(sd1, emphasis="None").encode(["x (y:1.5) z"]).hidden, literal)
    assert Conditioner(sd1, emphasis="None").encode(["x BREAK z"]).hidden.shape[1] == 77


def test_sdxl_weighs_both_encoders_and_not_the_pooled_states(sdxl: Parts):
    plain, weighted = (Conditioner(sdxl, emphasis="No norm").encode([text]) for text in ("x y", "x (y:2)"))
    torch.testing.assert_close(weighted.hidden[0, 2], plain.hidden[0, 2] * 2)
    assert same(plain.pooled, weighted.pooled)


@pytest.mark.parametrize("text", ["(x:" + "9" * 400 + ")", "(" * 9000 + "x", "(x:1" + "0" * 39 + ")"])
def test_weights_without_measure_are_told(sd1: Parts, text: str):
    with pytest.raises(InvalidRequest, match="too large"):
        Conditioner(sd1).encode([text])


def test_a_part_without_measure_is_told(sd1: Parts):
    with pytest.raises(InvalidRequest, match="too large"):
        Conditioner(sd1).conditionings("a AND b :" + "9" * 400, "", 4)


def test_half_precision_stays_half():
    words = tokenizer()
    parts = Parts("sd1", (words,), (random_weights(CLIPTextModel(config(words, 16))).to(torch.bfloat16),))
    assert Conditioner(parts).encode(["x (y:1.5)"]).hidden.dtype == torch.bfloat16


def test_an_unknown_emphasis_is_refused(sd1: Parts):
    with pytest.raises(InvalidRequest, match="No norm"):
        Conditioner(sd1, emphasis="original")  # pyright: ignore[reportArgumentType]


# Steps


def test_words_change_at_their_step_and_are_encoded_once(sd1: Parts):
    counting = Counting(sd1.text_encoders[0])
    conditioner = Conditioner(Parts("sd1", sd1.tokenizers, (counting,)))
    found = conditioner.conditionings("a [red:blue:0.5] [x|y]", "[bad:5]", 20)
    assert counting.calls == 6  # four of the prompt, two of the negative one
    for step, words, negative in [(1, "a red x", ""), (2, "a red y", ""), (6, "a red y", "bad"), (11, "a blue x", "bad")]:
        assert torch.equal(cond(found, step).hidden, Conditioner(sd1).encode([words]).hidden)
        assert same(uncond(found, step).hidden, Conditioner(sd1).encode([negative]).hidden)
    assert cond(found, 1) is cond(found, 3) and uncond(found, 1) is uncond(found, 5)
    assert torch.equal(cond(found, 25).hidden, cond(found, 20).hidden)
    conditioner.conditionings("a [red:blue:0.5] [x|y]", "[bad:5]", 20)
    assert counting.calls == 6


def cond(found: Any, step: int) -> Conditioning:
    ((one, weight),) = found.at(step).conds
    assert weight == 1.0
    return one


def uncond(found: Any, step: int) -> Conditioning:
    return found.at(step).uncond


def test_all_steps_have_one_length(sd1: Parts):
    found = Conditioner(sd1).conditionings(f"[x:{letters(160)}:2] AND y", "bad", 4)
    for step in range(1, 5):
        guide = found.at(step)
        assert guide.uncond is not None
        assert {one.hidden.shape for one in (guide.uncond, *(one for one, _ in guide.conds))} == {(1, 3 * 77, 16)}


def test_and_gives_several_with_weights(sd1: Parts):
    found = Conditioner(sd1).conditionings("a cat AND [a dog:a fox:2] :0.5", "x AND y", 4)
    for step, second in [(1, "a dog"), (3, "a fox")]:
        guide = found.at(step)
        assert [weight for _, weight in guide.conds] == [1.0, 0.5]
        assert torch.equal(torch.cat([one.hidden for one, _ in guide.conds]), Conditioner(sd1).encode(["a cat", second]).hidden)
        assert guide.uncond is not None and torch.equal(guide.uncond.hidden, Conditioner(sd1).encode(["x AND y"]).hidden)


def test_networks_are_told_and_not_encoded(sd1: Parts):
    found = Conditioner(sd1).conditionings("a cat<lora:ink:0.7>", "bad<lora:b:1>", 4)
    assert found.networks == (Network("lora", "ink", ("0.7",)), Network("lora", "b", ("1",)))
    assert torch.equal(cond(found, 1).hidden, Conditioner(sd1).encode(["a cat"]).hidden)


def test_without_guidance_there_is_nothing_to_lead_away_from(sd1: Parts):
    assert Conditioner(sd1).conditionings("a cat", None, 4).at(1).uncond is None


def test_the_second_pass_of_hires_fix_goes_on(sd1: Parts):
    conditioner = Conditioner(sd1)
    found = conditioner.conditionings("[x:y:1.5]", "", 4, base_steps=20)
    assert torch.equal(cond(found, 2).hidden, conditioner.encode(["x"]).hidden)
    assert torch.equal(cond(found, 3).hidden, conditioner.encode(["y"]).hidden)


def test_steps_are_counted_from_one(sd1: Parts):
    with pytest.raises(ValueError, match="the first is 1"):
        Conditioner(sd1).conditionings("a", "", 4).at(0)


def test_ten_thousand_characters_are_encoded_or_refused(sd1: Parts):
    counting = Counting(sd1.text_encoders[0])
    conditioner = Conditioner(Parts("sd1", sd1.tokenizers, (counting,)))
    assert conditioner.encode(["x " * 5000]).hidden.shape == (1, 67 * 77, 16)
    calls = counting.calls
    with pytest.raises(InvalidRequest, match=f"the most is {MAX_CHUNKS} chunks"):
        conditioner.conditionings("[" + "|".join("abcdefghijklmnopqrst") + "]" + "y " * 4900, "", 150)
    assert counting.calls == calls
