"""The page's languages: which one a visitor gets, and that a fixed one goes to everybody."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests import media
from tests.fakes import COUNT, STEPS
from tests.test_validation import REFUSED
from webui.artifacts import Artifacts, check_readable, full_disk_errors, storage_errors
from webui.errors import GalateaError
from webui.faces import Face, choose_face
from webui.jobs import slots
from webui.jobs.service import JobService
from webui.jobs.store import Record, Store
from webui.jobs.types import OUT_OF_MEMORY, STOPPED, UNEXPECTED, JobState
from webui.jobs.worker import DIED, WAITING
from webui.pictures import read_picture
from webui.settings import Settings
from webui.ui.texts import STUDIO, Texts


def visitor(accepted: str) -> SimpleNamespace:
    return SimpleNamespace(headers={"accept-language": accepted})


@pytest.mark.parametrize(
    ("accepted", "language"),
    [("zh-CN,zh;q=0.9", "zh"), ("en-US", "en"), ("de,zh-TW;q=0.8,en;q=0.5", "zh"), ("de,fr", "en"), ("", "en"), ("*", "en")],
)
def test_a_visitor_gets_the_first_of_their_languages_that_there_is(accepted: str, language: str):
    assert Texts(None).language(visitor(accepted)) == language


def test_a_fixed_language_is_everybodys():
    texts = Texts("zh")
    assert texts.say(STUDIO, "system", visitor("en-US")) == "系统"
    assert {table["studio_system"] for table in texts.catalogue().translations_dict.values()} == {"系统"}


def test_what_a_language_lacks_is_said_in_english(tmp_path):
    (tmp_path / "en.json").write_text('{"greeting": "Hello {name}"}')
    texts = Texts(None)
    texts.add("mine", tmp_path)
    assert texts.say("mine", "greeting", visitor("zh-CN"), name="Anna") == "Hello Anna"
    with pytest.raises(KeyError):
        texts.say("mine", "farewell", None)


def raised(action: Callable[[], object]) -> str:
    with pytest.raises(GalateaError) as error:
        action()
    return str(error.value)


def ends(store: Store, *, stage: str = "", cancel: bool = False, steps: int = 3) -> Record:
    """What becomes of a job whose worker died twice after `steps` steps."""
    store.add(Record("a" * 32, "count", JobState.QUEUED, {}, 1, 0.0))
    for _ in range(2):
        store.claim("worker", ("count",), only_own=False)
        store.beat("a" * 32, "worker", stage=stage, cancel=cancel)
        record = store.take_from_dead(store.running()[0], steps, DIED)
    store.delete("a" * 32)
    store.forget("a" * 32)
    return record


def said_of_requests(folder: Path) -> list[str]:
    service = JobService([COUNT, STEPS], Artifacts(folder), Settings(outputs_dir=folder), alone=True)
    service.close()  # so that nothing begins
    jobs = [service.submit("count", {}).id, service.submit("steps", {"journal": ""}).id]
    nothing_to_skip = [raised(lambda job_id=job_id: service.skip(job_id)) for job_id in jobs]
    unknown, too_high = raised(lambda: service.submit("sing", {})), raised(lambda: service.prioritise("any", 101))
    service.close()
    return [*(sentence for _, sentence in REFUSED), unknown, too_high, *nothing_to_skip]


def said_by_jobs(folder: Path) -> list[str]:
    store = Store(f"sqlite:///{folder / 'jobs.sqlite'}")
    failed, listed, kept = ends(store, stage="drawing 3 of 4"), ends(store), ends(store, cancel=True)
    store.close()
    with pytest.raises(GalateaError) as broken:
        Store(f"sqlite:///{folder}")
    in_the_way = raised(lambda: Store(f"sqlite:///{folder / 'jobs.sqlite' / 'jobs.sqlite'}"))
    ended = [failed.error, listed.error, kept.error, failed.log[0]]
    return [UNEXPECTED, STOPPED, OUT_OF_MEMORY, WAITING, *ended, in_the_way, str(broken.value)]


def said_by_files(folder: Path) -> list[str]:
    def refused(number: int, around: Callable) -> str:
        def write() -> None:
            with around(folder):
                raise OSError(number, "refused")

        return raised(write)

    os.mkfifo(folder / "pipe")
    too_long = folder / ("n" * 300)
    return [
        refused(errno.ENOSPC, full_disk_errors),
        *(refused(number, storage_errors) for number in (errno.EACCES, errno.EEXIST, errno.ENAMETOOLONG)),
        *(raised(lambda path=path: check_readable(path)) for path in (folder, folder / "pipe", folder / "none", too_long)),
        *(raised(lambda path=path: read_picture(path, 1000)) for path in (folder, folder / "none.png", too_long)),
        raised(lambda: Artifacts(folder).get("0" * 32)),
    ]


def said_by_workers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (folder / "file").touch()
    monkeypatch.setattr(slots, "MOST", 0)
    return [raised(lambda: slots.Slot(folder / "slots")), raised(lambda: slots.Slot(folder / "file" / "slots"))]


def said_by_pictures(folder: Path, portrait: Path) -> list[str]:
    files = {name: folder / name for name in ("empty.png", "words.png", "tiny.png", "half.png", "huge.png", "sound.wav")}
    files["empty.png"].touch()
    files["words.png"].write_text("no picture at all")
    Image.new("RGB", (4, 4)).save(files["tiny.png"])
    noise = np.random.default_rng(1).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(files["half.png"])
    files["half.png"].write_bytes(files["half.png"].read_bytes()[:5000])
    Image.new("1", (15_000, 14_000)).save(files["huge.png"])
    media.write_wav(files["sound.wav"], 1.0)
    small = Face((0, 0, 20, 20), np.stack([np.linspace(0, 20, 68)] * 2, axis=1), 1.0)
    notes = read_picture(portrait, 300).notes
    return [
        *(raised(lambda path=path: read_picture(path, 1000)) for path in files.values()),
        raised(lambda: choose_face([small], None, (640, 480))),
        *notes,
    ]


@pytest.mark.skipif(os.name == "nt", reason="pipes in the file system")
def test_what_the_studio_says_is_there_in_chinese(tmp_path: Path, portrait_file: Path, monkeypatch: pytest.MonkeyPatch):
    texts, chinese = Texts(None), visitor("zh-CN")
    jobs = said_by_jobs(tmp_path)
    said = [
        *jobs, *said_of_requests(tmp_path / "outputs"), *said_by_files(tmp_path), *said_by_pictures(tmp_path, portrait_file),
        *said_by_workers(tmp_path, monkeypatch),
    ]  # fmt: skip
    for sentence in said:
        told = texts.told(sentence, chinese)
        assert told != sentence and "{" not in told and re.search(r"[\u4e00-\u9fff]", told), sentence
        assert texts.told(sentence, None) == sentence
    assert "drawing 3 of 4" in texts.told(jobs[4], chinese) and "3 个步骤" in texts.told(jobs[7], chinese)


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("'style' must be 'plain', 'odd' or 'fancy', not 'x'.", "“style”只能是 'plain', 'odd' 或 'fancy'，现为 'x'。"),
        ("'a' is missing. 'b' must be a number, not '1. 2'. 'c' is missing.", "缺少“a”。“b”必须是数字，现为 '1. 2'。缺少“c”。"),
        ("'priority' must be a whole number from -100 to 100.", "“priority”必须是 -100 到 100 的整数。"),
    ],
)  # fmt: skip
def test_every_field_that_is_wrong_is_told(sentence: str, told: str):
    assert Texts(None).told(sentence, visitor("zh-CN")) == told


def test_visitors_words_inside_of_a_sentence_stay_as_they_are(tmp_path: Path):
    """Only what a group named "said..." holds is a sentence itself."""
    sentences = {"hello": "你好", "The file (?P<name>.+) says (?P<said_what>.+)": "文件 {name} 说：{said_what}"}
    (tmp_path / "sentences.zh.json").write_text(json.dumps(sentences), encoding="utf-8")
    texts = Texts(None)
    texts.add("mine", tmp_path)
    assert texts.told("The file hello says hello", visitor("zh-CN")) == "文件 hello 说：你好"
