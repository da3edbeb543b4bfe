"""The System tab: the machine, what it can run and how fast, models, folders, extensions, versions, and what is wrong with any of
them. It changes nothing but what is held in memory."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from html import escape
from importlib import metadata
from typing import TYPE_CHECKING

import gradio as gr

from webui.jobs.types import JobState
from webui.ui import machine
from webui.ui.machine import Machine
from webui.ui.texts import STUDIO
from webui.ui.watch import facts
from webui.weights.catalog import shared

if TYPE_CHECKING:
    from webui.plugin_loader import Plugins
    from webui.ui.studio import TabStudio

PACKAGES = ("gradio", "numpy", "opencv-python", "dlib-bin", "imageio-ffmpeg", "torch", "diffusers")
PATIENCE = 5.0
"""Seconds that Unload waits for the workers; one that has a job needs longer."""


def build(studio: TabStudio, plugins: Plugins, tab: gr.Tab) -> None:
    """Called inside of `tab`. What it says is made when a visitor opens the page or the tab, in the visitor's language."""
    with gr.Column(elem_id="system-report"):
        machine_now = gr.HTML(elem_classes="flush")
        with gr.Row():
            unload = gr.Button(studio.text("system_unload"), size="sm", scale=0, min_width=160, elem_id="system-unload")
        rest = gr.HTML(elem_classes="flush")
    system = System(studio, plugins)
    show = {"outputs": [machine_now, rest], "api_visibility": "private", "show_progress": "hidden"}
    gr.on([studio.page.load, tab.select], system.describe, queue=False, **show)
    unload.click(system.unload, **show)


@dataclass(frozen=True)
class System:
    """What happens when."""

    studio: TabStudio
    plugins: Plugins

    def describe(self, visitor: gr.Request) -> tuple[str, str]:
        """What moves, and what stands under the button."""
        words = self.studio.texts.table(STUDIO, visitor)

        def told(sentence: str) -> str:
            return self.studio.told(sentence, visitor)

        return self._machine(words, told), self._rest(words, told)

    def unload(self, visitor: gr.Request) -> tuple[str, str]:
        """Let the workers let go of their models, and show what they hold then."""
        service = self.studio.service
        service.unload()
        deadline = time.monotonic() + PATIENCE
        while service.loaded() and time.monotonic() < deadline and not self._busy():
            time.sleep(0.1)
        if service.loaded():
            self.studio.tell(self.studio.texts.say(STUDIO, "system_unload_later", visitor))
        return self.describe(visitor)

    def _busy(self) -> bool:
        return any(job.state is JobState.RUNNING for job in self.studio.service.jobs())

    def _machine(self, words: machine.Words, told: machine.Told) -> str:
        service, settings = self.studio.service, self.studio.settings
        workers = service.machines()
        parts = [_section(words["system_machine"], machine.devices(settings, workers, words, told))]
        known = next((found for found in map(Machine.read, workers) if found), None)
        if known:
            runs, notes = machine.runs(settings, known, words)
            parts.append(_section(words["system_runs"], runs, tuple(map(told, notes))))
        parts.append(_section(words["system_speed"], machine.speeds(service.history, words)))
        parts.append(_section(words["system_memory"], machine.held(service.loaded(), words)))
        return "".join(parts)

    def _rest(self, words: machine.Words, told: machine.Told) -> str:
        settings = self.studio.settings
        catalog = shared(settings.models_dir, settings.allow_pickles)
        sections = machine.weights(catalog, words, told) | {
            words["extensions"]: _extensions(self.plugins, words),
            words["installed"]: {
                words["installed"]: words["lite"] if settings.lite else words["full"],
                words["longest_side"]: words["pixels"].format(pixels=settings.longest_side),
                words["max_voice"]: words["minutes"].format(minutes=f"{settings.max_voice_minutes:g}"),
            },
            words["folders"]: {words["models"]: str(settings.models_dir), words["outputs"]: str(settings.outputs_dir)},
            words["versions"]: {words["python"]: platform.python_version(), **_versions()},
        }
        return "".join(_section(title, rows) for title, rows in sections.items())


def _section(title: str, rows: machine.Rows, notes: tuple[str, ...] = ()) -> str:
    return f"<h3>{escape(title)}</h3>{facts(rows, notes)}"


def _extensions(plugins: Plugins, words: machine.Words) -> dict[str, str]:
    loaded = {plugin.manifest.title: words["loaded"] for plugin in plugins.loaded}
    names = [f"{failure.name}: {failure.tab}" if failure.tab else failure.name for failure in plugins.failures]
    reasons = [f"{words['not_loaded']}: {failure.reason}" for failure in plugins.failures]
    return loaded | dict(zip(names, reasons, strict=True))


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "–"
    return found
