"""The System tab: versions, device, folders, extensions and what is wrong with any of them. Shows; changes nothing."""

from __future__ import annotations

import platform
from html import escape
from importlib import metadata
from typing import TYPE_CHECKING

import gradio as gr

from webui.ui.texts import STUDIO, Texts
from webui.ui.watch import facts

if TYPE_CHECKING:
    from webui.plugin_loader import Plugins
    from webui.settings import Settings

PACKAGES = ("gradio", "numpy", "opencv-python", "dlib-bin", "imageio-ffmpeg", "torch", "diffusers")


def build(settings: Settings, plugins: Plugins, texts: Texts, page: gr.Blocks) -> None:
    """Called inside a gr.Tab. What it says is made when a visitor opens the page, in the visitor's language."""
    report = gr.HTML(elem_id="system-report")

    def describe(visitor: gr.Request) -> str:
        return _report(settings, plugins, texts.table(STUDIO, visitor))

    page.load(describe, outputs=report, api_visibility="private", show_progress="hidden", queue=False)


def _report(settings: Settings, plugins: Plugins, words: dict[str, str]) -> str:
    sections = {
        words["extensions"]: _extensions(plugins, words),
        words["installed"]: {
            words["installed"]: words["lite"] if settings.lite else words["full"],
            words["device"]: settings.device,
            words["longest_side"]: words["pixels"].format(pixels=settings.longest_side),
            words["max_voice"]: words["minutes"].format(minutes=f"{settings.max_voice_minutes:g}"),
        },
        words["folders"]: {words["models"]: settings.models_dir, words["outputs"]: settings.outputs_dir},
        words["versions"]: {words["python"]: platform.python_version(), **_versions()},
    }
    return "".join(f"<h3>{escape(title)}</h3>{facts(rows, ())}" for title, rows in sections.items())


def _extensions(plugins: Plugins, words: dict[str, str]) -> dict[str, str]:
    broken = {failure.name: f"{words['not_loaded']}: {failure.reason}" for failure in plugins.failures}
    loaded = {plugin.manifest.title: words["loaded"] for plugin in plugins.loaded if plugin.manifest.id not in broken}
    return loaded | broken


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "–"
    return found
