"""Extensions: what is found, and that whatever is wrong with one is reported and costs nothing else."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from tests.fakes import JOBS_MODULE, write_extension
from webui import plugin_loader
from webui.errors import PluginError

_numbers = itertools.count()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def name() -> str:
    """A package name that no other test has imported."""
    return f"ext{next(_numbers)}"


def jobs(name: str) -> str:
    return f'jobs = "{name}.jobs:KINDS"\n'


def only_failure(folder: Path) -> str:
    plugins = plugin_loader.load(folder)
    assert plugins.loaded == [] and plugins.kinds == ()
    (failure,) = plugins.failures
    return failure.reason


def test_the_shipped_extension_loads():
    plugins = plugin_loader.load(Path(__file__).parent.parent / "extensions")
    assert plugins.failures == []
    assert [kind.name for kind in plugins.kinds] == ["talk"]


def test_jobs_and_title_are_taken_over(folder: Path, name: str):
    write_extension(folder, name, jobs(name), jobs=JOBS_MODULE % "first")
    (plugin,) = plugin_loader.load(folder).loaded
    assert plugin.manifest.title == name.title()
    assert [kind.name for kind in plugin.kinds] == ["first"]


def tabs(**functions: str) -> str:
    return "[tabs]\n" + "".join(f'{tab} = "{function}"\n' for tab, function in functions.items())


def test_tabs_keep_their_order(folder: Path):
    first, second = f"a{next(_numbers)}x", f"b{next(_numbers)}x"
    write_extension(folder, first, tabs(zebra="m:f", ant="m:f"))
    write_extension(folder, second, tabs(bee="m:f"))
    assert plugin_loader.load(folder).tabs == ("zebra", "ant", "bee")


@pytest.mark.parametrize("taken", ["history", "system", "first"])
def test_a_second_tab_of_the_same_id_is_refused_with_all_its_siblings(folder: Path, taken: str):
    one, two = f"a{next(_numbers)}x", f"b{next(_numbers)}x"
    write_extension(folder, one, tabs(first="m:f"))
    write_extension(folder, two, tabs(fresh="m:f", **{taken: "m:f"}))
    plugins = plugin_loader.load(folder)
    assert plugins.tabs == ("first",) and plugins.kinds == ()
    assert f"'{taken}'" in plugins.failures[0].reason


def test_an_extension_may_have_only_a_tab_and_it_is_not_imported_yet(folder: Path, name: str):
    write_extension(folder, name, tabs(one=f"{name}.tab:build"), tab="raise RuntimeError('too early')")
    assert len(plugin_loader.load(folder).loaded) == 1
    assert f"{name}.tab" not in sys.modules


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        ("colour = 1\n", "colour"),
        ("requires = 'cv2'\n", "requires"),
        ("jobs = 'no colon'\n", "jobs"),
        ("tab = 'old.tab:build'\n", "tab"),
        ("[tabs]\none = 'no colon'\n", "tabs"),
        ("[tabs]\n'No Name' = 'a.b:build'\n", "tabs"),
        ("= broken", "not valid TOML"),
    ],
)
def test_a_wrong_manifest_is_said(folder: Path, name: str, manifest: str, expected: str):
    write_extension(folder, name, manifest)
    assert expected in only_failure(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('id = "other"\ntitle = "X"\napi = 1', "folder's name"),
        ('id = "{name}"\ntitle = "X"\napi = 2', "plugin contract 2"),
        ('id = "{name}"\ntitle = "X"\napi = "1"', "api"),
        ('id = "Bad Id"\ntitle = "X"\napi = 1', "id"),
        ('title = "X"\napi = 1', "id"),
    ],
)
def test_id_and_api_version_are_checked(folder: Path, name: str, text: str, expected: str):
    (write_extension(folder, name) / "plugin.toml").write_text(text.format(name=name))
    assert expected in only_failure(folder)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("def broken(:", "SyntaxError"),
        ("raise RuntimeError('at import')", "RuntimeError: at import"),
        ("import no_such_package_at_all", "no_such_package_at_all"),
        ("raise SystemExit(3)", "end the program"),
        ("OTHER = ()", "has no 'KINDS'"),
        ("KINDS = 3", "not a sequence of JobKind"),
        ("KINDS = ('talk',)", "not a sequence of JobKind"),
        (JOBS_MODULE % "Bad Name", "cannot be the name"),
        (JOBS_MODULE % "serve", "cannot be the name"),
        ((JOBS_MODULE % "hum").replace("Request, handler", "Request, lambda ctx, request: None"), "cannot go to a worker"),
    ],
)
def test_broken_jobs_are_reported_and_logged(
    folder: Path, name: str, module: str, expected: str, caplog: pytest.LogCaptureFixture
):
    write_extension(folder, name, jobs(name), jobs=module)
    assert expected in only_failure(folder)
    assert name in caplog.text


def test_a_missing_module_file_is_said(folder: Path, name: str):
    write_extension(folder, name, jobs(name))
    assert f"{name}.jobs" in only_failure(folder)


def test_a_missing_requirement_is_named_with_what_installs_it_and_nothing_is_imported(folder: Path, name: str):
    text = 'requires = ["json", "no_such_thing", "no_such.inner"]\n' + jobs(name)
    write_extension(folder, name, text, jobs="raise RuntimeError('imported')")
    reason = only_failure(folder)
    assert "no_such_thing" in reason and "no_such.inner" in reason and "json" not in reason
    assert "./launch.sh" in reason


def test_looking_for_requirements_imports_nothing():
    assert plugin_loader.missing_modules(["wave", "no_such_thing"]) == ["no_such_thing"]
    assert plugin_loader.missing_modules(["this"]) == [] and "this" not in sys.modules


def test_a_second_kind_of_the_same_name_is_refused_with_all_its_siblings(folder: Path):
    first, second = f"a{next(_numbers)}x", f"b{next(_numbers)}x"
    write_extension(folder, first, jobs(first), jobs=JOBS_MODULE % "same")
    sibling = "\nKINDS = (JobKind('fresh', 'Fresh', Request, handler), *KINDS)\n"
    write_extension(folder, second, jobs(second), jobs=JOBS_MODULE % "same" + sibling)
    plugins = plugin_loader.load(folder)
    assert [kind.name for kind in plugins.kinds] == ["same"]
    assert "'same'" in plugins.failures[0].reason


def test_a_broken_extension_does_not_stop_its_neighbours(folder: Path):
    names = [f"{letter}{next(_numbers)}x" for letter in "abc"]
    for name, module in zip(names, (JOBS_MODULE % "one", "1/0", JOBS_MODULE % "three"), strict=True):
        write_extension(folder, name, jobs(name), jobs=module)
    plugins = plugin_loader.load(folder)
    assert [kind.name for kind in plugins.kinds] == ["one", "three"]
    assert [failure.name for failure in plugins.failures] == [names[1]]


def test_no_extensions_at_all_is_fine(tmp_path: Path):
    assert plugin_loader.load(tmp_path / "none").loaded == []


def test_a_reference_without_its_name_is_a_plugin_error():
    with pytest.raises(PluginError, match="no 'nothing'"):
        plugin_loader.imported("json:nothing")
