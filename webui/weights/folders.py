"""Diffusers folders: a checkpoint as model_index.json with a folder for each part. Reads the small files; loads no weights."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from webui.errors import UnsupportedModel
from webui.weights import detect, files
from webui.weights.detect import Found

INDEX = "model_index.json"

_WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
"""Part -> how its weights files begin."""

_ARCHITECTURES = {
    "StableDiffusionPipeline": "sd1",
    "StableDiffusionImg2ImgPipeline": "sd1",
    "StableDiffusionInpaintPipeline": "sd1",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionXLImg2ImgPipeline": "sdxl",
    "StableDiffusionXLInpaintPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
    "StableDiffusionInstructPix2PixPipeline": "instruct-pix2pix",
    "StableDiffusionDepth2ImgPipeline": "depth",
    "StableDiffusionUpscalePipeline": "x4-upscaler",
}


def is_folder(path: Path) -> bool:
    """Whether `path` is a diffusers folder."""
    return os.path.isfile(path / INDEX)  # pathlib's own raises PermissionError before Python 3.14


def describe(folder: Path, *, allow_pickles: bool = False) -> Found:
    """What the diffusers folder holds.

    Raises UnsupportedModel when a part is missing, broken or not finished, or is a pickle and those are not allowed.
    """
    index = read_json(folder / INDEX)
    pipeline = str(index.get("_class_name"))[:60]
    architecture = _ARCHITECTURES.get(pipeline)
    if architecture is None:
        raise UnsupportedModel(f"{folder.name} is a {pipeline}, which this version does not run. Choose SD 1.x, SD 2.x or SDXL.")
    if architecture not in detect.RUNNABLE:
        return Found("checkpoint", architecture)
    unet = read_json(folder / "unet" / "config.json")
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    if architecture == "sd1" and unet.get("cross_attention_dim") == 1024:
        architecture = "sd2"
    if architecture == "sdxl" and index.get("text_encoder") in (None, [None, None]):
        architecture = "sdxl-refiner"
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise UnsupportedModel(
            f"{folder.name} predicts {str(prediction)[:40]}, which this version does not run. Choose another model."
        )
    parts = ("unet", "vae", "text_encoder", "text_encoder_2") if architecture == "sdxl" else ("unet", "vae", "text_encoder")
    found = Found(
        "checkpoint",
        architecture,
        inpaint=unet.get("in_channels") == 9,
        prediction=prediction,
        zero_snr=bool(scheduler.get("rescale_betas_zero_snr", False)),
        parts=parts,
    )
    return replace(found, **_contents(folder, parts, allow_pickles) if architecture in detect.RUNNABLE else {})


def _contents(folder: Path, parts: tuple[str, ...], allow_pickles: bool) -> dict[str, Any]:
    """Size of all tensors, and the kind of most of their numbers."""
    kinds: Counter[str] = Counter()
    for part in parts:
        for file in weights(folder, part):
            for fact in files.header(file, allow_pickles=allow_pickles).facts.values():
                kinds[fact.dtype] += fact.bytes
    return {"bytes": sum(kinds.values()), "dtype": kinds.most_common(1)[0][0] if kinds else ""}


def weights(folder: Path, part: str, *, half: bool = False) -> list[Path]:
    """The files with the weights of one part: several when it was saved in pieces.

    Of the variants that may lie side by side the whole one is taken, or with `half` the .fp16 one; safetensors before pickles.
    Raises UnsupportedModel when there is none, or a piece is missing.
    """
    stem = folder / part / _WEIGHTS[part]
    variants = ("fp16", "") if half else ("", "fp16")
    for ending in ("safetensors", "bin"):
        for variant in variants:
            name = f"{stem.name}{f'.{variant}' if variant else ''}.{ending}"
            # transformers and diffusers disagree on where the variant stands in the name of a piece list.
            for index in (f"{name}.index.json", f"{stem.name}.{ending}.index.{variant}.json"):
                if (stem.parent / index).is_file():
                    return _pieces(stem.parent / index)
            if (stem.parent / name).is_file():
                return [stem.parent / name]
            if ending == "bin" and part.startswith("text_encoder") and (stem.parent / "pytorch_model.bin").is_file():
                return [stem.parent / "pytorch_model.bin"]
    raise UnsupportedModel(f"{folder.name} has no weights in {part}. Copy the whole folder again, {part} with it.")


def _pieces(index: Path) -> list[Path]:
    listed = read_json(index).get("weight_map")
    names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
    found = [index.parent / Path(name).name for name in names]
    missing = next((piece for piece in found if not piece.is_file()), None)
    if missing is not None or not found:
        raise UnsupportedModel(
            f"{index.parent.name} lacks {missing.name if missing else 'its weights'}. Copy the whole folder again."
        )
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The object in a small JSON file. Raises UnsupportedModel, naming folder and file, when there is none."""
    try:
        if path.stat().st_size > files.MAX_HEADER:
            raise ValueError("no small file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnsupportedModel(f"{path.parent.name} lacks {path.name}. Copy the whole folder of the model again.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UnsupportedModel(
            f"{path.name} in {path.parent.name} cannot be read. Copy the whole folder of the model again."
        ) from error
    if not isinstance(content, dict):
        raise UnsupportedModel(f"{path.name} in {path.parent.name} is damaged. Copy the whole folder of the model again.")
    return content
