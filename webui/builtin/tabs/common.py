"""What all tabs that make pictures ask for: model, words, sampler, size, seed, batches; as widgets, as a request, and back.

A tab builds the groups in the order in which it shows them, and adds its own fields. Bounds, defaults and what a field means
come from the request model (webui/imaging/requests.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from pydantic import BaseModel

from webui.builtin.tabs import models, presets
from webui.imaging import samplers, styles
from webui.imaging.requests import MAX_SIDE, MIN_SIDE, SIDE_STEP, Inpaint, read_size
from webui.imaging.resize import UPSCALERS, upscaler
from webui.plugin_api import GalateaError, InvalidRequest, Studio
from webui.weights.catalog import Entry
from webui.weights.detect import NAMES

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
ANY_SEED = "-1"
PICTURE_HEIGHT = 260
RESIZES = ("stretch", "crop", "fill", "latent")
UNSET = {"vae": "Automatic", "filmstrip": "off", "seed": ANY_SEED}
"""What a widget holds when nothing is asked for: an empty list looks as if something had failed to load."""
LEFT = ("model", "sampler", "schedule", "hires_upscaler")
"""Widgets that always hold something; they stay as they are when nothing is named."""
FILM_STRIPS = ("1,2,4,5,10,20", "1,2,4,5,10,30,50")
STYLES = "styles.csv"
"""In the models folder: where A1111 has it, beside the models, is where the program lies."""

OWN = "own"
"""Where a shape or a preset is chosen: neither, but what was filled in by hand."""
SAMPLED = ("sampler", "schedule", "steps", "cfg")
"""What a preset sets."""
SWAP = f"(width, height, shape) => [height, width, width === height ? shape : '{OWN}']"
CHOSEN = f"() => '{OWN}'"
DICE = f"() => '{ANY_SEED}'"

Updates = dict[Any, Any]


@dataclass(frozen=True)
class Form:
    """The widgets of one tab, and what happens among them.

    tab:     begins the ids of its widgets: "txt2img-steps".
    options: widgets by the request's field that they hold.
    others:  widgets that hold no field as it is: width, height, styles and the like.
    folded:  accordions, with the fields that are in them.
    """

    studio: Studio
    tab: str
    request: type[BaseModel]
    options: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    folded: dict[Any, tuple[str, ...]] = field(default_factory=dict)

    @property
    def inpaint(self) -> bool:
        """Whether models that were made for inpainting are the better ones."""
        return issubclass(self.request, Inpaint)

    # What is built, group by group.

    def model(self) -> None:
        """The checkpoint, and what is to be known of it."""
        with gr.Row(equal_height=False, elem_classes="picture-row"):
            # Any name can be typed: a file's settings may name a model that is not here, which is said when it is wanted.
            self.options["model"] = self.dropdown("model", [], allow_custom_value=True, filterable=True, scale=5, min_width=150)
            self.others["refresh"] = self._button("refresh")
        self.others["model_note"] = gr.HTML(elem_id=f"{self.tab}-model-note", elem_classes="flush picture-note")

    def words(self) -> None:
        """Prompt, negative prompt and styles."""
        for name, lines in (("prompt", 3), ("negative", 2)):
            self.options[name] = gr.Textbox(
                label=self.studio.text(f"field_{name}"),
                placeholder=self.studio.text(f"help_{name}"),
                lines=lines,
                max_lines=12,
                elem_id=self._id(name),
                html_attributes=gr.InputHTMLAttributes(spellcheck=False, autocapitalize="none"),
            )
        with gr.Accordion(self.studio.text("styles"), open=False, elem_id=f"{self.tab}-styles-box") as box:
            self.others["styles_box"] = box
            with gr.Row(equal_height=False, elem_classes="picture-row"):
                self.others["styles"] = self.dropdown("styles", [], multiselect=True, scale=4)
                self.others["apply_styles"] = self._button("apply_styles")
            with gr.Row(equal_height=False, elem_classes="picture-row"):
                self.others["style_name"] = gr.Textbox(
                    label=self.studio.text("field_style_name"), info=self.studio.text("help_style_name"), max_lines=1, scale=4,
                    elem_id=self._id("style_name"),
                )  # fmt: skip
                self.others["save_style"] = self._button("save_style")

    def sampling(self) -> None:
        """How the noise becomes a picture."""
        names = [(self.studio.text(f"preset_{key}"), key) for key in (OWN, *presets.PRESETS)]
        with gr.Row(equal_height=False):
            self.others["preset"] = self.dropdown("preset", names, value="standard", min_width=200)
            self.options["sampler"] = self.dropdown("sampler", [one.name for one in samplers.SAMPLERS], default=True)
            self.options["schedule"] = self.dropdown("schedule", [one.label for one in samplers.SCHEDULES], default=True)
        with gr.Row(equal_height=False):
            self.fields("steps", "cfg")
        self.options["cfg"].step = 0.5

    def size(self, *, own: bool = False) -> None:
        """Width and height. own: they may be left to the picture that is worked on."""
        if own:
            self.others["own_size"] = gr.Checkbox(
                True, label=self.studio.text("field_own_size"), info=self.studio.text("help_own_size"),
                elem_id=self._id("own_size"),
            )  # fmt: skip
        with gr.Column(visible=not own, elem_classes="picture-size") as box:
            with gr.Row(equal_height=False):
                for name in ("width", "height"):
                    self.others[name] = gr.Slider(
                        MIN_SIDE, MAX_SIDE, 512, step=SIDE_STEP, label=self.studio.text(f"field_{name}"),
                        info=self.studio.text(f"help_{name}"), elem_id=self._id(name),
                    )  # fmt: skip
            with gr.Row(equal_height=False, elem_classes="picture-row"):
                shapes = [(self.studio.text(f"shape_{shape.replace(':', '_')}"), shape) for shape in presets.SHAPES]
                shapes.insert(0, (self.studio.text("shape_own"), OWN))
                self.others["shape"] = self.dropdown("shape", shapes, value="1:1", scale=3)
                self.others["swap"] = self._button("swap")
            if own:
                modes = [(self.studio.text(f"value_resize_{mode}"), mode) for mode in RESIZES]
                self.options["resize"] = self.dropdown("resize", modes, default=True)
        self.others["size_box"] = box

    def seeds(self) -> None:
        """Seed, how many pictures, and variations of one."""
        with gr.Row(equal_height=False):
            self.fields("batch_count", "batch_size")
        with gr.Row(equal_height=False, elem_classes="picture-row"):
            self.fields("seed")
            self.options["seed"].scale, self.options["seed"].min_width = 3, 240
            self.options["seed"].value = ANY_SEED
            self.others["dice"] = self._button("dice")
            self.others["last_seed"] = self._button("last_seed")
        with self.fold("variation_box"), gr.Row(equal_height=False):
            self.fields("variation_seed", "variation")

    def hires(self) -> None:
        with self.fold("hires_box"):
            self.fields("hires")
            with gr.Row(equal_height=False):
                self.options["hires_upscaler"] = self.dropdown("hires_upscaler", list(UPSCALERS), default=True)
                self.fields("hires_size")
            with gr.Row(equal_height=False):
                self.fields("hires_scale", "hires_steps")
            self.fields("strength")

    def more(self) -> None:
        with self.fold("more_box"):
            self.options["vae"] = self.dropdown(
                "vae", [(self.studio.text("own_vae"), UNSET["vae"])], value=UNSET["vae"], allow_custom_value=True, filterable=True
            )
            with gr.Row(equal_height=False):
                self.fields("clip_skip", "tiling", "format")
            strips = [(self.studio.text("film_off"), UNSET["filmstrip"]), *((steps, steps) for steps in FILM_STRIPS)]
            self.options["filmstrip"] = self.dropdown(
                "filmstrip", strips, value=UNSET["filmstrip"], allow_custom_value=True, filterable=True
            )

    @contextmanager
    def fold(self, title: str) -> Iterator[None]:
        """An accordion; the fields that are built inside open it when they are filled in."""
        before = set(self.options)
        with gr.Accordion(self.studio.text(title), open=False, elem_id=f"{self.tab}-{title.replace('_', '-')}") as accordion:
            yield
        self.folded[accordion] = tuple(name for name in self.options if name not in before)

    def fields(self, *names: str) -> None:
        """Widgets as the request's model has the fields."""
        self.options.update(self.studio.widgets(self.request, names))

    def dropdown(self, name: str, choices: list[Any], *, default: bool = False, **how: Any) -> gr.Dropdown:
        if default:
            how["value"] = self.request.model_fields[name].default
        return gr.Dropdown(
            choices,
            label=self.studio.text(f"field_{name}"),
            info=self.studio.text(f"help_{name}"),
            elem_id=self._id(name),
            **{"value": None, "filterable": False, "min_width": 170, **how},
        )

    def _id(self, name: str) -> str:
        return f"field-{self.tab}-{name.replace('_', '-')}"

    def _button(self, name: str) -> gr.Button:
        return gr.Button(
            self.studio.text(name), size="sm", min_width=86, scale=0, elem_id=f"{self.tab}-{name.replace('_', '-')}",
            elem_classes="picture-button",
        )  # fmt: skip

    # What happens among the widgets.

    def connect(self, used_seed: Any) -> None:
        """used_seed: where the results keep the seed of the picture that is looked at."""
        options, others = self.options, self.others
        at_once: dict[str, Any] = {"queue": False, **QUIET}
        sizes = [others["width"], others["height"]]
        listed = [options["model"], options["vae"], others["styles"], others["model_note"]]
        self.studio.page.load(self.load, sizes, [*listed, *sizes], **at_once)
        others["refresh"].click(self.refresh, [options["model"]], listed, **at_once)
        options["model"].input(self.choose_model, [options["model"], *sizes], [others["model_note"], *sizes], **at_once)
        sampled = [options[name] for name in SAMPLED]
        others["preset"].input(self.use_preset, others["preset"], sampled, **at_once)
        for widget in sampled:
            widget.input(None, None, others["preset"], js=CHOSEN, **at_once)
        others["shape"].input(self.use_shape, [others["shape"], options["model"], *sizes], sizes, **at_once)
        for side in sizes:
            side.input(None, None, others["shape"], js=CHOSEN, **at_once)
        others["swap"].click(None, [*sizes, others["shape"]], [*sizes, others["shape"]], js=SWAP, **at_once)
        others["dice"].click(None, None, options["seed"], js=DICE, **at_once)
        others["last_seed"].click(self.use_seed, used_seed, options["seed"], **QUIET)
        words = [options["prompt"], options["negative"]]
        others["apply_styles"].click(self.apply_styles, [others["styles"], *words], [*words, others["styles"]], **QUIET)
        # Another tab may have saved one meanwhile.
        others["styles_box"].expand(self.list_styles, None, others["styles"], **at_once)
        others["save_style"].click(
            self.save_style, [others["style_name"], *words], [others["style_name"], others["styles"]], **QUIET
        )
        if "own_size" in others:
            others["own_size"].change(lambda own: gr.update(visible=not own), others["own_size"], others["size_box"], **at_once)

    def load(self, width: int, height: int, visitor: gr.Request) -> list[Any]:
        """A page was opened: what there is to choose from now, and the size of the model to begin with."""
        with self.studio.guard(visitor):
            entry = models.find(self.studio.settings, None, inpaint=self.inpaint)
            size = (models.side(entry),) * 2 if entry else (width, height)
            return [*self._choices(entry and entry.name, visitor), *size]

    def refresh(self, name: str | None, visitor: gr.Request) -> list[Any]:
        """What there is now. What was chosen stays chosen."""
        with self.studio.guard(visitor):
            entry = models.find(self.studio.settings, name or None, inpaint=self.inpaint)
            return self._choices(name or (entry and entry.name), visitor)

    def choose_model(self, name: str | None, width: int, height: int, visitor: gr.Request) -> list[Any]:
        with self.studio.guard(visitor):
            settings = self.studio.settings
            entry = models.find(settings, name or None, inpaint=self.inpaint)
            note = self._model_note(name, entry, visitor)
            if entry is None:
                return [note, width, height]
            known = {models.side(one) for one in models.checkpoints(settings)}
            return [note, *presets.followed(width, height, known, models.side(entry))]

    def use_preset(self, key: str) -> list[Any]:
        if key == OWN:
            return [gr.skip()] * len(SAMPLED)
        preset = presets.PRESETS[key]
        return [preset.sampler, preset.schedule, preset.steps, preset.cfg]

    def use_shape(self, shape: str, model: str | None, width: int, height: int) -> tuple[int, int]:
        entry = models.find(self.studio.settings, model or None, inpaint=self.inpaint)
        if shape == OWN:
            return width, height
        return presets.shaped(shape, models.side(entry) if entry else models.SIDES["sd1"])

    def use_seed(self, seed: str, visitor: gr.Request) -> Any:
        if not seed:
            self.studio.tell(self.studio.say("no_last_seed", visitor))
            return gr.skip()
        return seed

    def apply_styles(self, names: list[str], prompt: str, negative: str, visitor: gr.Request) -> list[Any]:
        """Write the styles out into the prompts, where they can be changed."""
        with self.studio.guard(visitor):
            return [*self._with_styles(prompt, negative, names), []]

    def list_styles(self, visitor: gr.Request) -> Any:
        with self.studio.guard(visitor):
            return gr.update(choices=list(styles.read_styles(self._styles_file)))

    def save_style(self, name: str, prompt: str, negative: str, visitor: gr.Request) -> list[Any]:
        """Keep both prompts under a name."""
        with self.studio.guard(visitor):
            name = name.strip()
            if not name:
                raise InvalidRequest(self.studio.say("style_needs_name", visitor))
            known = styles.read_styles(self._styles_file)
            known[name] = styles.Style(name, prompt or "", negative or "")
            styles.save_styles(self._styles_file, known.values())
            self.studio.tell(self.studio.say("style_saved", visitor, name=name))
            return ["", gr.update(choices=list(known))]

    # The request, and back.

    def asked(self, values: Mapping[Any, Any]) -> dict[str, Any]:
        """The request's fields as they are filled in. Raises InvalidRequest for styles that cannot be applied."""
        held = {name: values[widget] for name, widget in self.options.items()}
        given = {name: value for name, value in held.items() if value not in (None, "", UNSET.get(name))}
        words = given.get("prompt", ""), given.get("negative", "")
        given["prompt"], given["negative"] = self._with_styles(*words, values[self.others["styles"]])
        if not ("own_size" in self.others and values[self.others["own_size"]]):
            given["size"] = f"{values[self.others['width']]}x{values[self.others['height']]}"
        return given

    @property
    def inputs(self) -> list[Any]:
        """What `asked` reads."""
        names = [name for name in ("styles", "width", "height", "own_size") if name in self.others]
        return [*self.options.values(), *(self.others[name] for name in names)]

    @property
    def outputs(self) -> list[Any]:
        """What `filled` may change."""
        return [*self.inputs, *self.folded, *(self.others[name] for name in ("preset", "shape", "size_box", "model_note"))]

    def filled(self, request: Mapping[str, Any], visitor: gr.Request) -> Updates:
        """The form with these settings. What is not said is left as it stands."""
        known = dict(request) | self._named_here(request, visitor)
        shown = {name: _shown(name, known[name]) for name in self.options if name in known}
        updates: Updates = {self.options[name]: value for name, value in shown.items() if value is not None}
        updates |= {self.others["styles"]: [], self.others["preset"]: OWN}  # styles are in the prompts
        if name := known.get("model"):
            entry = models.find(self.studio.settings, name, inpaint=self.inpaint)
            updates |= {self.options["model"]: entry.name} if entry else {}
            updates[self.others["model_note"]] = self._model_note(name, entry, visitor)
        if size := known.get("size"):
            width, height = read_size(size)
            updates |= {self.others["width"]: width, self.others["height"]: height, self.others["shape"]: OWN}
        if "own_size" in self.others:
            updates |= {self.others["own_size"]: not size, self.others["size_box"]: gr.update(visible=bool(size))}
        for accordion, names in self.folded.items():
            rules = self.request.model_fields
            if any(name in known and known[name] != rules[name].default for name in names if name != "strength"):
                updates[accordion] = gr.update(open=True)
        return updates

    def _named_here(self, request: Mapping[str, Any], visitor: gr.Request) -> dict[str, Any]:
        """Sampler, schedule and upscaler by the names that the lists have. One that there is not is told, and left as it is."""
        found: dict[str, Any] = {}
        try:
            choice = samplers.resolve(request.get("sampler", "Euler"), request.get("schedule", samplers.AUTOMATIC))
            found |= {"sampler": choice.sampler.name, "schedule": choice.asked} if "sampler" in request else {}
        except InvalidRequest as error:
            self.studio.tell(self.studio.told(str(error), visitor), warning=True)
            found |= {"sampler": None, "schedule": None}
        try:
            found |= {"hires_upscaler": upscaler(request["hires_upscaler"])} if "hires_upscaler" in request else {}
        except InvalidRequest as error:
            self.studio.tell(self.studio.told(str(error), visitor), warning=True)
            found["hires_upscaler"] = None
        return found

    def _with_styles(self, prompt: str, negative: str, names: list[str] | None) -> tuple[str, str]:
        if not names:
            return prompt, negative
        return styles.apply_styles(prompt, negative, names, styles.read_styles(self._styles_file))

    def _choices(self, model: str | None, visitor: gr.Request) -> list[Any]:
        """Updates of model, VAE and styles with what there is, and the note on the model."""
        settings, say = self.studio.settings, self.studio.say
        entries = models.checkpoints(settings)
        labels = [(say("pocket", visitor) if models.is_pocket(one) else one.stem, one.name) for one in entries]
        vaes = [(say("own_vae", visitor), UNSET["vae"]), *((one.stem, one.name) for one in models.vaes(settings))]
        try:
            names = list(styles.read_styles(self._styles_file))
        except GalateaError as error:  # the page is there to say it, not to fail of it
            broken, names = (str(error),), []
        else:
            broken = ()
        note = self._model_note(model, models.find(settings, model, inpaint=self.inpaint), visitor, *broken)
        return [gr.update(choices=labels, value=model), gr.update(choices=vaes), gr.update(choices=names), note]

    def _model_note(self, name: str | None, entry: Entry | None, visitor: gr.Request, *more: str) -> str:
        """What to know of the chosen model, and which others are there that cannot be used."""
        say = self.studio.say
        if self.studio.settings.lite:
            return f"<p>{escape(say('model_lite', visitor))}</p>"
        if entry is None:
            first = say("model_unknown", visitor, name=name) if name else say("model_none", visitor)
        elif models.is_pocket(entry):
            first = say("model_pocket", visitor)
        else:
            kind, side = NAMES.get(entry.found.architecture, ""), models.side(entry)
            first = say("model_inpaint" if entry.found.inpaint else "model_full", visitor, kind=kind, side=side)
        others = [*models.problems(self.studio.settings), *more]
        listed = "".join(f"<li>{escape(self.studio.told(problem, visitor))}</li>" for problem in others)
        folded = f"<details><summary>{escape(say('model_problems', visitor))}</summary><ul>{listed}</ul></details>"
        return f"<p>{escape(first)}</p>" + (folded if listed else "")

    @property
    def _styles_file(self) -> Path:
        return self.studio.settings.models_dir / STYLES


def _shown(name: str, value: Any) -> Any:
    """What the widget of a field shows for a value; None to leave it as it is."""
    if value in (None, ""):
        return None if name in LEFT else UNSET.get(name, "")
    return str(value) if name in ("seed", "variation_seed") else value
