"""The page's languages: which one a visitor gets, and that a fixed one goes to everybody."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests import media
from webui.artifacts import Artifacts, full_disk_errors, storage_errors
from webui.errors import GalateaError
from webui.faces import Face, choose_face
from webui.jobs.store import Record, Store
from webui.jobs.types import OUT_OF_MEMORY, STOPPED, UNEXPECTED, JobState
from webui.jobs.worker import DIED
from webui.pictures import read_picture
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


def said_by_jobs(folder: Path) -> list[str]:
    store = Store(f"sqlite:///{folder / 'jobs.sqlite'}")
    failed, listed, kept = ends(store, stage="drawing 3 of 4"), ends(store), ends(store, cancel=True)
    store.close()
    with pytest.raises(GalateaError) as broken:
        Store(f"sqlite:///{folder}")
    return [UNEXPECTED, STOPPED, OUT_OF_MEMORY, failed.error, listed.error, kept.error, failed.log[0], str(broken.value)]


def said_by_files(folder: Path) -> list[str]:
    def refused(number: int, around: Callable) -> str:
        def write() -> None:
            with around(folder):
                raise OSError(number, "refused")

        return raised(write)

    full, closed = refused(errno.ENOSPC, full_disk_errors), refused(errno.EACCES, storage_errors)
    return [full, closed, raised(lambda: Artifacts(folder).get("0" * 32))]


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


def test_what_the_studio_says_is_there_in_chinese(tmp_path: Path, portrait_file: Path):
    texts, chinese = Texts(None), visitor("zh-CN")
    said = [*said_by_jobs(tmp_path), *said_by_files(tmp_path), *said_by_pictures(tmp_path, portrait_file)]
    for sentence in said:
        told = texts.told(sentence, chinese)
        assert told != sentence and "{" not in told, sentence
        assert texts.told(sentence, None) == sentence
    assert "drawing 3 of 4" in texts.told(said[3], chinese) and "3 个步骤" in texts.told(said[6], chinese)
