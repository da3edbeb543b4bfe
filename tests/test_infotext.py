"""Infotext: A1111's text is read and written as it stands, ours comes back exactly, and no file can do harm."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from webui.errors import InvalidRequest
from webui.imaging.infotext import EXACT_PROMPT, Infotext, Kind, embed, extract, read, write

SAMPLES = [
    """a tin lighthouse on a tea table, soft window light, 50mm
Negative prompt: blurry, text
Steps: 24, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 417700231, Size: 512x768, Model hash: 1a2b3c4d5e, \
Model: tealamp_v3, Clip skip: 2, Version: v1.10.1""",
    """(paper fox:1.2) on a rope bridge <lora:foldedpaper:0.7>, inkwash
Negative prompt: neg-lowdetail
Steps: 28, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7.0, Seed: 99, Size: 640x448, Model hash: 99aa88bb77, \
Model: paperkin, VAE hash: 0f0e0d0c0b, VAE: softvae.safetensors, Denoising strength: 0.42, RNG: CPU, \
Hires prompt: "paper fox, crisp folds", Hires upscale: 2.0, Hires steps: 14, Hires upscaler: R-ESRGAN 4x+, \
Lora hashes: "foldedpaper: a1b2c3d4e5f6", TI hashes: "neg-lowdetail: 0011aabbccdd", Version: v1.10.1""",
    """a mossy stone well, morning fog
Steps: 30, Sampler: UniPC, CFG scale: 5.0, Seed: 7, Size: 512x512, Model hash: 5566778899, Model: wellspring, \
Denoising strength: 0.8, Mask mode: Inpaint not masked, Mask blur: 6, Inpaint area: Only masked, Masked area padding: 40, \
Masked content: latent noise, Version: v1.10.1""",
    """street at dusk, sign saying "open": neon
Steps: 20, Sampler: DDIM, CFG scale: 7.5, Seed: 5, Size: 768x512, Model hash: 0102030405, Model: duskmix, Variation seed: 6, \
Variation seed strength: 0.15, ControlNet 0: "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 1.0, \
Resize Mode: Crop and Resize, Processor Res: 512, Threshold A: 100.0, Threshold B: 200.0, Guidance Start: 0.0, \
Guidance End: 1.0, Pixel Perfect: False, Control Mode: Balanced", Version: v1.10.1""",
]
"""The samples of A1111's format. None of their words, hashes or numbers mean anything."""

FACTS = {"Steps": 20, "Sampler": "Euler a", "CFG scale": 7.0, "Seed": 1, "Size": "64x64"}
SAID = {key: str(value) for key, value in FACTS.items()}
TRICKY = [
    "", " ", "a, b: c", 'says "open"', "\n", "first\nsecond", "肖像，红发 🙂", "Steps: 3", "Steps: 3, Sampler: x, Seed: 1",
    "Negative prompt: b", "a\nNegative prompt: b\nc", "Negative prompt:", "\\", '"', "\r", "a\r\nb", "\u2028", "\0", "<lora:a:1>",
    "Exact prompt: x", "{prompt}", "  Negative prompt: indented",
]  # fmt: skip
PROMPTS = st.lists(st.sampled_from(TRICKY) | st.text(max_size=20), max_size=4).map("\n".join)
KEYS = st.from_regex(r"\A\w[\w \-/]{0,10}[\w\-/]\Z")
VALUES = st.sampled_from(TRICKY) | st.text(max_size=20) | st.from_regex(r"\A[0-9]+x[0-9]+\Z")
examples = settings(max_examples=150, deadline=None)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample[:12])
def test_the_samples_round_trip(sample: str):
    found = read(sample)
    assert write(found.facts, found.prompt, found.negative_prompt) == sample
    shuffled = dict(sorted(found.facts.items(), key=lambda item: not item[0].startswith(("Hires", "Mask", "Lora", "TI"))))
    assert write(shuffled, found.prompt, found.negative_prompt).split(", Denoising")[0] == sample.split(", Denoising")[0]


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("text", [*SAMPLES, "肖像 🙂\nSteps: 1, Seed: 2, Size: 8x8"], ids=lambda text: text[:12])
def test_the_samples_come_back_from_files(text: str, kind: Kind, tmp_path: Path):
    path = tmp_path / "picture"
    path.write_bytes(embed(Image.new("RGB", (64, 48), "red"), text, kind))
    assert extract(path) == text
    with Image.open(path) as image:
        assert image.size == (64, 48) and (image.format or "").lower().startswith(kind[:2])
        red, green, _ = image.convert("RGB").getpixel((20, 20))  # pyright: ignore[reportGeneralTypeIssues]
        assert red > 240 and green < 15


def test_what_was_read_is_what_stands_there():
    found = read(SAMPLES[1])
    assert found.prompt == "(paper fox:1.2) on a rope bridge <lora:foldedpaper:0.7>, inkwash"
    assert found.negative_prompt == "neg-lowdetail"
    assert found.facts["Hires prompt"] == "paper fox, crisp folds"
    assert found.facts["Lora hashes"] == "foldedpaper: a1b2c3d4e5f6"
    assert list(found.facts)[:3] == ["Steps", "Sampler", "Schedule type"]


def test_missing_keys_mean_their_defaults_and_sizes_are_split():
    parameters = read(SAMPLES[2]).parameters()
    assert parameters["Prompt"] == "a mossy stone well, morning fog"
    assert (parameters["Size-1"], parameters["Size-2"]) == ("512", "512") and "Size" not in parameters
    assert (parameters["Clip skip"], parameters["Schedule type"], parameters["RNG"]) == ("1", "Automatic", "GPU")
    assert parameters["Masked area padding"] == "40" and parameters["Hires sampler"] == "Use same sampler"


def test_defaults_that_readers_assume_are_not_written():
    text = write({**FACTS, "Clip skip": 1, "RNG": "GPU", "Mask mode": "Inpaint masked", "Tiling": None, "Refiner": None}, "a")
    assert text == "a\nSteps: 20, Sampler: Euler a, CFG scale: 7.0, Seed: 1, Size: 64x64"
    assert write({**FACTS, "Clip skip": 2, "RNG": "CPU"}, "a").endswith("Size: 64x64, Clip skip: 2, RNG: CPU")


def test_the_order_is_a1111s_whatever_order_was_given():
    facts = {"User": "u", "Version": "v", "Zeta": 1, "Alpha": 2, "Seed": 3, "Tiling": True, "Steps": 4}
    assert write(facts, "a") == "a\nSteps: 4, Seed: 3, Tiling: True, Zeta: 1, Alpha: 2, Version: v, User: u"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain text", "plain text"),
        ("a, b", '"a, b"'),
        ("a: b", '"a: b"'),
        ("a\nb", '"a\\nb"'),
        ("肖像, 猫", '"肖像, 猫"'),
        ('"quoted"', '"\\"quoted\\""'),
        (' "', '" \\""'),
        ('says "open"', 'says "open"'),
    ],
)
def test_values_are_quoted_when_they_must_be(value: str, written: str):
    text = write({**FACTS, "Zeta": value}, "a")
    assert text.endswith(f", Zeta: {written}")
    assert read(text).facts["Zeta"] == value


def test_a_key_that_is_its_own_value_stands_alone():
    text = write({**FACTS, "Zeta": "Zeta"}, "a")
    assert text.endswith("64x64, Zeta")
    assert read(text).facts == {**SAID, "Zeta": "Zeta"}


@pytest.mark.parametrize("key", ["", "a", "a:b", "a,b", " a", "a ", "(a)", "a\nb"])
def test_a_key_that_could_not_be_read_is_refused(key: str):
    with pytest.raises(ValueError, match="infotext cannot hold the key"):
        write({key: 1}, "a")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Infotext()),
        ("just a prompt", Infotext("just a prompt")),
        ("a prompt\nSteps: 3, Seed: 1", Infotext("a prompt\nSteps: 3, Seed: 1")),
        ("Steps: 3, Seed: 1, Size: 8x8", Infotext(facts={"Steps": "3", "Seed": "1", "Size": "8x8"})),
        ("a\nNegative prompt: b\nc", Infotext("a", "b\nc")),
        ("a\nb\n\nSteps: 3, Seed: 1, Model: x", Infotext("a\nb", facts={"Steps": "3", "Seed": "1", "Model": "x"})),
        ('a\nSteps: 3, Seed: 1, Model: "x', Infotext("a", facts={"Steps": "3", "Seed": "1", "Model": '"x'})),
        ('a\nSteps: 3, Seed: 1, Model: "x" y', Infotext("a", facts={"Steps": "3", "Seed": "1", "Model": '"x" y'})),
        (r'a' '\n' r'Steps: 3, Seed: 1, Odd: "\q"', Infotext("a", facts={"Steps": "3", "Seed": "1", "Odd": r'"\q"'})),
        ("a\nSteps: 3,Seed:1 , Model: , (x): 2", Infotext("a", facts={"Steps": "3", "Seed": "1", "Model": ""})),
        ("a\nSteps: 1, Steps: 2, Steps: 3", Infotext("a", facts={"Steps": "3"})),
    ],
)  # fmt: skip
def test_other_programs_texts_are_read(text: str, expected: Infotext):
    assert read(text) == expected


@pytest.mark.parametrize("prompt", TRICKY)
@pytest.mark.parametrize("negative_prompt", TRICKY)
def test_tricky_prompts_come_back(prompt: str, negative_prompt: str):
    assert read(write(FACTS, prompt, negative_prompt)) == Infotext(prompt.strip(), negative_prompt.strip(), SAID)


def test_a_prompt_is_repeated_only_when_it_could_not_be_told():
    assert EXACT_PROMPT not in write(FACTS, "a\nSteps: 3, Seed: 1, Size: 1x1\nb", "c\nNegative prompt: d")
    assert f'{EXACT_PROMPT}: "a\\nNegative prompt: b"' in write(FACTS, "a\nNegative prompt: b")


@examples
@given(PROMPTS, PROMPTS, st.dictionaries(KEYS, VALUES, max_size=5))
def test_anything_comes_back(prompt: str, negative_prompt: str, more: dict[str, str]):
    facts = {**more, **SAID}
    found = read(write(facts, prompt, negative_prompt))
    assert (found.prompt, found.negative_prompt) == (prompt.strip(), negative_prompt.strip())
    assert found.facts == facts
    assert write(found.facts, found.prompt, found.negative_prompt) == write(facts, prompt, negative_prompt)


@examples
@given(PROMPTS | st.text(), st.sampled_from(get_args(Kind)))
def test_any_text_comes_back_from_a_file(text: str, kind: Kind):
    assume(text)
    text = text.replace("\0", "")
    found = extract(io.BytesIO(embed(Image.new("RGB", (8, 8)), text, kind)))
    assert (found or "") == text


def test_half_a_surrogate_pair_is_replaced():
    assert extract(io.BytesIO(embed(Image.new("RGB", (8, 8)), "a\ud800b", "png"))) == "a\ufffdb"


def test_a_text_too_long_for_a_jpeg_is_told():
    image = Image.new("RGB", (8, 8))
    long = "x" * 40_000
    with pytest.raises(InvalidRequest, match="PNG or WebP"):
        embed(image, long, "jpg")
    assert extract(io.BytesIO(embed(image, long, "webp"))) == long
    assert extract(io.BytesIO(embed(image, "x" * 32_000, "jpg"))) == "x" * 32_000


def saved(kind: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind, **options)
    return io.BytesIO(file.getvalue())


def exif(comment: bytes, endian: str = ">") -> bytes:
    made = Image.Exif()
    made.endian = endian
    made.get_ifd(0x8769)[0x9286] = comment
    return made.tobytes()


def chunk(text: str) -> PngInfo:
    made = PngInfo()
    made.add_text("parameters", text)
    return made


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (saved("PNG", pnginfo=chunk("chunk"), exif=exif(b"UNICODE\0" + "exif".encode("utf-16-be"))), "exif"),
        (saved("PNG", pnginfo=chunk("chunk")), "chunk"),
        (saved("PNG", pnginfo=chunk("chunk"), exif=exif(b"UNICODE\0")), "chunk"),
        (saved("GIF", comment="comment, 猫".encode()), "comment, 猫"),
        (saved("JPEG", comment=b"comment"), "comment"),
        (saved("JPEG", exif=exif(b"UNICODE\0" + "Steps: 猫".encode("utf-16-le"), "<")), "Steps: 猫"),
        (saved("JPEG", exif=exif(b"ASCII\0\0\0Steps: 1")), "Steps: 1"),
        (saved("JPEG", exif=exif("Steps: 猫".encode())), "Steps: 猫"),
        (saved("JPEG", exif=exif(b"UNICODE\0\xd8\x00\x00")), "\ufffd"),
        (saved("PNG"), None),
        (saved("JPEG"), None),
        (saved("BMP"), None),
        (io.BytesIO(), None),
        (io.BytesIO(b"Steps: 1, Seed: 2, Size: 8x8"), None),
    ],
)
def test_where_other_programs_put_it(file: io.BytesIO, expected: str | None):
    file.seek(0)
    assert extract(file) == expected


def test_a_missing_file_is_the_callers_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        extract(tmp_path / "none.png")


def png(*chunks: tuple[bytes, bytes], side: int = 8) -> bytes:
    header = (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    pixels = (b"IDAT", zlib.compress(bytes(8 * 25)))
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (header, *chunks, pixels, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


BOMB = zlib.compress(bytes(200 << 20), 1)


def test_a_compressed_chunk_is_read():
    assert extract(io.BytesIO(png((b"zTXt", b"parameters\0\0" + zlib.compress(b"Steps: 1"))))) == "Steps: 1"


def test_no_pixel_is_looked_at():
    half = png((b"tEXt", b"parameters\0Steps: 1"), side=9000)
    assert extract(io.BytesIO(half)) == "Steps: 1"
    noise = Image.effect_noise((1600, 1600), 100).convert("RGB")
    large = embed(Image.merge("RGB", [noise.getchannel(0).rotate(turn) for turn in (0, 90, 180)]), SAMPLES[0])
    assert len(large) > 5 << 20 and extract(io.BytesIO(large)) == SAMPLES[0]


@pytest.mark.parametrize(
    "bytes_",
    [
        png((b"zTXt", b"parameters\0\0" + BOMB)),
        png((b"iTXt", b"parameters\0\1\0\0\0" + BOMB)),
        png(*[(b"zTXt", b"x%d\0\0" % i + zlib.compress(bytes(1 << 20))) for i in range(200)]),
        png((b"tEXt", b"parameters\0" + b"a" * (3 << 20))),
        png((b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff" * 100)),
        png((b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\0")),
        b"GIF89a" + bytes(7) + b"!\xfe" + (b"\xff" + b"a" * 255) * 100_000,
        b"\xff\xd8" + (b"\xff\xe1\xff\xff" + b"Exif\0\0" + b"a" * 65527) * 500,
        b"RIFF\xff\xff\xff\xffWEBPVP8X\x0a\0\0\0\x08\0\0\0\xff\x3f\0\xff\x3f\0",
    ],
    ids=["ztxt", "itxt", "many", "long", "ifd", "loop", "gif", "jpeg", "webp"],
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_hostile_file_costs_neither_time_nor_memory(bytes_: bytes):
    tracemalloc.start()
    start = time.process_time()
    try:
        assert extract(io.BytesIO(bytes_)) is None
        assert time.process_time() - start < 3.0
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


WHOLE = [embed(Image.new("RGB", (8, 8)), SAMPLES[0], kind) for kind in get_args(Kind)] + [saved("GIF", comment=b"abc").getvalue()]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=400, deadline=None)
@given(st.sampled_from(WHOLE), st.data())
def test_a_damaged_file_never_raises(whole: bytes, data: st.DataObject):
    damaged = bytearray(whole)
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=6)):
        damaged[place] = byte
    del damaged[data.draw(st.integers(0, len(whole))) :]
    found = extract(io.BytesIO(bytes(damaged)))
    assert found is None or isinstance(found, str)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@examples
@given(st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1", b"RIFF\0\0\0\0WEBP", b"GIF89a"]), st.binary(max_size=200))
def test_random_bytes_never_raise(start: bytes, rest: bytes):
    found = extract(io.BytesIO(start + rest))
    assert found is None or isinstance(found, str)


@pytest.mark.parametrize(
    "part", ["a", "a:", 'a:"', 'a: "\\"', ", ", ":", "\n", "Negative prompt:\n", "Steps: 3, ", "a b", '"', "\\"]
)
def test_hostile_texts_are_read_quickly(part: str):
    text = part * (200_000 // len(part))
    start = time.process_time()
    read(text)
    assert time.process_time() - start < 1.0
