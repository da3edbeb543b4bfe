"""Styles: A1111's styles.csv is read and written, and prompts are put into it in order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webui.errors import InvalidRequest, StorageError
from webui.imaging import styles as module
from webui.imaging.styles import LONGEST_PROMPT, Style, apply_styles, read_styles, save_styles

FROM_A1111 = '''\ufeffname,prompt,negative_prompt\r
film,"{prompt}, 35 mm film, ""grainy""",digital\r
ink,inkwash,\r
"two, lines","first\nsecond {prompt}",blurry\r
,nameless,\r
short\r
'''

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "styles.csv"
    path.write_bytes(FROM_A1111.encode())
    return path


def test_a_table_of_a1111_is_read(table: Path):
    assert list(read_styles(table).values()) == [
        Style("film", '{prompt}, 35 mm film, "grainy"', "digital"),
        Style("ink", "inkwash", ""),
        Style("two, lines", "first\nsecond {prompt}", "blurry"),
        Style("short", "", ""),
    ]


def test_other_tables_are_read(tmp_path: Path):
    path = tmp_path / "styles.csv"
    assert read_styles(path) == {}
    path.write_text("", encoding="utf-8")
    assert read_styles(path) == {}
    path.write_text("negative_prompt,extra,text,name\nbad,1,good,old,more\n,,twice,old\n", encoding="utf-8")
    assert read_styles(path) == {"old": Style("old", "twice", "")}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name,prompt\na,\xff\xfe\n", "UTF-8"),
        (b"title,prompt\na,b\n", "no column “name”"),
        (b'name,prompt\na,"' + b"x" * 200_000 + b'"\n', "not a table of styles"),
    ],
)
def test_a_broken_table_is_told(tmp_path: Path, content: bytes, said: str):
    path = tmp_path / "styles.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest, match=said):
        read_styles(path)


def test_a_folder_in_its_place_is_told(tmp_path: Path):
    with pytest.raises(StorageError, match="cannot be read") as refused:
        read_styles(tmp_path)
    assert str(tmp_path) not in str(refused.value)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(Style, WORDS.filter(bool), WORDS, WORDS)))
def test_what_is_saved_is_read_again(tmp_path_factory: pytest.TempPathFactory, styles: list[Style]):
    path = tmp_path_factory.mktemp("styles") / "styles.csv"
    save_styles(path, styles)
    assert read_styles(path) == {style.name: style for style in styles}
    assert path.read_bytes().startswith(b"\xef\xbb\xbfname,prompt,negative_prompt\r\n")
    assert [file.name for file in path.parent.iterdir()] == ["styles.csv"]


def test_the_old_table_stays_when_saving_fails(table: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device") as refused:
        save_styles(table, [Style("new")])
    assert str(table.parent) not in str(refused.value)
    assert table.read_bytes() == FROM_A1111.encode()
    assert os.listdir(table.parent) == ["styles.csv"]


def test_styles_are_applied_in_their_order():
    styles = {
        "film": Style("film", "{prompt}, 35 mm", "digital"),
        "ink": Style("ink", "inkwash"),
        "around": Style("around", "a {prompt} b {prompt}"),
    }
    assert apply_styles("a fox", "blurry", ["film", "ink"], styles) == ("a fox, 35 mm, inkwash", "blurry, digital")
    assert apply_styles("a fox", "", ["ink", "film"], styles) == ("a fox, inkwash, 35 mm", "digital")
    assert apply_styles(" ", "", ["ink"], styles) == ("inkwash", "")
    assert apply_styles("x", "", ["around"], styles) == ("a x b x", "")
    assert apply_styles(" as it is ", "n", [], styles) == (" as it is ", "n")


def test_an_unknown_style_is_told_with_the_nearest():
    with pytest.raises(InvalidRequest, match=r"no style “flim”\. Is it “film”"):
        apply_styles("a", "", ["flim"], {"film": Style("film")})


def test_styles_that_double_the_prompt_come_to_an_end():
    with pytest.raises(InvalidRequest, match=str(LONGEST_PROMPT)):
        apply_styles("a fox", "", ["twice"] * 60, {"twice": Style("twice", "{prompt} {prompt}")})
