"""The page's strings in each language. Labels are translated in the browser, what the server writes is made here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gradio as gr

from webui.settings import LANGUAGES

STUDIO = "studio"
FALLBACK = "en"


class Texts:
    """Tables of strings by language, each key behind the name of whoever brought it, such as "sadtalker_generate"."""

    def __init__(self, fixed_language: str | None):
        self._fixed = fixed_language
        self._tables: dict[str, dict[str, str]] = {language: {} for language in LANGUAGES}
        self._sentences: dict[str, dict[str, str]] = {language: {} for language in LANGUAGES}
        self._i18n = gr.I18n()
        self.add(STUDIO, Path(__file__).parent / "locales")

    def add(self, owner: str, folder: Path) -> None:
        """Take in `folder`'s en.json, zh.json ...; what a language lacks is shown in English. sentences.zh.json and the
        like say what jobs say in the page's words: a regular expression for the whole of it, and what is shown instead.
        Of its groups those whose names begin with "said" are such sentences themselves; the others are shown as they are.
        """
        for language in LANGUAGES:
            self._tables[language] |= {f"{owner}_{key}": value for key, value in _table(folder / f"{language}.json").items()}
            self._sentences[language] |= _table(folder / f"sentences.{language}.json")

    def text(self, owner: str, key: str) -> Any:
        """A label that the browser translates."""
        return self._i18n(f"{owner}_{key}")

    def has(self, owner: str, key: str) -> bool:
        return f"{owner}_{key}" in self._tables[FALLBACK]

    def say(self, owner: str, key: str, visitor: gr.Request | None, **values: object) -> str:
        """A plain string in the visitor's language. Raises KeyError for a key that no table has."""
        return self.table(owner, visitor)[key].format(**values)

    def table(self, owner: str, visitor: gr.Request | None) -> dict[str, str]:
        """All of an owner's strings in the visitor's language, keys without the owner's name."""
        strings = self._tables[FALLBACK] | self._tables[self.language(visitor)]
        start = f"{owner}_"
        return {name.removeprefix(start): value for name, value in strings.items() if name.startswith(start)}

    def told(self, sentence: str, visitor: gr.Request | None) -> str:
        """What a job says, or an error, in the visitor's language; as it is when no table has it."""
        for pattern, words in self._sentences[self.language(visitor)].items():
            if found := re.fullmatch(pattern, sentence, re.DOTALL):
                return words.format(**{name: self._part(name, part or "", visitor) for name, part in found.groupdict().items()})
        return sentence

    def _part(self, name: str, part: str, visitor: gr.Request | None) -> str:
        # A file may be called as a stage is: only what the studio itself says is translated.
        return self.told(part, visitor) if name.startswith("said") else part

    def language(self, visitor: gr.Request | None) -> str:
        """The fixed language, or the first of the browser's that there is a table for."""
        if self._fixed:
            return self._fixed
        accepted = visitor.headers.get("accept-language", "") if visitor is not None else ""
        for entry in accepted.split(","):
            language = entry.split(";")[0].strip().lower()[:2]
            if language in LANGUAGES:
                return language
        return FALLBACK

    def catalogue(self) -> gr.I18n:
        """What the browser gets. A fixed language is given to it under every name."""
        english = self._tables[FALLBACK]
        tables = {language: english | table for language, table in self._tables.items()}
        if self._fixed:
            tables = {language: tables[self._fixed] for language in tables}
        names: dict[str, Any] = {"en": tables["en"], "zh-CN": tables["zh"], "zh-TW": tables["zh"], "zh": tables["zh"]}
        return gr.I18n(**names)


def _table(path: Path) -> dict[str, str]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
