"""Pictures that go from tab to tab: the places that take one, and the rows of buttons that send one there.

Ids of files go, never paths. A tab says what it has while it is built; all is connected when all tabs are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gradio as gr

if TYPE_CHECKING:
    from webui.artifacts import Artifact
    from webui.ui.reuse import Opener
    from webui.ui.studio import TabStudio

_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

SHOWN_WITH_ID = "(id) => ({visible: Boolean(id), __type__: 'update'})"


@dataclass(frozen=True)
class Place:
    """Where a tab takes a picture; owner: whose locales have its name; the rest: see webui.plugin_api.Studio.accept_picture."""

    tab: str
    owner: str
    name: str
    outputs: tuple[Any, ...]
    fill: Callable[[Artifact, Any], Mapping[Any, Any]]


@dataclass(frozen=True)
class Row:
    """Buttons in `tab` that send the picture whose id is in `artifact_id`; empty until it is connected."""

    tab: str
    box: gr.Row
    artifact_id: gr.Textbox


@dataclass(frozen=True)
class Sending:
    places: list[Place] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def row(self, tab: str, artifact_id: gr.Textbox) -> gr.Row:
        box = gr.Row(visible=False, elem_classes="send-row")
        self.rows.append(Row(tab, box, artifact_id))
        return box

    def withdraw(self, tab: str) -> None:
        """Forget the places and rows of a tab."""
        self.places[:] = [place for place in self.places if place.tab != tab]
        self.rows[:] = [row for row in self.rows if row.tab != tab]

    def connect(self, studio: TabStudio, opener: Opener) -> None:
        """Build the buttons. They show themselves when there is something to send."""
        for row in self.rows:
            with row.box:
                for place in self.places:
                    if place.tab != row.tab:
                        _button(studio, opener, row, place)
            row.artifact_id.change(None, inputs=row.artifact_id, outputs=row.box, js=SHOWN_WITH_ID, **_PRIVATE)


def _button(studio: TabStudio, opener: Opener, row: Row, place: Place) -> None:
    name = studio.texts.text(place.owner, place.name)
    button = gr.Button(name, size="sm", min_width=120, elem_id=f"send-{row.tab}-{place.name}")

    def send(artifact_id: str, visitor: gr.Request) -> dict[Any, Any]:
        with studio.guard(visitor):
            filled = place.fill(studio.artifacts.get(artifact_id), visitor)
            return {**filled, **opener.updates(place.tab)}

    button.click(send, inputs=row.artifact_id, outputs=[*opener.outputs, *place.outputs], concurrency_limit=4, **_PRIVATE)
