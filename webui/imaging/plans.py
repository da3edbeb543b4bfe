"""How a model is run on what the machine has: precision, memory formats, tiles, slices, offloading. Decides; does nothing.

It is chosen by facts, and each part of it can be overruled. What is put into effect, and when, is memory.py's. Nothing here
changes what a picture shows but `vae_tiling`, and that can hardly be seen. Needs no torch, so that the page can say what would be
chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from webui.devices import GIB, WORKING, Device
from webui.errors import InvalidRequest

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
"""Of a number, by precision."""

LARGEST_PART = 0.8
"""How much of a model its largest part is, the UNet, when it is not known."""


@dataclass(frozen=True)
class Plan:
    """How a model is run. device, precision: for load. The rest is put into effect by memory.applied.

    singly:            the pictures of a batch are made one after another.
    vae_slicing:       the VAE has one picture at a time; vae_tiling: parts of one.
    split_guidance:    the UNet looks at the prompt and the negative prompt one after another.
    attention_slicing: attention is computed in parts, without PyTorch's fast kernels.
    offload:           "model": each network is on the device only while it works; "sequential": each of the UNet's layers.
    compile:           the UNet's blocks are compiled; the first steps take minutes, and those after a change of size do again.
    """

    device: str = "cpu"
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    channels_last: bool = False
    tf32: bool = False
    singly: bool = False
    vae_slicing: bool = True
    vae_tiling: bool = False
    split_guidance: bool = False
    attention_slicing: bool = False
    offload: Literal["none", "model", "sequential"] = "none"
    compile: bool = False

    @property
    def load_device(self) -> str:
        """Where the weights are to be loaded to."""
        return self.device if self.offload == "none" else "cpu"


def plan(device: Device, parameters: int, largest: int | None = None, /, **overrides: Any) -> Plan:
    """The plan for a model of so many parameters, `largest` of them in its largest part.

    overrides: fields of Plan, by name, that the user chose. Raises TypeError for a name that is none, and InvalidRequest for
    choices that cannot be had together, or not on this device.
    """
    precision = overrides.get("precision") or _precision(device, parameters)
    chosen = Plan(device.kind, precision)
    if not device.one_memory:
        fits = device.memory - GIB - WORKING
        part = (largest or parameters * LARGEST_PART) * BYTES[precision]
        offload = "none" if parameters * BYTES[precision] <= fits else "model" if part <= fits else "sequential"
        chosen = replace(chosen, offload=offload, channels_last=True, tf32=True, vae_slicing=device.memory < 12 * GIB)
        chosen = replace(chosen, vae_tiling=device.memory < 6 * GIB, split_guidance=device.memory < 4 * GIB)
    chosen = replace(chosen, **overrides)
    _check(device, chosen)
    return chosen


@dataclass(frozen=True)
class Kind:
    """A kind of model that people have. side: pixels of the pictures that it is made for; parameters: in all, and of its UNet."""

    architecture: str
    name: str
    side: int
    parameters: int
    largest: int


KINDS = (
    Kind("sd1", "SD 1.5", 512, 1_066_235_307, 859_520_964),
    Kind("sd2", "SD 2.1", 768, 1_289_952_427, 865_910_724),
    Kind("sdxl", "SDXL", 1024, 3_468_836_000, 2_567_463_684),
)


def largest_part(architecture: str, parameters: int) -> int | None:
    """How many of a checkpoint's parameters its UNet has, by its architecture; None for one that is not known."""
    return next((parameters * kind.largest // kind.parameters for kind in KINDS if kind.architecture == architecture), None)


def _precision(device: Device, parameters: int) -> Literal["fp32", "fp16", "bf16"]:
    if device.kind == "cpu":
        return "bf16" if parameters * 4 > 0.7 * device.memory else "fp32"
    return "fp16" if device.fp16 else "bf16" if device.bf16 else "fp32"


def _check(device: Device, chosen: Plan) -> None:
    if device.one_memory and chosen.offload != "none":
        raise InvalidRequest(
            f"Offloading moves networks out of a graphics card's own memory, and {device.name} has none. "
            "Leave the setting 'offload' out, or choose another device."
        )
    if chosen.compile and chosen.offload == "sequential":
        raise InvalidRequest(
            "A UNet whose layers are moved one by one cannot be compiled. "
            "Leave the setting 'compile' out, or set 'offload' to model."
        )


def doubts(device: Device, chosen: Plan) -> tuple[str, ...]:
    """What in a plan will hardly be what its owner wanted, in sentences."""
    found = {
        "fp16 is slow on a CPU. Leave the setting 'precision' out, and what suits it is chosen.":
            device.kind == "cpu" and chosen.precision == "fp16",
        f"{device.name} does not compute well in fp16: pictures may be black. Leave the setting 'precision' out.":
            device.kind == "cuda" and chosen.precision == "fp16" and not device.fp16,
        f"{device.name} has no bf16 of its own, which makes it slow. Leave the setting 'precision' out.":
            device.kind == "cuda" and chosen.precision == "bf16" and not device.bf16,
        f"The setting 'tf32' has no effect: {device.name} has no such numbers.":
            device.kind != "cuda" and chosen.tf32,
    }  # fmt: skip
    return tuple(sentence for sentence, true in found.items() if true)


def needs(chosen: Plan, parameters: int, largest: int | None = None) -> int:
    """Bytes that a model of so many parameters takes on the device while it makes a picture of usual size, roughly."""
    part = largest or parameters * LARGEST_PART
    there = {"none": parameters, "model": part, "sequential": part * LARGEST_LAYER}[chosen.offload]
    return int(there * BYTES[chosen.precision]) + WORKING


LARGEST_LAYER = 0.05
"""How much of a UNet its largest layer is."""


def fits(device: Device, chosen: Plan, parameters: int, largest: int | None = None) -> bool:
    """Whether there is enough memory for that, and a gigabyte for all else."""
    return needs(chosen, parameters, largest) <= device.memory - GIB


_LEVELS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"singly": True}, "one picture at a time"),
    ({"vae_slicing": True, "vae_tiling": True}, "the picture decoded in tiles"),
    ({"split_guidance": True}, "prompt and negative prompt one after another"),
    ({"attention_slicing": True}, "attention in slices"),
    ({"offload": "model"}, "only the network that works on the device"),
    ({"offload": "sequential", "compile": False}, "only the layer that works on the device"),
)
"""What is given up, in this order: each costs more time than the one before."""


def lower(used: Plan) -> tuple[Plan, str] | None:
    """The plan that takes less memory than this one, and in words what it does; None when there is none."""
    levels = _LEVELS if used.device not in ("cpu", "mps") else _LEVELS[:4]
    reached = {"none": 0, "model": 1, "sequential": 2}
    for changes, words in levels:
        less = replace(used, **changes)
        if less != used and reached[less.offload] >= reached[used.offload]:
            return less, words
    return None
