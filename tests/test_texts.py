"""The page's languages: which one a visitor gets, and that a fixed one goes to everybody."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

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
