"""What all tests share: the files that ship, and the larger samples that lie beside the project on some machines."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import OUTPUTS

PROJECT = Path(__file__).resolve().parent.parent
EXAMPLES = PROJECT / "extensions" / "sadtalker" / "examples"

# Before PyTorch is loaded, and for the programs that tests start: tests that run side by side have one thread each. Two with all
# processors' threads take twice the time, in which threads wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "outside_ci: needs what continuous integration has not; may be skipped there")


def pytest_unconfigure() -> None:
    gc.unfreeze()  # libraries complain of what is left at the end


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Generator[None, Any, Any]:
    """With CI=true a skip is a failure: what nobody sees skipped is never run.

    Tests of what lies beside the project may be skipped.
    """
    report = yield
    beside = {"samples", "meter"} & set(getattr(item, "fixturenames", ()))
    may_skip = item.get_closest_marker("outside_ci") is not None or beside
    if report.skipped and os.environ.get("CI") == "true" and not may_skip and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although CI must run it: {call.excinfo.value if call.excinfo else 'unknown reason'}"
    return report


@pytest.fixture(scope="module", autouse=True)
def few_to_look_through() -> None:
    """What earlier modules left is not looked through at each collection of garbage, which would take a second at a time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Studios that a test starts without a folder of its own put nothing into the developer's outputs, nor into the history."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(OUTPUTS, str(tmp_path_factory.mktemp("outputs")))
        yield


@pytest.fixture(scope="session")
def portrait_file() -> Path:
    """A photo with one face that ships with the project."""
    return EXAMPLES / "eileen_collins.jpg"


@pytest.fixture(scope="session")
def voice_file() -> Path:
    """A short English voice clip that ships with the project."""
    return EXAMPLES / "hello_english.wav"


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real portraits and voices beside the project; skips the test, saying so, where it is not."""
    folder = PROJECT.parent / "shared" / "samples"
    if not folder.is_dir():
        pytest.skip("the sample portraits and voices are not on this machine")
    return folder


@pytest.fixture(scope="session")
def meter() -> Path:
    """The program that measures talking heads, beside the project; skips the test, saying so, where it is not."""
    program = PROJECT.parent / "shared" / "tools" / "talking_quality.py"
    if not program.exists():
        pytest.skip("the meter talking_quality.py is not on this machine")
    return program
