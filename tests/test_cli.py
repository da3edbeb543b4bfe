"""The command line: what it prints where, its exit codes, and that no half-written file is ever left."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fakes import HOUSE_JOBS, start_program, write_extension
from tests.servers import environment
from webui import cli
from webui.artifacts import STATE
from webui.jobs.types import UNEXPECTED, Job, JobState

PROJECT = Path(__file__).parent.parent


@pytest.fixture
def extensions(tmp_path: Path) -> Path:
    folder = tmp_path / "extensions"
    write_extension(folder, "fakehouse", 'jobs = "fakehouse.jobs:KINDS"\n', jobs=HOUSE_JOBS)
    return folder


def run(extensions: Path, *argv: str) -> subprocess.CompletedProcess:
    command = start_program(extensions, *argv)
    outputs = ("--outputs-dir", str(extensions.parent / "outputs"))
    return subprocess.run(
        [*command, *outputs], capture_output=True, text=True, cwd=PROJECT, timeout=120, env=environment()
    )


def made(outputs: Path) -> list[Path]:
    """What the studio has put there, its own table of jobs aside."""
    return [path for path in outputs.glob("*") if path.name != STATE]


def last_json(done: subprocess.CompletedProcess) -> dict:
    return json.loads(done.stdout.splitlines()[-1])


def test_a_job_prints_its_path_and_nothing_else(extensions: Path):
    done = run(extensions, "count", "--steps", "2", "--seed", "5")
    assert done.returncode == 0, done.stderr
    (path,) = map(Path, done.stdout.splitlines())
    assert path.read_text() == "5\n6\n"
    assert path.parent == extensions.parent / "outputs" / "count"


def test_json_ends_with_one_object_about_the_result(extensions: Path):
    done = run(extensions, "count", "--steps", "2", "--loud", "--json")
    facts = last_json(done)
    assert Path(facts["path"]).exists()
    assert facts["warnings"] == ["This is loud."]
    assert facts["partial"] is False
    assert 0.05 < facts["seconds"]["start_up"] < 60
    assert facts["seconds"]["total"] == 0.1
    assert isinstance(facts["seed"], int)
    assert "This is loud." in done.stderr


def test_it_starts_without_the_page_and_without_anything_heavy(extensions: Path):
    run(extensions, "fail")  # a job that shows no picture, which takes OpenCV
    assert (extensions / "imported.txt").read_text().strip() == ""


def test_a_file_is_handed_over_by_its_path(extensions: Path, tmp_path: Path):
    source = tmp_path / "我的 file 😀.txt"
    source.write_text("first\n")
    done = run(extensions, "count", "--source", str(source), "--steps", "1", "--seed", "1")
    assert Path(done.stdout.strip()).read_text() == "first\n1\n"
    assert not (tmp_path / "outputs" / "uploads").exists(), "one's own files are not copied"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("--steps", "0"), "'steps' must be at least 1, not '0'."),
        (("--steps", "many"), "'steps' must be a whole number, not 'many'."),
        (("--style", "odd"), "'odd' is none of plain, fancy"),
        (("--source", "none.txt"), "There is no file none.txt"),
        (("--colour", "red"), "--colour"),
        (("--device", "gpu"), "--device: expected auto, cpu"),
        (("--out", "none/x.txt"), "There is no folder"),
        (("--out", "x.mp3"), "let the name x.mp3 end in that"),
        (("--out", f"{'x' * 300}.txt"), "longer than the disk takes"),
        (("--out", ""), "Argument --out: the name is empty"),
        (("--source", ""), "Argument --source: the name is empty"),
        (("--source", "~nobody.txt"), "There is no file ~nobody.txt"),
        (("-photo.jpg",), "If '-photo.jpg' is the name of a file, write ./-photo.jpg"),
        (("--seed", "4294967296"), "must be at most 4294967295"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_code_2(extensions: Path, argv: tuple[str, ...], expected: str):
    done = run(extensions, "count", *argv, "--json")
    assert done.returncode == 2
    assert expected in done.stderr and "Traceback" not in done.stderr
    assert expected in last_json(done)["error"]
    assert last_json(done)["type"] in ("InvalidRequest", "StorageError")
    assert made(extensions.parent / "outputs") == []


def test_names_that_begin_with_a_tilde_work(extensions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(f"{__name__}.PROJECT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parent.parent))
    (tmp_path / "~nobody.txt").write_text("first\n")
    argv = ("count", "--source", "~nobody.txt", "--steps", "1", "--seed", "1", "--models-dir", "~nobody", "--out", "~out.txt")
    done = run(extensions, *argv)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "~out.txt").read_text() == "first\n1\n"


def test_a_result_never_replaces_what_it_is_made_from(extensions: Path, tmp_path: Path):
    source, link = tmp_path / "mine.txt", tmp_path / "link.txt"
    source.write_text("precious")
    link.hardlink_to(source)
    for target in (source, link):
        done = run(extensions, "count", "--source", str(source), "--out", str(target), "--json")
        assert done.returncode == 2
        assert "one of the files that the result is made from" in last_json(done)["error"]
    assert source.read_text() == "precious"


def test_a_terminal_without_the_letters_gets_their_codes(extensions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    done = run(extensions, "count", "--steps", "1", "--out", str(tmp_path / "😀.txt"))
    assert done.returncode == 0, done.stderr
    assert "\\U0001f600.txt" in done.stdout


BUG = """
import app, sys
app.settings.load = lambda *_: 1 / 0
sys.exit(app.main(["talk", "a.png", "b.wav", "--json"]))
"""


def test_a_bug_outside_of_a_job_ends_with_a_line_of_json_too():
    done = subprocess.run([sys.executable, "-c", BUG], capture_output=True, text=True, cwd=PROJECT, timeout=60)
    assert done.returncode == 1
    assert last_json(done) == {"error": UNEXPECTED, "type": "InternalError"}
    assert "ZeroDivisionError" in done.stderr


def test_other_failures_are_exit_code_1(extensions: Path):
    done = run(extensions, "fail", "--how", "model", "--json")
    assert done.returncode == 1
    assert last_json(done) == {"error": "The model is missing. Put it into models/.", "type": "ModelMissing"}


def test_a_bug_is_exit_code_1_with_a_plain_sentence(extensions: Path):
    done = run(extensions, "fail", "--how", "bug", "--json")
    assert done.returncode == 1
    assert last_json(done)["type"] == "InternalError"
    assert "secret" not in done.stdout


def test_an_unknown_command_never_serves(extensions: Path):
    done = run(extensions, "sing")
    assert done.returncode == 2
    assert "sing" in done.stderr


def test_help_lists_commands_and_options_and_never_serves(extensions: Path):
    done = run(extensions, "--help")
    assert done.returncode == 0
    assert "count" in done.stdout and "--gradio-auth" in done.stdout
    options = run(extensions, "count", "--help").stdout
    own = ("--steps", "--style plain|fancy", "--loud", "--no-polite")
    for option in (*own, "--out FILE", "--json", "--server URL", "--models-dir"):
        assert option in options
    assert "--port" not in options
    assert "do not: say please." in options
    assert "0 to 4294967295" in options


def test_out_replaces_a_file_and_puts_nothing_into_the_outputs_folder(extensions: Path, tmp_path: Path):
    target = tmp_path / "mine.txt"
    target.write_text("old")
    done = run(extensions, "count", "--steps", "1", "--seed", "9", "--out", str(target))
    assert done.stdout.strip() == str(target)
    assert target.read_text() == "9\n"
    assert made(tmp_path / "outputs") == []
    assert list(tmp_path.glob("*.part")) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_is_done_and_says_so(extensions: Path, tmp_path: Path, number: signal.Signals):
    target = tmp_path / "mine.txt"
    argv = ("count", "--steps", "1000", "--pause", "0.02", "--out", str(target), "--json")
    process = subprocess.Popen(
        start_program(extensions, *argv), cwd=PROJECT, env=environment(), text=True, stdout=-1, stderr=-1
    )
    for line in process.stderr:
        if "writing number" in line:
            break
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == cli.INTERRUPTED
    assert "saved" in stderr
    assert json.loads(stdout.splitlines()[-1])["partial"] is True
    assert 1 <= len(target.read_text().splitlines()) < 1000
    assert list(tmp_path.glob("*.part")) == []


def test_progress_is_one_line_on_a_terminal_and_few_lines_elsewhere():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    jobs = [
        Job("x", "talk", None, JobState.RUNNING, fraction=n / 100, stage=f"rendering frame {n} of 100", eta=9.0)
        for n in range(100)
    ]
    for stream, most in ((Terminal(), 0), (io.StringIO(), 11)):
        progress = cli.Progress(stream)
        for job in jobs:
            progress.show(job)
        progress.end()
        assert stream.getvalue().count("\n") <= most
        assert "50%" in stream.getvalue() and "9 s left" in stream.getvalue()


def test_the_age_of_this_process_is_told():
    age = "import time; time.sleep(0.3); from webui.cli import process_age; print(process_age())"
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", age], capture_output=True, text=True, cwd=PROJECT, check=True, timeout=60)
    assert (0.3 if sys.platform == "linux" else 0) <= float(done.stdout) < time.monotonic() - begun + 0.05


@pytest.mark.long
def test_talk_makes_a_video_and_tells_how(portrait_file: Path, voice_file: Path, tmp_path: Path):
    target = tmp_path / "hello.mp4"
    argv = ("talk", str(portrait_file), str(voice_file), "--out", str(target), "--size", "256", "--seed", "3", "--json")
    command = [sys.executable, "app.py", *argv]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=120, env=environment())
    assert done.returncode == 0, done.stderr
    facts = last_json(done)
    assert facts["path"] == str(target) and target.stat().st_size > 10_000
    assert set(facts) >= {"path", "engine", "engine_reason", "frames", "fps", "size", "seconds", "seed", "warnings"}
    assert facts["size"] == [256, 256] and facts["seed"] == 3
    assert {"start_up", "total", "first_preview"} <= set(facts["seconds"])


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_in_a_terminal_leaves_a_playable_video(portrait_file: Path, voice_file: Path, tmp_path: Path):
    """A terminal interrupts the whole group of processes, so the encoder's must not be in it."""
    import cv2

    target = tmp_path / "hello.mp4"
    argv = ("talk", str(portrait_file), str(voice_file), "--out", str(target), "--fps", "60", "--json")
    process = subprocess.Popen(
        [sys.executable, "app.py", *argv],
        cwd=PROJECT,
        env=environment(),
        text=True,
        stdout=-1,
        stderr=-1,
        start_new_session=True,
    )
    for line in process.stderr:
        if "rendering" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    facts = json.loads(stdout.splitlines()[-1])
    assert (process.returncode, facts.get("partial")) == (cli.INTERRUPTED, True), stderr
    video = cv2.VideoCapture(str(target))
    read, frame = video.read()
    assert read and frame.mean() > 10
    assert list(tmp_path.glob("*.part")) == []
