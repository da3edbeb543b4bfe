"""Loads checkpoints: A1111's single files, diffusers folders and separate VAEs, whole or part by part, without the network.

Networks are laid out without memory and filled with the tensors as they lie in the mapped file; only where the precision differs
is a tensor copied, one at a time, and those of the VAE when it is first used. So a model takes its own size in memory and no
more. What the numbers of a single file's networks are stands in configs/, which see. Nothing here runs a model, but for one look
at an SD 2.x UNet whose file does not say what it predicts.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from webui.errors import OutOfMemory, UnsupportedModel
from webui.imaging.origins import Folder, Origin, SingleFile, Tensors
from webui.weights import detect, files
from webui.weights.catalog import Entry

CONFIGS = Path(__file__).parent / "configs"

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

PARTS = ("tokenizers", "text_encoders", "unet", "vae", "scheduler_config")
"""What can be loaded and swapped alone: the fields of Model by name."""

_ENCODERS = {"sd1": ("text_encoder",), "sd2": ("text_encoder",), "sdxl": ("text_encoder", "text_encoder_2")}


@dataclass(eq=False)
class Model:
    """A checkpoint in memory. Its networks are in evaluation mode and want no gradients.

    architecture:     "sd1", "sd2" or "sdxl". inpaint: the UNet takes 9 channels.
    prediction:       "epsilon" or "v_prediction": what the UNet predicts.
    tokenizers:       transformers' CLIPTokenizer, one or (SDXL) two.
    text_encoders:    CLIPTextModel, without its last, unused layer for SD 2.x; SDXL's second is a CLIPTextModelWithProjection.
    unet, vae:        diffusers' UNet2DConditionModel and AutoencoderKL.
    scheduler_config: diffusers' scheduler config, with `prediction` in its `prediction_type`.
    hash:             sha256 of the file, if the entry had it.

    Raises UnsupportedModel when the parts do not fit each other.
    """

    name: str
    architecture: str
    inpaint: bool
    prediction: str
    tokenizers: tuple[Any, ...]
    text_encoders: tuple[Any, ...]
    unet: Any
    vae: Any
    scheduler_config: dict[str, Any]
    dtype: torch.dtype
    device: torch.device
    hash: str | None = None

    def __post_init__(self) -> None:
        """A folder's configs, or parts of different models, may contradict each other; no graphics card goes on after that."""
        width = sum(encoder.config.hidden_size for encoder in self.text_encoders)
        latents = self.vae.config.latent_channels
        channels = (9 if self.inpaint else latents, latents)
        fits = {
            "UNet and text encoder": self.unet.config.cross_attention_dim == width,
            "UNet and VAE": (self.unet.config.in_channels, self.unet.config.out_channels) == channels,
            "tokenizer and text encoder": len(self.tokenizers) == len(self.text_encoders)
            and all(len(one) <= other.config.vocab_size for one, other in zip(self.tokenizers, self.text_encoders, strict=True)),
        }
        if wrong := next((parts for parts, fit in fits.items() if not fit), None):
            raise UnsupportedModel(f"{wrong} of {self.name} do not fit together. Choose parts of one model, or copy it again.")

    @property
    def size(self) -> int:
        """Bytes of all weights in the chosen precision, whether they are there already or still in the file."""
        return self.dtype.itemsize * _numbers(*self.text_encoders, self.unet, self.vae)


def load(
    entry: Entry,
    *,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    vae: Entry | None = None,
    prediction: str | None = None,
    allow_pickles: bool = False,
    configs: Path = CONFIGS,
) -> Model:
    """The checkpoint of `entry`, in a `precision` of PRECISIONS, on `device`; with another `vae` in place of its own.

    `prediction` ("epsilon", "v_prediction") overrules what the file says. `configs` is the folder with the numbers of single
    files.

    Raises UnsupportedModel when an entry has a problem, lacks a part or does not fit its architecture, and OutOfMemory.
    """
    if problem := entry.problem or (vae.problem if vae else ""):
        raise UnsupportedModel(problem)
    options: dict[str, Any] = {"precision": precision, "device": device, "allow_pickles": allow_pickles, "configs": configs}
    rest = load_rest(entry, prediction=prediction, **options)
    return rest.with_vae(load_part(vae or entry, "vae", architecture=rest.architecture, **options))


@dataclass(frozen=True, eq=False)
class Rest:
    """A checkpoint in memory without a VAE, so that several VAEs can be used with the one copy of it. Fields as in Model."""

    name: str
    architecture: str
    inpaint: bool
    prediction: str
    tokenizers: tuple[Any, ...]
    text_encoders: tuple[Any, ...]
    unet: Any
    scheduler_config: dict[str, Any]
    dtype: torch.dtype
    device: torch.device
    hash: str | None

    @property
    def size(self) -> int:
        """Bytes of all its weights."""
        return self.dtype.itemsize * _numbers(*self.text_encoders, self.unet)

    def with_vae(self, vae: Any) -> Model:
        """The whole model; the networks are shared. Raises UnsupportedModel when the VAE does not fit."""
        return Model(vae=vae, **vars(self))


def load_rest(
    entry: Entry,
    *,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    prediction: str | None = None,
    allow_pickles: bool = False,
    configs: Path = CONFIGS,
) -> Rest:
    """All of the checkpoint but its VAE. Arguments and errors as of `load`."""
    if entry.problem:
        raise UnsupportedModel(entry.problem)
    _hand_back_what_is_freed()
    checkpoint = _Checkpoint(entry, precision, torch.device(device), allow_pickles, configs)
    unet = checkpoint.unet()
    predicts = prediction or entry.found.prediction or _probe(unet)
    return Rest(
        name=entry.name,
        architecture=checkpoint.architecture,
        inpaint=entry.found.inpaint,
        prediction=predicts,
        tokenizers=checkpoint.tokenizers(),
        text_encoders=checkpoint.text_encoders(),
        unet=unet,
        scheduler_config=checkpoint.scheduler_config() | {"prediction_type": predicts},
        dtype=PRECISIONS[precision],
        device=torch.device(device),
        hash=entry.hash,
    )


def _numbers(*networks: nn.Module) -> int:
    """How many numbers the weights of the networks are."""
    return sum(tensor.numel() for network in networks for tensor in network.parameters())


def load_part(
    entry: Entry,
    part: str,
    *,
    architecture: str | None = None,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    allow_pickles: bool = False,
    configs: Path = CONFIGS,
) -> Any:
    """One of PARTS from `entry`, as it stands in Model. A VAE alone does not tell the `architecture` it is for: it must be given.

    An entry that is no whole checkpoint, a UNet say, will do when it has this part. Raises as `load`.
    """
    if entry.problem and part not in entry.found.parts:
        raise UnsupportedModel(entry.problem)
    source = _Checkpoint(entry, precision, torch.device(device), allow_pickles, configs)
    return source.vae(architecture or source.architecture) if part == "vae" else getattr(source, part)()


def swap(model: Model, part: str, entry: Entry, *, allow_pickles: bool = False, configs: Path = CONFIGS) -> Model:
    """A model with one of PARTS from another entry. The other parts are shared with `model`, which stays as it is.

    Raises as `load`, and UnsupportedModel when the entry is of another architecture.
    """
    theirs = entry.found.architecture
    if theirs and theirs != model.architecture:
        raise UnsupportedModel(
            f"{entry.name} is {entry.found.title}, and {model.name} is {detect.NAMES[model.architecture]}: parts of the two do "
            f"not fit. Choose one of {detect.NAMES[model.architecture]}."
        )
    precision = next(name for name, dtype in PRECISIONS.items() if dtype == model.dtype)
    options: dict[str, Any] = {"precision": precision, "device": model.device, "allow_pickles": allow_pickles, "configs": configs}
    loaded = load_part(entry, part, architecture=model.architecture, **options)
    changes: dict[str, Any] = {part: loaded}
    if part == "scheduler_config":
        changes[part] = {key: value for key, value in loaded.items() if key not in _OF_THE_UNET}
        changes[part] |= {key: value for key, value in model.scheduler_config.items() if key in _OF_THE_UNET}
    if part == "unet":
        predicts = entry.found.prediction or _probe(loaded)
        config = model.scheduler_config | {"prediction_type": predicts, "rescale_betas_zero_snr": entry.found.zero_snr}
        changes |= {"inpaint": entry.found.inpaint, "prediction": predicts, "scheduler_config": config}
    return dataclasses.replace(model, **changes)


_OF_THE_UNET = ("prediction_type", "rescale_betas_zero_snr")
"""What stands in the scheduler's config and is a fact about the UNet's training."""


@dataclass(frozen=True)
class _Checkpoint:
    """Where the parts of one entry come from, and how they are to be."""

    entry: Entry
    precision: str
    device: torch.device
    allow_pickles: bool
    configs: Path

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r} is none of {', '.join(PRECISIONS)}")

    @property
    def architecture(self) -> str:
        return self.entry.found.architecture

    def unet(self) -> Any:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        origin = self._origin(self.architecture)
        config = self._checked(origin.config("unet"), "UNet", "UNet2DConditionModel")
        network = self._laid_out("UNet", lambda: UNet2DConditionModel.from_config(config))
        # A UNet with layers that ours has not would give other pictures, which is worse than none.
        return self._filled(network, origin.tensors("unet"), "UNet", extras_matter=True)

    def vae(self, architecture: str) -> Any:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        origin = self._origin(architecture)
        config = self._checked(origin.config("vae"), "VAE", "AutoencoderKL")
        network = self._laid_out("VAE", lambda: AutoencoderKL.from_config(config))
        return self._filled(network, origin.tensors("vae"), "VAE", waiting=_WAITING)

    def text_encoders(self) -> tuple[Any, ...]:
        origin = self._origin(self.architecture)
        return tuple(self._text_encoder(origin, part) for part in _ENCODERS[self.architecture])

    def tokenizers(self) -> tuple[Any, ...]:
        origin = self._origin(self.architecture)
        return tuple(origin.tokenizer(part.replace("text_encoder", "tokenizer")) for part in _ENCODERS[self.architecture])

    def scheduler_config(self) -> dict[str, Any]:
        """As the entry has it, or as all of its architecture have it; with what its training says of noise."""
        config = self._origin(self.architecture).config("scheduler")
        known = {"prediction_type": self.entry.found.prediction or config.get("prediction_type", "epsilon")}
        return config | known | ({"rescale_betas_zero_snr": True} if self.entry.found.zero_snr else {})

    def _origin(self, architecture: str) -> Origin:
        if self.entry.path.is_dir():
            return Folder(self.entry.path, half=self.precision != "fp32", allow_pickles=self.allow_pickles)
        header = files.header(self.entry.path, allow_pickles=self.allow_pickles)
        numbers = json.loads((self.configs / f"{architecture}.json").read_text(encoding="utf-8"))
        if self.entry.found.inpaint:
            numbers["unet"]["in_channels"] = 9
        read = files.reader(self.entry.path, allow_pickles=self.allow_pickles)
        return SingleFile(self.entry.name, header, numbers, read, self.configs)

    def _text_encoder(self, origin: Origin, part: str) -> Any:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        kind = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
        config = self._checked(origin.config(part), "text encoder", kind.__name__)
        numbers = {key: value for key, value in config.items() if key in _TEXT_NUMBERS}
        network = self._laid_out("text encoder", lambda: kind(CLIPTextConfig(**numbers)))
        tensors = origin.tensors(part)
        if hasattr(network, "text_model"):  # the one with a projection keeps the encoder in a child of this name
            tensors = {
                name if name.startswith("text_projection") else f"text_model.{name}": read for name, read in tensors.items()
            }
        return self._filled(network, tensors, "text encoder")

    def _checked(self, config: dict[str, Any], what: str, wanted: str) -> dict[str, Any]:
        """The config of a part, after making sure that it is of the class that is wanted."""
        kind = config.get("_class_name") or next(iter(config.get("architectures") or []), wanted)
        if kind != wanted:
            raise self._unfit(what, f"it is a {kind}, not a {wanted}")
        return config

    def _laid_out(self, what: str, build: Callable[[], Any]) -> Any:
        """The network that the configs describe, without memory for its weights."""
        try:
            with no_memory():
                return build()
        except Exception as error:  # what a folder's configs say can make the libraries fail in any way
            raise self._unfit(what, "its config.json makes no sense") from error

    def _filled(
        self, network: Any, tensors: Tensors, what: str, *, extras_matter: bool = False, waiting: tuple[str, ...] = ()
    ) -> Any:
        """The network with the tensors in it, each in the precision and on the device that was chosen.

        waiting: how the names begin of tensors that stay in the file until they are used, where a copy would cost memory.
        """
        dtype = PRECISIONS[self.precision]
        waiting = waiting if self.device.type == "cpu" and dtype == torch.float32 else ()
        expected = network.state_dict()
        self._check_names(expected, tensors, what, extras_matter)
        filled = {}
        try:
            for name, place in expected.items():
                tensor = tensors[name]()
                if tensor.shape != place.shape or not tensor.is_floating_point():
                    found = f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
                    raise self._unfit(what, f"{name} is {found}, and should be {tuple(place.shape)}")
                filled[name] = tensor if name.startswith(waiting) else tensor.to(self.device, dtype)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            raise OutOfMemory(
                f"There is too little memory on {self.device} for {self.entry.name}. Use fp16, or offloading."
            ) from error
        network.load_state_dict(filled, assign=True)
        for part in {name.partition(".")[0] for name in waiting}:
            _fetch_when_used(getattr(network, part), dtype)
        # What is left are buffers that no file has, such as position ids.
        return network.to(self.device).eval().requires_grad_(False)

    def _check_names(self, expected: Mapping[str, Any], tensors: Tensors, what: str, extras_matter: bool) -> None:
        if not tensors:
            raise UnsupportedModel(f"{self.entry.name} has no {what}. Choose a full checkpoint, or a file for this part.")
        if missing := [name for name in expected if name not in tensors]:
            raise self._unfit(what, f"{len(missing)} tensors are missing, {missing[0]} for one")
        if extras_matter and (extra := [name for name in tensors if name not in expected]):
            raise self._unfit(what, f"{len(extra)} tensors have no place, {extra[0]} for one")

    def _unfit(self, what: str, detail: str) -> UnsupportedModel:
        name = detect.NAMES.get(self.architecture, "Stable Diffusion")
        return UnsupportedModel(
            f"The {what} of {self.entry.name} is not that of {name} ({detail}). It is of a relative that cannot be run here, "
            "or damaged: choose another."
        )


_TEXT_NUMBERS = (
    "vocab_size", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "hidden_act", "layer_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip
"""What of a text encoder's config describes the network. The rest can name code to be fetched (`attn_implementation`)."""


_WAITING = ("encoder.down_blocks.", "encoder.mid_block.", "decoder.mid_block.", "decoder.up_blocks.")
"""Nearly all of a VAE: steps are taken without it, and pictures made from words never need its encoder. Its first layer does not
wait, because a network's `dtype` is read from that."""


def _fetch_when_used(part: nn.Module, dtype: torch.dtype) -> None:
    """Copy the part's tensors from the mapped file, in this precision, when it is first called."""

    def fetch(part: nn.Module, _given: Any) -> None:
        part.to(dtype)
        handle.remove()

    handle = part.register_forward_pre_hook(fetch)


def _hand_back_what_is_freed() -> None:
    """Let large tensors' memory go back to the system when they are freed.

    glibc raises the size from which it does so, up to 32 MB, and keeps what is smaller: 0.2 GB after one step of SD 1.5.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library, which has no such habit
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


_M_MMAP_THRESHOLD = -3
"""mallopt(3)"""


def no_memory() -> Any:
    """Inside this context networks are laid out without memory for their weights; buffers are real."""
    from accelerate import init_empty_weights

    return init_empty_weights(include_buffers=False)


@torch.inference_mode()
def _probe(unet: Any) -> str:
    """What an SD 2.x UNet predicts, when its file does not say: A1111's test, one look at the last step.

    Where the input is nearly all noise, a UNet that predicts the noise gives back about what it was given; one that predicts v
    gives the negative of the picture, far from it (stable-diffusion-webui, modules/sd_models_config.py).
    """
    given = torch.full((1, unet.config["in_channels"], 8, 8), 0.5, dtype=unet.dtype, device=unet.device)
    prompt = torch.full((1, 2, unet.config["cross_attention_dim"]), 0.5, dtype=unet.dtype, device=unet.device)
    answer = unet(given, torch.tensor([999], device=unet.device), prompt).sample
    return "v_prediction" if float((answer - given).float().mean()) < -1 else "epsilon"
