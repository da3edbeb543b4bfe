"""What the picture makers raise, warn of or name as a stage is there in Chinese, too: found in their source: none is missed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest

from webui.builtin import draw
from webui.imaging import plans, samplers
from webui.ui.texts import Texts
from webui.weights import detect
from webui.weights.detect import Found

WEBUI = Path(__file__).parent.parent / "webui"
SOURCES = [file for room in ("imaging", "weights", "builtin") for file in sorted((WEBUI / room).glob("*.py"))]
SOURCES.append(WEBUI / "devices.py")
CHINESE = SimpleNamespace(headers={"accept-language": "zh-CN"})
SENTENCE = re.compile(r"(?s)\S+ .*[.?]( 7)?")


@pytest.fixture(scope="module")
def texts() -> Texts:
    texts = Texts(None)
    texts.add("builtin", WEBUI / "builtin" / "locales")
    return texts


def written(node: ast.expr) -> Iterator[str]:
    """All that a string in the source can say, with 7 for what is not known."""
    match node:
        case ast.Constant(str(text)):
            yield text
        case ast.IfExp():
            yield from written(node.body)
            yield from written(node.orelse)
        case ast.FormattedValue():
            yield from written(node.value)
        case ast.JoinedStr():
            yield from map("".join, product(*map(list, map(written, node.values))))
        case ast.BinOp(left, ast.Add(), right):
            yield from map("".join, product(list(written(left)), list(written(right))))
        case _:
            yield "7"


def said(file: Path) -> set[str]:
    """The sentences in a module, the reasons of its ValueErrors, and the stages that it names."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    silent: set[int] = set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in silent:
            continue
        match node:
            case ast.Expr(ast.Constant()) | ast.keyword("description", _):
                silent |= {id(inner) for inner in ast.walk(node)}
            case ast.Call(ast.Attribute(_, "progress"), [_, ast.expr() as stage]):
                found |= {words for words in written(stage) if re.search("[a-z]", words)}
            case ast.Call(ast.Name("ValueError"), [reason]) if file.name in ("requests.py", "axes.py", "kinds.py"):
                found |= {f"{words}." for words in written(reason)}
            case ast.Constant(str()) | ast.JoinedStr() | ast.BinOp(_, ast.Add(), _):
                silent |= {id(inner) for inner in ast.walk(node)}
                found |= {words for words in written(node) if SENTENCE.fullmatch(words)}
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_sentence_is_there_in_chinese(file: Path, texts: Texts):
    for sentence in sorted(said(file)):
        told = texts.told(sentence, CHINESE)
        assert re.search(r"[\u4e00-\u9fff]", told) and "{" not in told, sentence
        assert texts.told(sentence, None) == sentence


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("denoising, batch 2 of 3", "正在去噪，第 2 批，共 3 批"),
        ("loading the model, picture 2 of 3", "正在加载模型，第 2 张，共 3 张"),
        ("it lies beside the checkpoint", "它与模型放在一起"),
        (
            "x.safetensors is a LoRA (SD 1.x), not a checkpoint. Move it into models/Lora.",
            "x.safetensors 是LoRA（SD 1.x），不是大模型。请把它移到 models/Lora。",
        ),
        (
            "There is no model 'panter'. Did you mean painter or panther?",
            "没有模型“panter”。您要找的是 painter 或 panther 吗？",
        ),
        ("There is no VAE 'x'. Put it into models/VAE.", "没有 VAE“x”。请把它放到 models/VAE。"),
        (
            "There is no sampler “Eular”. Did you mean Euler, Euler a or LMS?",
            "没有采样方法“Eular”。您要找的是 Euler, Euler a 或 LMS 吗？",
        ),
        (
            "DPM++ SDE is not available here: a single-step SDE solver was used.",
            "这里没有 DPM++ SDE，已换用：单步 SDE 求解器。",
        ),
        ("'size' cannot be taken: must be WIDTHxHEIGHT, such as 512x768.", "“size”无法使用：应为“宽x高”，例如 512x768。"),
        (
            "The request cannot be taken: Steps is on two axes. Choose another one for one of them.",
            "无法按这些参数执行：“Steps”用在了两个轴上，请更换其中一个。",
        ),
        (
            "x.safetensors breaks off: 10 bytes of 2.1 GB are there. Wait until its download has finished, or download it again.",
            "x.safetensors 不完整：只有 10 bytes，应为 2.1 GB。请等待下载完成，或重新下载。",
        ),
        (
            "The mask is empty. Paint over the part of the picture that is to be made anew.",
            "蒙版是空的。请涂抹图片中要重绘的部分。",
        ),
        ("x.safetensors is empty. Download it again.", "x.safetensors 是空文件。请重新下载。"),
    ],
)  # fmt: skip
def test_they_are_put_together_as_they_should_be(sentence: str, told: str, texts: Texts):
    assert texts.told(sentence, CHINESE) == told


@pytest.mark.parametrize(
    "words",
    [
        *detect.KINDS.values(),
        *(found.title for found in (Found("unknown"), Found("lora", "sdxl"), Found("checkpoint", "sd1", inpaint=True))),
        *(words for _, words in plans._LEVELS), *(one.instead for one in samplers.SAMPLERS if " " in one.instead),
    ],
)  # fmt: skip
def test_parts_of_sentences_are_known_too(words: str, texts: Texts):
    assert texts.told(words, CHINESE) != words


def test_the_sentences_are_found():
    found = set().union(*map(said, SOURCES))
    assert {"saving", "loading the model", draw.BLURRED} <= found and len(found) > 100
    assert "There is no model '7'. 7" in found and "There is no VAE '7'. 7" in found
