"""Every extension that ships keeps the contract of webui.plugin_api, whatever it does."""

from __future__ import annotations

import inspect
import json
import re
import string
from pathlib import Path

import pytest

from webui import plugin_api, plugin_loader
from webui.jobs.validation import artifact_fields
from webui.settings import LANGUAGES

PROJECT = Path(__file__).parent.parent
PLUGINS = plugin_loader.load(plugin_loader.BUILT_IN, PROJECT / "extensions").loaded
WITH_TABS = [plugin for plugin in PLUGINS if plugin.manifest.tabs]
PANEL_WORDS = ("generate", "cancel", "skip", "hint", "busy", "stopped", "stopped_partial")
KINDS = [kind for plugin in PLUGINS for kind in plugin.kinds]
LOCALES = [PROJECT / "webui" / "ui" / "locales", *(plugin.folder / "locales" for plugin in WITH_TABS)]

by_name = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def tables(folder: Path) -> dict[str, dict[str, str]]:
    return {language: json.loads((folder / f"{language}.json").read_text(encoding="utf-8")) for language in LANGUAGES}


def test_there_are_extensions_to_check():
    assert KINDS


def test_everything_the_contract_names_exists():
    assert len(set(plugin_api.__all__)) == len(plugin_api.__all__)
    for name in plugin_api.__all__:
        assert hasattr(plugin_api, name), name


def test_a_tab_gets_all_that_the_contract_promises():
    from webui.ui.panel import Panel
    from webui.ui.studio import TabStudio

    for contract, kept in ((plugin_api.Studio, TabStudio), (plugin_api.Panel, Panel)):
        promised = {name for name in vars(contract) if not name.startswith("_")} - set(kept.__dataclass_fields__)
        assert promised & {"text", "follow", "hand_out", "connect", "run"}
        for name in promised:
            made, wanted = getattr(kept, name), getattr(contract, name)
            if not isinstance(wanted, property):
                assert list(inspect.signature(made).parameters) == list(inspect.signature(wanted).parameters), name


def test_everything_that_the_contract_promises_is_in_the_guide():
    guide = (PROJECT / "docs" / "add-an-extension.md").read_text(encoding="utf-8")
    for name in vars(plugin_api.Studio):
        assert name.startswith("_") or re.search(rf"`{name}\b|studio\.{name}\b", guide), name


@by_name
def test_a_handler_takes_context_and_request(kind: plugin_api.JobKind):
    assert len(inspect.signature(kind.handler).parameters) == 2


@by_name
def test_a_request_refuses_unknown_fields_and_describes_every_field(kind: plugin_api.JobKind):
    assert kind.request.model_config.get("extra") == "forbid"
    assert kind.request.model_config.get("frozen") is True
    for name, field in kind.request.model_fields.items():
        assert (field.description or "").endswith("."), name


@by_name
def test_a_request_is_plain_data(kind: plugin_api.JobKind):
    """It must survive a queue: what is not a file has a default that JSON can carry."""
    files = dict.fromkeys(artifact_fields(kind.request), "0" * 32)
    needed = {"upscaler": "Lanczos"} if kind.name == "extras" else {}  # which may do this or that, but not nothing
    request = kind.request.model_validate(files | needed)
    assert kind.request.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize("folder", LOCALES, ids=lambda folder: folder.parent.name)
def test_both_languages_say_the_same_things(folder: Path):
    english, *others = tables(folder).values()
    for other in others:
        assert set(other) == set(english)
        for key, value in english.items():
            assert placeholders(other[key]) == placeholders(value), key
            assert other[key].strip(), key


@pytest.mark.parametrize("plugin", WITH_TABS, ids=lambda plugin: plugin.manifest.id)
def test_every_string_that_a_tab_asks_for_is_there_and_none_is_left_over(plugin: plugin_loader.Plugin):
    # All of its modules, because what jobs say of their results has labels, too.
    source = "".join(file.read_text(encoding="utf-8") for file in plugin.folder.rglob("*.py")).replace("'", '"')
    keys = set(tables(plugin.folder / "locales")["en"])
    asked = set(re.findall(r'studio\.(?:text|say)\("(\w+)"', source))
    assert asked and asked <= keys
    panels = {*plugin.manifest.tabs, *re.findall(r'run_panel\(\s*"(\w+)"', source)}
    by_rule = {f"tab_{tab}" for tab in plugin.manifest.tabs} | {f"{name}_{word}" for name in panels for word in PANEL_WORDS}
    for key in keys - by_rule:
        # Of a family there is the end alone, such as a field's name, or the beginning in an f-string.
        words = key.split("_")
        ends = [f'"{"_".join(words[start:])}"' for start in range(len(words))]
        beginnings = [f'f"{"_".join(words[:end])}_{{' for end in range(1, len(words))]
        assert any(part in source for part in ends + beginnings), key


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}
