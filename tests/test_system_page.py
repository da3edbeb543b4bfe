"""The System tab: what it says of the machine and its models, in whose words, and that Unload unloads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from pydantic import BaseModel

from webui.artifacts import Artifacts
from webui.jobs.service import JobService
from webui.jobs.types import JobKind, JobResult, Loaded
from webui.plugin_loader import Plugins
from webui.settings import Settings
from webui.ui import machine
from webui.ui.studio import TabStudio
from webui.ui.system import System
from webui.ui.texts import STUDIO, Texts

ENGLISH, CHINESE = (SimpleNamespace(headers={"accept-language": name}) for name in ("en-US", "zh-CN"))
CARD = {"kind": "cuda", "name": "A <card>", "memory": 8 * 2**30, "fp16": True, "bf16": False, "where": "cuda:0"}
HELD: list[Loaded] = []
SAID: dict[str, Any] = {}


class Asked(BaseModel):
    speed: float = 4.0


def draw(_ctx: Any, asked: Asked) -> JobResult:
    HELD[:] = [Loaded("small", 48 * 2**20, "cuda:0")]
    facts = {"model": "small", "size": [128, 96], "precision": "fp16", "device": "cuda:0", "steps_per_second": asked.speed}
    return JobResult((), facts)


def loaded() -> tuple[Loaded, ...]:
    return tuple(HELD)


def said(_settings: Settings) -> dict[str, Any]:
    return dict(SAID)


DRAW = JobKind("draw", "Draw", Asked, draw, loaded=loaded, unload=HELD.clear, machine=said)


@dataclass
class Desk:
    service: JobService
    system: System

    def text(self, visitor: Any = ENGLISH) -> str:
        return "".join(self.system.describe(visitor))


@pytest.fixture
def desk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Desk]:
    HELD.clear()
    SAID.clear()
    SAID.update(CARD)
    more = getattr(request, "param", {})
    settings = Settings(outputs_dir=tmp_path / "outputs", models_dir=tmp_path / "models", device="cuda:0", **more)
    artifacts = Artifacts(settings.outputs_dir)
    service = JobService([DRAW], artifacts, settings, alone=True)
    with gr.Blocks() as page:
        studio = TabStudio(service, artifacts, settings, page, Texts(None), STUDIO, tmp_path)
    try:
        yield Desk(service, System(studio, Plugins()))
    finally:
        service.close()


def drawn(desk: Desk, **asked: Any) -> None:
    assert desk.service.wait(desk.service.submit("draw", asked).id, 30).result is not None
    while not desk.service.loaded():
        pass


def test_the_worker_says_what_the_device_is_and_what_follows_from_it(desk: Desk):
    drawn(desk)
    text = desk.text()
    assert "A &lt;card&gt;, 8.0 GB of memory, fast in fp16" in text
    assert "<th>SD 1.5, 512 × 512</th><td>fp16, about 4.0 GB of memory: fits" in text
    assert "the rest waits in main memory" in text, "SDXL on 8 GB"


def test_before_the_worker_knows_nothing_is_made_up(tmp_path: Path):
    words = Texts(None).table(STUDIO, ENGLISH)
    rows = machine.devices(Settings(), ({},), words, str)
    assert rows == {"Device (auto)": words["system_machine_unknown"]} | {
        words["system_machine_overrides"]: words["system_machine_auto"]
    }
    lite = machine.devices(Settings(lite=True), ({},), words, str)
    assert "--full" in lite["Device (auto)"]
    missing = machine.devices(Settings(device="cuda"), ({"problem": "There is none."},), words, str)
    assert missing["Device (cuda)"] == "There is none."


@pytest.mark.parametrize("desk", [{"precision": "bf16", "tf32": False, "offload": "sequential", "compile": True}], indirect=True)
def test_what_the_settings_say_is_shown_and_doubted(desk: Desk):
    drawn(desk)
    text = desk.text()
    assert "precision = bf16" in text and "tf32 = off" in text and "compile = on" in text
    assert "<li>A UNet whose layers are moved one by one cannot be compiled." in text


def test_speed_is_the_median_of_what_jobs_measured(desk: Desk):
    assert "Nothing yet" in desk.text()
    for speed in (1.0, 3.0, 100.0):
        drawn(desk, speed=speed)
    assert "<th>small, 128 × 96</th><td>3 steps a second (fp16, cuda:0; jobs: 3)</td>" in desk.text()


def test_unload_lets_go_and_says_what_is_left(desk: Desk):
    drawn(desk)
    assert "<th>small (cuda:0)</th><td>48 MB</td>" in desk.text()
    assert "no model" in "".join(desk.system.unload(ENGLISH)) and desk.service.loaded() == () and not HELD


def test_files_are_listed_and_a_bad_one_is_named(desk: Desk, tmp_path: Path):
    assert "none: put them into models/Stable-diffusion" in desk.text()
    folder = tmp_path / "models" / "Stable-diffusion"
    folder.mkdir(parents=True)
    (folder / "half.safetensors").write_bytes(b"\x08\x00")
    assert "<th>half.safetensors</th><td>half.safetensors is" in desk.text()


def test_upscalers_and_face_restorers_are_listed(desk: Desk, tmp_path: Path):
    enhancers = pytest.importorskip("tests.enhancers")
    assert "none: put them into models/ESRGAN" in desk.text() and "none: put them into models/GFPGAN" in desk.text()
    enhancers.safetensors(tmp_path / "models" / "ESRGAN" / "plain.safetensors", enhancers.compact(2))
    enhancers.safetensors(tmp_path / "models" / "GFPGAN" / "faces.safetensors", enhancers.restoreformer())
    text = desk.text()
    assert "<th>plain.safetensors</th><td>2×, 0 MB</td>" in text and "<th>faces.safetensors</th><td>RestoreFormer, " in text


def test_it_speaks_chinese(desk: Desk):
    drawn(desk)
    text = desk.text(CHINESE)
    assert "本机" in text and "每秒 4 步" in text and "steps a second" not in text
