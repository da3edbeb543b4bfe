"""The set-up behind launch.sh: real starts in a scratch copy, with tiny wheels made here in place of the real packages.

The scratch folder has spaces and Chinese in its name, a webui/json.py that must not shadow the standard library's, and
nothing reaches the network: pip is pointed at a folder, or at a closed or silent port of this machine.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from extensions.sadtalker.jobs import KINDS as TALKING
from webui import bootstrap, cli, settings
from webui.builtin.kinds import KINDS as PICTURES
from webui.jobs.types import JobKind

PROJECT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(os.name == "nt", reason="launch.sh is for POSIX systems")

APP = """\
import json, os, sys
from importlib.metadata import PackageNotFoundError, version
def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None
print(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), "prefix": sys.prefix,
                  "lite": os.environ.get("GALATEA_LITE"), "small": installed("small"), "large": installed("large")}))
sys.exit(int(os.environ.get("FAKE_EXIT", "0")))
"""
FAKE_PYTEST = "import os, sys; print(sys.argv[1:], os.getcwd()); sys.exit(5)"


def make_wheel(folder: Path, name: str, version: str, files: dict[str, str] | None = None) -> None:
    """A complete wheel of a few bytes."""
    info = f"{name}-{version}.dist-info"
    content = {
        f"{name}/__init__.py": "",
        **(files or {}),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in {**content, f"{info}/RECORD": record}.items():
            wheel.writestr(path, text)


class Studio:
    """A scratch copy of the launcher with a fake app, and the environment to start it in."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.root = folder / "我的 studio 1"
        (self.root / "webui").mkdir(parents=True)
        shutil.copy2(PROJECT / "launch.sh", self.root)
        shutil.copy2(PROJECT / "webui" / "bootstrap.py", self.root / "webui")
        (self.root / "webui" / "json.py").write_text("raise ImportError('webui/json.py shadows the standard library')")
        (self.root / "app.py").write_text(APP)
        (self.root / "requirements-lite.txt").write_text("small>=1\n")
        (self.root / "requirements.txt").write_text("-r requirements-lite.txt\nlarge>=1\n")
        (self.root / "requirements-dev.txt").write_text("pytest\n")
        self.venv = self.root / ".venv"
        self.first: subprocess.CompletedProcess[str] | None = None
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "GALATEA_"))}
        self.env.update(
            PYTHON=sys.executable,
            PYTHONPATH=str(self.root / "webui"),
            PIP_CONFIG_FILE=os.devnull,
            PIP_NO_INDEX="1",
            PIP_FIND_LINKS=str(wheels),
            VIRTUAL_ENV="/somewhere/else",
        )

    def start(self, *arguments: str, command: object = None, cwd: Path | None = None, **env: str):
        return subprocess.run(
            [str(command or self.root / "launch.sh"), *arguments],
            cwd=cwd or self.root,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )

    def report(self, *arguments: str, **more) -> dict:
        """What the fake app saw."""
        done = self.start(*arguments, **more)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    make_wheel(folder, "small", "1.0")
    make_wheel(folder, "large", "1.0")
    make_wheel(folder, "pytest", "9.0", {"pytest/__main__.py": FAKE_PYTEST})
    return folder


@pytest.fixture
def bare(tmp_path, wheels) -> Studio:
    """A fresh clone: nothing is installed."""
    return Studio(tmp_path, wheels)


@pytest.fixture(scope="module")
def ready(tmp_path_factory, wheels) -> Studio:
    """A finished lite installation, shared by the tests that leave it as it is."""
    studio = Studio(tmp_path_factory.mktemp("ready"), wheels)
    studio.first = studio.start("--lite", "--port", "7861")
    return studio


def test_a_first_start_installs_and_serves(ready):
    assert ready.first.returncode == 0, ready.first.stderr
    seen = json.loads(ready.first.stdout)
    assert Path(seen["prefix"]) == ready.venv
    assert (seen["small"], seen["large"], seen["lite"]) == ("1.0", None, "1")
    assert seen["argv"] == ["--port", "7861"]
    assert "Set-up finished" in ready.first.stderr
    assert "\x1b" not in ready.first.stderr
    assert not (ready.venv / "tmp").exists()


def test_a_second_start_runs_no_pip(ready):
    log = ready.venv / "setup.log"
    before = log.stat().st_mtime_ns
    done = ready.start()
    assert (done.returncode, done.stderr) == (0, "")
    assert log.stat().st_mtime_ns == before


def test_the_finished_venv_needs_no_other_python(ready, tmp_path):
    no_python = str(tools_without_python(tmp_path / "bin"))
    assert Path(ready.report(PYTHON="", PATH=no_python)["prefix"]) == ready.venv


@pytest.mark.parametrize("command", [[], ["talk"]])
def test_arguments_arrive_untouched(ready, command):
    tricky = ["--out", "a b 'c' \"d\" $HOME `id` \\ *", "", "😀 声音.wav", "--", "--lite"]
    assert ready.report(*command, *tricky)["argv"] == [*command, *tricky]


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_exit_codes_are_passed_on(ready, code):
    assert ready.start("talk", FAKE_EXIT=str(code)).returncode == code


def test_works_through_a_symlink_and_from_another_folder(ready, tmp_path):
    (tmp_path / "bin").mkdir()
    chain = tmp_path / "bin" / "first link"
    chain.symlink_to(ready.root / "launch.sh")
    (tmp_path / "galatea").symlink_to("bin/first link")
    seen = ready.report(command=tmp_path / "galatea", cwd=tmp_path)
    assert Path(seen["prefix"]) == ready.venv
    # Relative paths on the command line are relative to where the user is.
    assert Path(seen["cwd"]) == tmp_path
    on_path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    assert Path(ready.report(command="galatea", cwd=tmp_path / "bin", **on_path)["prefix"]) == ready.venv


def test_lite_is_remembered_and_full_upgrades_it_for_good(bare):
    assert bare.report("--lite")["large"] is None
    assert bare.report()["lite"] == "1"
    full = bare.report("--full")
    assert (full["large"], full["lite"]) == ("1.0", None)
    kept = bare.start("--lite")
    assert json.loads(kept.stdout)["lite"] is None
    assert "installed already" in kept.stderr
    # What is installed counts, not what the environment still says.
    assert bare.report(GALATEA_LITE="1")["lite"] is None


def test_changed_requirements_are_installed_once(tmp_path, wheels):
    newer = tmp_path / "wheels"
    shutil.copytree(wheels, newer)
    make_wheel(newer, "small", "2.0")
    studio = Studio(tmp_path, newer)
    (studio.root / "requirements-lite.txt").write_text("small<2\n")
    assert studio.report("--lite")["small"] == "1.0"
    (studio.root / "requirements-lite.txt").write_text("small>=2\n")
    changed = studio.start()
    assert json.loads(changed.stdout)["small"] == "2.0"
    assert "Installing" in changed.stderr
    assert "Making .venv" not in changed.stderr
    assert studio.start().stderr == ""

    # A broken interpreter: the same installation is made anew.
    python = studio.venv / "bin" / "python"
    python.unlink()
    python.symlink_to(tmp_path / "deleted" / "python3")
    repaired = studio.start()
    assert json.loads(repaired.stdout)["small"] == "2.0"
    assert "Making .venv anew" in repaired.stderr


def test_test_installs_the_dev_set_and_runs_pytest_from_the_root(ready, tmp_path):
    done = ready.start("test", "-k", "a and b", cwd=tmp_path)
    assert done.stdout.split("\n")[0] == f"['-k', 'a and b'] {ready.root}"
    assert done.returncode == 5
    assert ready.start("test").stderr == ""


@contextlib.contextmanager
def silent_index() -> Iterator[str]:
    """An index that takes connections and never answers: pip hangs on it as on a dead network."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple"
        server.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


def test_a_start_killed_half_way_is_taken_up_by_the_next(bare):
    with silent_index() as url:
        online = {**bare.env, "PIP_NO_INDEX": "0", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": url}
        for stop, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)):
            (bare.venv / "setup.log").unlink(missing_ok=True)
            first = subprocess.Popen(
                [str(bare.root / "launch.sh"), "--lite"],
                env=online,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            wait_until((bare.venv / "setup.log").exists)
            # Without --lite: what the first start was asked for is remembered although it never finished.
            second = subprocess.Popen(
                [str(bare.root / "launch.sh")],
                env=online if stop == signal.SIGTERM else bare.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
            )
            assert second.stderr is not None
            assert "waiting for it" in second.stderr.readline()
            if stop == signal.SIGTERM:
                second.kill()
                second.communicate()
            first.send_signal(stop)
            assert first.wait(20) == code
    out, said = second.communicate(timeout=40)
    assert second.returncode == 0, said
    assert (json.loads(out)["small"], json.loads(out)["lite"]) == ("1.0", "1")


def wait_until(true, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


# ---- what cannot work, and says why


def test_help_installs_nothing_and_starts_nothing(bare):
    for arguments in (["--help"], ["-h"], ["--lite", "--help"], ["talk", "--help"], ["test", "--help"]):
        done = bare.start(*arguments)
        assert done.returncode == 0, done.stderr
        assert "usage: ./launch.sh" in done.stdout
        assert not bare.venv.exists()


def test_help_of_a_command_comes_from_the_app_once_that_is_installed(ready):
    assert ready.report("talk", "--help")["argv"] == ["talk", "--help"]


def test_help_lists_the_commands_and_every_flag_of_the_settings():
    parser = argparse.ArgumentParser()
    settings.add_flags(parser, serving=True)
    flags = [flag for action in parser._actions for flag in action.option_strings]
    assert "--gradio-auth" in flags
    assert [flag for flag in flags if f"{flag} " not in bootstrap.HELP.replace(",", " ").replace("\n", " ")] == []
    assert all(f"{{launcher}} {command} " in bootstrap.HELP for command in bootstrap.COMMAND_USAGE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tlak", "a.png"], "Did you mean 'talk'"),
        (["txt2img", "a cat", "--step", "3"], "Did you mean --steps?"),
        (["--lite", "--full"], "exclude each other"),
        (["--wheels"], "folder with .whl"),
        (["--wheels=no such folder"], "no such folder"),
        (["--wheels", "~nobody-of-this-name"], "folder with .whl"),
        (["--prot", "7870"], "--prot is not an option. Did you mean --port?"),
        (["--lite", "--port", "7870", "--share=1", "--lisen"], "Did you mean --listen?"),
        (["talk", "a.png", "b.wav", "--out", "--x.mp4", "--device=cpu", "--sed", "3"], "Did you mean --seed?"),
    ],
)
def test_a_senseless_command_line_is_refused_before_anything_is_installed(bare, arguments, said):
    done = bare.start(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert not bare.venv.exists()


@pytest.mark.parametrize("kind", [*TALKING, *PICTURES], ids=lambda kind: kind.name)
def test_the_launcher_knows_every_option_of_a_job(kind: JobKind):
    parser = argparse.ArgumentParser()
    cli._add_fields(parser, kind)
    flags = [flag for action in parser._actions for flag in action.option_strings if action.dest != "help"]
    bootstrap.check_flags(bootstrap.Options(kind.name, None, None, False, ["a.png", "b.wav", "--out", "c.mp4", "--json"]))
    for flag in flags:
        bootstrap.check_flags(bootstrap.Options(kind.name, None, None, False, [flag]))


def test_a_command_of_an_added_extension_reaches_the_app(ready, tmp_path):
    for name in ("sadtalker", "echo"):
        folder = ready.root / "extensions" / name
        folder.mkdir(parents=True)
        (folder / "plugin.toml").write_text(f'id = "{name}"')
    try:
        assert ready.report("echo", "--text", "hello")["argv"] == ["echo", "--text", "hello"]
        assert ready.report("echo", "--help")["argv"] == ["echo", "--help"]
        shutil.rmtree(folder)
        assert "There are talk, txt2img, img2img, inpaint, extras, test" in ready.start("echo").stderr
    finally:
        shutil.rmtree(ready.root / "extensions")


def test_an_unreachable_index_is_said_with_the_ways_out(bare):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    online = {"PIP_NO_INDEX": "0", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple"}
    done = bare.start("--lite", PIP_RETRIES="0", **online)
    assert done.returncode == 1
    for way in ("index cannot be reached", "PIP_INDEX_URL=", "HTTPS_PROXY=", "--wheels", "无法下载", "setup.log"):
        assert way in done.stderr
    assert "Traceback" not in done.stderr

    # The same folder is set up once the packages are there; a path with spaces will do.
    folder = bare.root / "my wheels"
    shutil.copytree(bare.env["PIP_FIND_LINKS"], folder)
    assert bare.report("--wheels", "my wheels", **online)["lite"] == "1"

    (bare.root / "requirements-lite.txt").write_text("small>=3\n")
    lacking = bare.start("--wheels", "my wheels", **online)
    assert lacking.returncode == 1
    assert "There is no small>=3 for Python" in lacking.stderr


def tools_without_python(folder: Path) -> Path:
    folder.mkdir()
    for tool in ("sh", "dirname", "readlink", "cat", "env"):
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


def test_a_missing_python_is_said(bare, tmp_path):
    done = bare.start(PYTHON="", PATH=str(tools_without_python(tmp_path / "bin")))
    assert done.returncode == 1
    assert "there is no Python here" in done.stderr
    assert "sudo apt install python3 python3-venv" in done.stderr
    assert "需要 Python 3.10" in done.stderr


def test_an_old_python_is_passed_over_and_said(bare, tmp_path):
    tools = tools_without_python(tmp_path / "bin")
    old = tools / "python3"
    old.write_text("#!/bin/sh\necho 3.8\nexit 4\n")
    old.chmod(0o755)
    done = bare.start(PYTHON="", PATH=str(tools))
    assert done.returncode == 1
    assert "only older ones here (python3 is 3.8)" in done.stderr
    assert "is Python 3.8" in bare.start(PYTHON=str(old)).stderr
    # One that fits further down the list is found behind it.
    (tools / "python").symlink_to(sys.executable)
    assert bare.start("tlak", PYTHON="", PATH=str(tools)).returncode == 2


def test_a_python_override_that_does_not_run_is_said(bare):
    done = bare.start(PYTHON="/no/such/python")
    assert done.returncode == 1
    assert "PYTHON=/no/such/python cannot be run" in done.stderr


def test_bootstrap_can_be_read_by_a_python_too_old_for_it():
    ast.parse((PROJECT / "webui" / "bootstrap.py").read_text(encoding="utf-8"), feature_version=(3, 8))
    with pytest.raises(bootstrap.SetupError, match=r"needs Python 3\.10 or newer, and this is Python 3\.8"):
        bootstrap.require_python((3, 8))


def test_debians_python_without_venv_is_told_its_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(bootstrap.SetupError, match=r"sudo apt install python3\.\d+-venv"):
        bootstrap._require_venv_module()


def test_a_folder_that_cannot_be_written_is_said(bare):
    bare.venv.write_text("a file where the folder should be")
    done = bare.start("--lite")
    assert done.returncode == 1
    assert "cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("chosen", "free", "fits"), [("full", 13e9, True), ("full", 9e9, False), ("lite", 1e9, False)])
def test_free_space_is_checked_before_a_first_install(chosen, free, fits):
    if fits:
        bootstrap.check_disk(chosen, int(free))
        return
    with pytest.raises(bootstrap.SetupError, match="disk is too full") as told:
        bootstrap.check_disk(chosen, int(free))
    assert ("--lite" in str(told.value)) == (chosen == "full")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is too full"),
        ("ERROR: ReadTimeoutError(\"HTTPSConnectionPool(host='h', port=443): Read timed out.\")", "cannot be reached"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] ...'))", "PIP_CERT="),
        ("ERROR: No matching distribution found for torch<3,>=2.13", "There is no torch<3,>=2.13 for Python"),
        ("ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: 'x'", "cannot be written"),
        ("ERROR: Could not find a version that satisfies the requirement x (from versions: none)", "cannot be reached"),
        ("ERROR: something new", "pip could not install everything"),
    ],
)
def test_pips_failures_become_sentences_with_its_own_words_behind(line, said):
    message = bootstrap.explain_failure(["Collecting small", line], "pip could not install everything")
    assert said in message.splitlines()[0]
    assert line in message


def test_the_users_index_settings_are_left_to_pip(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_INDEX_URL", "http://mirror.test/simple")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.test")
    environment = bootstrap.child_environment()
    assert environment["PIP_INDEX_URL"] == "http://mirror.test/simple"
    assert environment["HF_ENDPOINT"] == "http://hub.test"
    command = bootstrap.pip_command(["requirements.txt"], None)
    assert not {"--isolated", "--index-url", "--no-index", "-i"} & set(command)
    assert "--no-index" in bootstrap.pip_command(["requirements.txt"], tmp_path)
