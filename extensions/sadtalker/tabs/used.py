"""The table of how a video was made."""

from __future__ import annotations

from typing import Any

import gradio as gr

from extensions.sadtalker.jobs import NONE
from webui.plugin_api import Job, Studio

STAGES = (
    "used_seconds_face", "used_seconds_models", "used_seconds_prepare", "used_seconds_voice", "used_seconds_reference",
    "used_seconds_motion", "used_seconds_first_preview", "used_seconds_render", "used_seconds_total",
)  # fmt: skip


def table(studio: Studio, job: Job, visitor: gr.Request) -> str:
    """HTML; "" as long as there is no file."""
    if job.result is None or not job.result.artifacts:
        return ""
    data, options = job.result.data, job.request.model_dump()
    shown = {
        "field_engine": data["engine"],
        "used_engine_reason": studio.told(data["engine_reason"], visitor),
        "used_models": ", ".join(f"{name} [{digest}]" for name, digest in data["models"].items()),
        "used_landmarks": data.get("landmarks"),
        "field_preprocess": studio.say(f"value_preprocess_{options['preprocess']}", visitor),
        "field_still": _yes_or_no(studio, options["still"], visitor),
        "field_pose_style": options["pose_style"],
        "field_expression_scale": f"{options['expression_scale']:g}",
        "field_blink": _yes_or_no(studio, options["blink"], visitor),
        **_references(studio, options),
        **{f"field_{name}": options[name] or None for name in ("yaw", "pitch", "roll", "idle", "batch_size")},
        **_enhancers(options),
        "field_size": options["size"],
        "field_face": options["face"],
        "field_seed": data["seed"],
        "used_video_size": " × ".join(str(side) for side in data["size"]),
        "used_frames": data["frames"],
        "field_fps": f"{data['fps']:g}",
        "used_seconds": _seconds(studio, data["seconds"], visitor),
        "used_file": job.result.artifacts[0].name,
    }
    if data["engine"] == "sadtalker":
        shown["field_accuracy"] = studio.say(f"value_accuracy_{options['accuracy']}", visitor)
    rows = {studio.say(key, visitor): value for key, value in shown.items() if value is not None}
    return studio.facts(rows, job.warnings)


def _references(studio: Studio, options: dict[str, Any]) -> dict[str, Any]:
    return {f"field_{name}": "✓" for name in ("reference_blink", "reference_pose") if options[name]}


def _enhancers(options: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if options["enhancer"] != NONE:
        found |= {"field_enhancer": options["enhancer"], "field_enhancer_strength": f"{options['enhancer_strength']:g}"}
    if options["background_enhancer"] != NONE:
        found |= {"field_background_enhancer": options["background_enhancer"], "field_upscale": options["upscale"]}
    return found


def _seconds(studio: Studio, seconds: dict[str, float], visitor: gr.Request) -> str:
    known = {key: seconds.get(key.removeprefix("used_seconds_")) for key in STAGES}
    return ", ".join(f"{studio.say(key, visitor)} {value:.1f}" for key, value in known.items() if value)


def _yes_or_no(studio: Studio, choice: bool, visitor: gr.Request) -> str:
    return studio.say("yes", visitor) if choice else studio.say("no", visitor)
