"""Files by id: names, look-ups, nothing half-written, nothing outside of the folder."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from webui.artifacts import (
    LONGEST_NAME,
    Artifacts,
    check_readable,
    check_target,
    full_disk_errors,
    link_or_copy,
    move_into_place,
    readable_name,
)
from webui.errors import InvalidRequest, StorageError


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "outputs")


def made(artifacts: Artifacts, stem: str = "anna", **more) -> object:
    with artifacts.output("talk", ".mp4", stem, **more) as pending:
        pending.path.write_bytes(b"video")
    return pending.artifact


def parts(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part"))


def test_a_result_has_a_readable_name_with_its_id(artifacts: Artifacts):
    made_one = made(artifacts)
    assert re.fullmatch(r"\d{8}-\d{6}-anna-[0-9a-f]{16}\.mp4", made_one.path.name)
    assert made_one.path.parent == artifacts.root / "talk"
    assert made_one.id in made_one.path.name
    assert (made_one.media_type, made_one.size) == ("video/mp4", 5)


def test_a_result_and_an_upload_are_found_after_a_restart(artifacts: Artifacts, tmp_path: Path):
    source = tmp_path / "照片 😀.png"
    source.write_bytes(b"picture")
    result, upload = made(artifacts), artifacts.upload(source)
    again = Artifacts(artifacts.root)
    assert again.get(result.id) == result
    assert again.get(upload.id) == upload
    assert upload.name == "照片 😀.png"
    assert upload.path.read_bytes() == b"picture"


def test_the_same_upload_is_stored_once(artifacts: Artifacts, tmp_path: Path):
    source = tmp_path / "a.png"
    source.write_bytes(b"picture")
    assert artifacts.upload(source) == artifacts.upload(source)
    assert len([p for p in artifacts.root.rglob("*") if p.is_file()]) == 1


def test_an_upload_called_part_is_found(artifacts: Artifacts, tmp_path: Path):
    source = tmp_path / "film.part"
    source.write_bytes(b"x")
    assert artifacts.get(artifacts.upload(source).id).size == 1


def test_a_failure_leaves_nothing_behind(artifacts: Artifacts):
    with pytest.raises(RuntimeError), artifacts.output("talk", ".mp4", "anna") as pending:
        pending.path.write_bytes(b"half")
        raise RuntimeError
    assert [p for p in artifacts.root.rglob("*") if p.is_file()] == []
    assert pending.artifact is None


def test_a_file_being_written_cannot_be_had(artifacts: Artifacts):
    with artifacts.output("talk", ".mp4", "anna") as pending:
        pending.path.write_bytes(b"half")
        with pytest.raises(InvalidRequest):
            artifacts.get(re.search(r"[0-9a-f]{16}", pending.path.name)[0])


@pytest.mark.parametrize(
    "wrong", ["", "..", "../../etc/passwd", "*", "0" * 15, "0" * 16, "0" * 32, "G" * 16, "0" * 16 + "\n", "?" * 16]
)
def test_no_id_but_a_real_one_finds_a_file(artifacts: Artifacts, wrong: str):
    made(artifacts)
    with pytest.raises(InvalidRequest, match="no file with the id"):
        artifacts.get(wrong)


def test_no_link_leads_out_of_the_folder(artifacts: Artifacts, tmp_path: Path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (artifacts.root / "talk").mkdir(parents=True)
    (artifacts.root / "talk" / f"20260101-000000-x-{'a' * 16}.txt").symlink_to(secret)
    (artifacts.root / "uploads" / ("b" * 32)).mkdir(parents=True)
    (artifacts.root / "uploads" / ("b" * 32) / "x.txt").symlink_to(secret)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / f"20260101-000000-x-{'c' * 16}.txt").write_text("secret")
    (artifacts.root / "linked").symlink_to(outside)
    for artifact_id in ("a" * 16, "b" * 32, "c" * 16):
        with pytest.raises(InvalidRequest):
            artifacts.get(artifact_id)


@pytest.mark.parametrize("kind", ["../talk", "uploads", "", "a/b", "Talk"])
def test_a_kind_is_a_plain_folder_name(artifacts: Artifacts, kind: str):
    with pytest.raises(ValueError, match="kind"), artifacts.output(kind, ".mp4", "x"):
        pass


@pytest.mark.parametrize("stem", ["../../x", "a/b\\c", "x" * 500, "名" * 300, "", "\x00\x1b[0m", "..", "con", "\u202egpj"])
def test_any_stem_becomes_a_file_in_its_folder(artifacts: Artifacts, stem: str):
    path = made(artifacts, stem).path
    assert path.parent == artifacts.root / "talk"
    assert len(path.name.encode()) <= LONGEST_NAME
    assert path.suffix == ".mp4"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("我的 照片 😀.png", "我的 照片 😀.png"),
        ("👩‍🚀.jpg", "👩‍🚀.jpg"),
        ("a/b:c*?.png", "a_b_c__.png"),
        ("\x00\x07bell.wav", "bell.wav"),
        ("nul.txt", "_nul.txt"),
        ("...", "file"),
        (".hidden", "hidden"),
    ],
)
def test_names_keep_their_letters_and_lose_what_is_dangerous(name: str, expected: str):
    assert readable_name(name) == expected


def test_a_long_name_keeps_its_suffix_and_whole_letters():
    name = readable_name("名" * 300 + ".png")
    assert name.endswith("名.png")
    assert len(name.encode()) <= LONGEST_NAME


def test_a_target_is_replaced_only_by_a_whole_file(artifacts: Artifacts, tmp_path: Path):
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), artifacts.output("talk", ".mp4", "x", target) as pending:
        pending.path.write_bytes(b"half")
        assert pending.path.parent == tmp_path
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert parts(tmp_path) == []
    result = made(artifacts, target=target)
    assert target.read_bytes() == b"video"
    assert artifacts.get(result.id).path == target
    assert not artifacts.root.exists()


def test_ones_own_file_is_adopted_once_and_never_copied(artifacts: Artifacts, tmp_path: Path):
    (tmp_path / "mine.png").write_bytes(b"x")
    adopted = artifacts.adopt(tmp_path / "mine.png")
    assert artifacts.adopt(tmp_path / "mine.png") == adopted == artifacts.get(adopted.id)
    assert adopted.path == tmp_path / "mine.png"
    assert not artifacts.root.exists()
    with pytest.raises(InvalidRequest):
        Artifacts(artifacts.root).get(adopted.id)


def test_old_leftovers_are_removed_and_young_ones_stay(artifacts: Artifacts):
    folder = artifacts.root / "talk"
    folder.mkdir(parents=True)
    old, young = folder / "old.part", folder / "young.part"
    for path in (old, young):
        path.touch()
    os.utime(old, (time.time() - 100_000, time.time() - 100_000))
    assert artifacts.clean() == 1
    assert young.exists() and not old.exists()


def test_a_file_where_the_folder_should_be_is_said(tmp_path: Path):
    (tmp_path / "outputs").write_text("in the way")
    with pytest.raises(StorageError, match="--outputs-dir"):
        made(Artifacts(tmp_path / "outputs"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_said_and_leaves_nothing(artifacts: Artifacts):
    with (
        pytest.raises(StorageError, match="full") as caught,
        artifacts.output("talk", ".mp4", "x"),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert [p for p in artifacts.root.rglob("*") if p.is_file()] == []


def test_other_failures_of_the_writer_stay_what_they_are(tmp_path: Path):
    with pytest.raises(BrokenPipeError), full_disk_errors(tmp_path):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


UNWRITABLE = """
import os, sys
from pathlib import Path
from webui.artifacts import Artifacts, check_readable, check_target
from webui.errors import GalateaError
if os.geteuid() == 0:
    os.seteuid(65534)  # root may write everywhere: be nobody
folder = Path(sys.argv[1])
artifacts = Artifacts(folder / "outputs")

def output():
    with artifacts.output("talk", ".mp4", "x"):
        pass

for step in (output, lambda: check_target(folder / "x.mp4"), lambda: check_readable(folder / "private.png")):
    try:
        step()
        print("no error")
    except GalateaError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_folder_or_file_without_permission_is_said(tmp_path: Path):
    os.chmod(tmp_path.parent.parent, 0o755)
    os.chmod(tmp_path.parent, 0o755)
    (tmp_path / "private.png").touch()
    os.chmod(tmp_path / "private.png", 0)
    os.chmod(tmp_path, 0o555)
    done = subprocess.run(
        [sys.executable, "-c", UNWRITABLE, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        timeout=60,
    )
    os.chmod(tmp_path, 0o755)
    output, target, readable = done.stdout.splitlines()
    assert output.startswith("StorageError") and "cannot be written" in output
    assert target.startswith("StorageError") and str(tmp_path) in target
    assert readable.startswith("InvalidRequest") and "private.png" in readable


def test_a_target_needs_an_existing_folder_and_is_none(tmp_path: Path):
    with pytest.raises(StorageError, match="is a folder"):
        check_target(tmp_path)
    with pytest.raises(StorageError, match="no folder"):
        check_target(tmp_path / "none" / "x.mp4")
    check_target(tmp_path / "x.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_the_system_refuses_is_said(tmp_path: Path):
    with pytest.raises(StorageError, match="longer than the disk takes"):
        check_target(tmp_path / f"{'x' * 300}.mp4")
    with pytest.raises(StorageError, match="longer than the disk takes"):
        check_target(tmp_path / ("x" * 300) / "x.mp4")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a folder of Linux in which nobody can make files")
def test_a_folder_that_takes_no_files_is_said():
    with pytest.raises(StorageError, match="/proc cannot be written"):
        check_target(Path("/proc/x.mp4"))
    with pytest.raises(StorageError, match="cannot be written"):
        made(Artifacts(Path("/proc/outputs")))


def test_what_cannot_be_read_is_said(tmp_path: Path):
    with pytest.raises(InvalidRequest, match="is a folder"):
        check_readable(tmp_path)
    with pytest.raises(InvalidRequest, match="no file"):
        check_readable(tmp_path / "none.png")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        check_readable(Path("nul\0byte"))


def test_handing_out_gives_the_same_content(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"x")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"x"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes on this system")
@pytest.mark.timeout(10)
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(InvalidRequest, match="pipe"):
        Artifacts(tmp_path / "outputs").adopt(tmp_path / "pipe.wav")


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be synced there")
def test_a_file_is_on_the_disk_before_it_is_in_its_place_and_so_are_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: told.append(f"sync {os.readlink(f'/proc/self/fd/{number}')}"))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda part, final: (told.append("replace"), replace(part, final)))
    part = tmp_path / "a.part"
    part.touch()
    move_into_place(part, tmp_path / "one" / "two" / "a.txt")
    one, two = tmp_path / "one", tmp_path / "one" / "two"
    assert told == [f"sync {tmp_path}", f"sync {one}", f"sync {part}", "replace", f"sync {two}"]
