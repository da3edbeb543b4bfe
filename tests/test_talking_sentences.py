"""What the talking head raises or warns of is there in Chinese, too: found in its source, so that none is missed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from extensions.sadtalker.engines.neural import checkpoints
from tests.test_sentences import CHINESE, said
from webui.ui.texts import Texts

ROOT = Path(__file__).parent.parent
EXTENSION = ROOT / "extensions" / "sadtalker"
SOURCES = sorted(EXTENSION.rglob("*.py"))

NOT_FOR_VISITORS = {
    "push() was called after finish().",
    "Expected mono samples of shape (n,), got 7.",
    "pose_style must be 0..7, got 7.",
    "7 is not a video that can be read.",
    "AI-generated: this video was made by a computer from a photo and a sound recording (Galatea).",
}
"""For who calls it wrongly, for the way back from a file, which then says nothing, and what is written into a video."""

PARTS = {
    "The sound 7 is longer than 7, the most that is allowed. Cut it, or raise the limit in the settings.",
    "Try again, and report it if it happens again.",
    "Convert the sound to WAV and try again.",
    "7 Choose less, or the engine sadtalker with its networks in models/SadTalker.",
    "The built-in engine turns the head by 7 degrees at most (7).",
    "7. Run ./launch.sh --full to complete it, or use --engine builtin.",
    "7 It should be 77.",
    "7 7 of 7",
}
"""Of sentences that are whole in WHOLE, or a stage with a name of its own."""

WHOLE = [
    (
        "The sound a.wav is longer than 10 minutes, the most that is allowed. Cut it, or raise the limit in the settings.",
        "语音“a.wav”超过了允许的最长时长 10 分钟。请剪短，或在设置中提高上限。",
    ),
    (
        "The video could not be encoded (x). Try again, and report it if it happens again.",
        "视频编码失败（x）。请重试；如再次出现，请反馈。",
    ),
    (
        "The video could not be encoded (x). Convert the sound to WAV and try again.",
        "声音编码失败（x）。请把声音转换为 WAV 后重试。",
    ),
    (
        "The built-in engine turns the head by 30 degrees at most (yaw). Choose less, or the engine sadtalker with its networks "
        "in models/SadTalker.",
        "内置引擎最多转动 30 度（左右）。请减小角度，或使用 sadtalker 引擎（其网络放在 models/SadTalker）。",
    ),
    (
        "SadTalker's networks need the full installation, and this is the small one. Run ./launch.sh --full to complete it, or "
        "use --engine builtin.",
        "SadTalker 网络需要完整安装，当前为精简安装。请以完整方式运行 launch.sh，"
        "或在“更多选项”中把引擎改为 builtin 或 auto。",
    ),
    (
        "SadTalker's files cannot be used: SadTalker_V0.0.2_256.safetensors breaks off: 7.0 MB of 725.1 MB are there. Wait until "
        "its download has finished, or download it again. It should be SadTalker v0.0.2 as one file (for 256 x 256, at least "
        "590 MB).",
        "SadTalker 的文件无法使用：SadTalker_V0.0.2_256.safetensors 不完整：只有 7.0 MB，应为 725.1 MB。"
        "请等待下载完成，或重新下载。它应为SadTalker v0.0.2 整合文件（至少 590 MB）。",
    ),
]


@pytest.fixture(scope="module")
def texts() -> Texts:
    found = Texts(None)
    found.add("sadtalker", EXTENSION / "locales")
    found.add("builtin", ROOT / "webui" / "builtin" / "locales")
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(EXTENSION).with_suffix("").as_posix())
def test_every_sentence_is_there_in_chinese(file: Path, texts: Texts):
    for sentence in sorted(said(file) - NOT_FOR_VISITORS - PARTS):
        told = texts.told(sentence, CHINESE)
        assert re.search(r"[\u4e00-\u9fff]", told) and "{" not in told, sentence


@pytest.mark.parametrize(("sentence", "told"), WHOLE)
def test_they_are_put_together_as_they_should_be(sentence: str, told: str, texts: Texts):
    assert texts.told(sentence, CHINESE) == told


@pytest.mark.parametrize("part", [*checkpoints._KNOWN], ids=lambda part: part.name)
def test_what_a_file_should_be_is_said_in_chinese(part: checkpoints._Part, texts: Texts):
    assert texts.told(part.what, CHINESE) != part.what


def test_the_sentences_are_found():
    found = set().union(*map(said, SOURCES))
    assert found > NOT_FOR_VISITORS | PARTS, "each of these stands in the source"
    assert "The voice clip is silent: the mouth stays shut." in found and len(found) > 50
