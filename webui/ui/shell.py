"""The page around the tabs: header, notices, the extensions' tabs, History, System. Knows no extension by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.themes import Base, Soft

from webui.plugin_loader import imported
from webui.ui import history, panel, system
from webui.ui.studio import TabStudio
from webui.ui.texts import STUDIO, Texts

if TYPE_CHECKING:
    from webui.artifacts import Artifacts
    from webui.jobs.service import JobService
    from webui.plugin_loader import Plugin, Plugins
    from webui.settings import Settings

HOUR = 3600
STYLE = Path(__file__).parent / "style.css"
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

REMEMBER = """() => {
  const open = document.querySelector("#tabs [role=tab][aria-selected=true]");
  if (window.galateaRecalled && open) sessionStorage.setItem("galatea-tab", open.dataset.tabId);
}"""
"""The page tells of its first tab, too, sometimes when another one has been opened already: what is open counts."""

RECALL = """() => {{
  const known = sessionStorage.getItem("galatea-tab"), tabs = {tabs};
  window.galateaRecalled = true;
  return {{selected: tabs.includes(known) ? known : tabs[0], __type__: "update"}};
}}"""

Notice = Callable[[Texts, gr.Request], str]
"""A sentence for the top of the page, made in the visitor's language."""


def build(
    service: JobService,
    artifacts: Artifacts,
    settings: Settings,
    plugins: Plugins,
    texts: Texts,
    notices: list[Notice],
    handed: Path,
) -> gr.Blocks:
    """The whole page. A tab that cannot be built is reported in `plugins` and left out.

    notices: read anew whenever somebody opens the page; handed: see TabStudio.
    """
    with gr.Blocks(title="Galatea", analytics_enabled=False, delete_cache=(HOUR, 24 * HOUR), fill_width=True) as page:
        _header(texts, page)
        _notices(settings, plugins, texts, notices, page)
        studio, others = TabStudio(service, artifacts, settings, page, texts, STUDIO, handed, history.TAB), []
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as tabs:
            for plugin in plugins.loaded:
                texts.add(plugin.manifest.id, plugin.folder / "locales")
                others += [_tab(name, plugin, plugins, studio) for name in plugin.manifest.tabs]
            past = gr.Tab(texts.text(STUDIO, "history"), id=history.TAB, elem_id="tab-history")
            with gr.Tab(texts.text(STUDIO, "system"), id="system", elem_id="tab-system") as about:
                system.build(studio, plugins, about)
            with past:
                history.build(studio, tabs, past, [*others, about])
        _remember_tab(tabs, [*others, past, about], page)
        page.load(None, js=panel.PRESS, **PRIVATE)
    return page


def theme() -> Base:
    """Ivory and sea green, in fonts that every system has: nothing is fetched."""
    fonts = ["system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]
    mono = ["ui-monospace", "monospace"]
    hues = {"primary_hue": "teal", "secondary_hue": "teal", "neutral_hue": "stone"}
    chosen = Soft(**hues, font=fonts, font_mono=mono)
    return chosen.set(
        color_accent="*primary_700",
        body_background_fill="*neutral_50",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_label_background_fill="*background_fill_primary",
        block_label_background_fill_dark="*background_fill_primary",
        block_label_border_width="0px",
        block_label_shadow="none",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_padding="0",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_shadow="0 1px 2px rgb(0 0 0 / 5%)",
        block_border_width="1px",
        block_border_color="*neutral_200",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_text_color="white",
        button_border_width="1px",
        button_secondary_border_color="*neutral_300",
        checkbox_border_color="*neutral_500",
        checkbox_label_border_width="1px",
        checkbox_label_border_color="*neutral_300",
        input_border_width="1px",
        input_border_color="*neutral_300",
        checkbox_label_background_fill_selected="*primary_700",
        slider_color="*primary_700",
    )


def _header(texts: Texts, page: gr.Blocks) -> None:
    header = gr.HTML("<h1>Galatea</h1>", elem_id="header")

    def greet(visitor: gr.Request) -> str:
        return f"<h1>Galatea</h1><p>{escape(texts.say(STUDIO, 'tagline', visitor))}</p>"

    page.load(greet, outputs=header, api_visibility="private", show_progress="hidden", queue=False)


def _notices(settings: Settings, plugins: Plugins, texts: Texts, notices: list[Notice], page: gr.Blocks) -> None:
    # Not shown before there are any: an empty box takes room, too.
    box = gr.HTML(visible=False, elem_id="notices")

    def collect(visitor: gr.Request) -> Any:
        sentences = [
            texts.say(STUDIO, "notice_tab" if failure.tab else "notice_failed", visitor, **vars(failure))
            for failure in plugins.failures
        ]
        if settings.lite:
            sentences.append(texts.say(STUDIO, "notice_lite", visitor))
        sentences += [notice(texts, visitor) for notice in notices]
        shown = "".join(f'<p role="status">{escape(sentence)}</p>' for sentence in sentences)
        return gr.update(value=shown, visible=bool(sentences))

    page.load(collect, outputs=box, api_visibility="private", show_progress="hidden", queue=False)


def _remember_tab(tabs: gr.Tabs, all_tabs: list[gr.Tab], page: gr.Blocks) -> None:
    """A page that is loaded anew opens on the tab that was open, a new one on the first that is whole."""
    whole = [tab.id for tab in all_tabs if tab.visible]
    tabs.change(None, js=REMEMBER, **PRIVATE)
    page.load(None, outputs=tabs, js=RECALL.format(tabs=whole), **PRIVATE)


def _tab(name: str, plugin: Plugin, plugins: Plugins, studio: TabStudio) -> gr.Tab:
    owner, title = plugin.manifest.id, f"tab_{name}"
    own = studio.texts.has(owner, title)
    tab = gr.Tab(studio.texts.text(owner, title) if own else plugin.manifest.title, id=name, elem_id=f"tab-{name}")
    try:
        build_tab = imported(plugin.manifest.tabs[name])
        with tab:
            build_tab(replace(studio, owner=owner, tab=name))
    except Exception as error:  # an extension is foreign code: whatever it raises is its own failure
        plugins.report(owner, error, tab=name)
        studio.forms.withdraw(name)
        studio.sending.withdraw(name)
        tab.visible = False
    return tab
