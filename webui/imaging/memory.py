"""How a model is run on what the machine has: precision, memory formats, tiles, slices, offloading.

It is chosen by facts, and each part of it can be overruled. When memory runs out, `attempt` tries again one level lower, and says
what it gave up. Nothing here changes what a picture shows but `vae_tiling`, and that can hardly be seen.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

from webui.errors import OutOfMemory

if TYPE_CHECKING:
    from webui.imaging.load import Model

GIB = 2**30
T = TypeVar("T")


@dataclass(frozen=True)
class Device:
    """What there is to compute with. kind: "cuda" (AMD's cards, too), "mps" or "cpu".

    memory: bytes of the card, or of the machine where both are one. fp16, bf16: whether it computes in these well.
    """

    kind: str
    name: str
    memory: int
    fp16: bool = False
    bf16: bool = False


def look() -> Device:
    """The best device of this machine."""
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        # NVIDIA's GTX 16 cards give numbers that are none in fp16 (A1111's modules/devices.py).
        fp16 = "GTX 16" not in card.name
        return Device("cuda", card.name, card.total_memory, fp16, torch.cuda.is_bf16_supported())
    import psutil

    memory = psutil.virtual_memory().total
    if torch.backends.mps.is_available():
        return Device("mps", "Apple GPU", memory, fp16=True)
    return Device("cpu", "CPU", memory)


@dataclass(frozen=True)
class Plan:
    """How a model is run. device, precision: for load. The rest is put into effect by `applied`.

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


WORKING = 2 * GIB
"""Memory that a picture of usual size takes beside the weights."""


def plan(device: Device, parameters: int, largest: int | None = None, /, **overrides: Any) -> Plan:
    """The plan for a model of so many parameters, `largest` of them in its largest part (four fifths, when it is not known).

    overrides: fields of Plan, by name, that the user chose. Raises TypeError for a name that is none.
    """
    precision = overrides.get("precision") or _precision(device, parameters)
    size = parameters * (4 if precision == "fp32" else 2)
    chosen = Plan(device.kind, precision)
    if device.kind == "cuda":
        part = size * (largest or parameters * 0.8) / parameters
        fits = device.memory - GIB - WORKING
        offload = "none" if size <= fits else "model" if part <= fits else "sequential"
        chosen = replace(chosen, offload=offload, channels_last=True, tf32=True, vae_slicing=device.memory < 12 * GIB)
        chosen = replace(chosen, vae_tiling=device.memory < 6 * GIB, split_guidance=device.memory < 4 * GIB)
    return replace(chosen, **overrides)


def _precision(device: Device, parameters: int) -> Literal["fp32", "fp16", "bf16"]:
    if device.kind == "cpu":
        return "bf16" if parameters * 4 > 0.7 * device.memory else "fp32"
    return "fp16" if device.fp16 else "bf16" if device.bf16 else "fp32"


_LEVELS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"singly": True}, "one picture at a time"),
    ({"vae_slicing": True, "vae_tiling": True}, "the picture decoded in tiles"),
    ({"split_guidance": True}, "prompt and negative prompt one after another"),
    ({"attention_slicing": True}, "attention in slices"),
    ({"offload": "model"}, "only the network that works on the device"),
    ({"offload": "sequential"}, "only the layer that works on the device"),
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


def attempt(used: Plan, work: Callable[[Plan], T], say: Callable[[str], None]) -> tuple[T, Plan]:
    """What `work` gives, and the plan it succeeded with: each time that memory runs out it is done again, one level lower.

    Raises OutOfMemory when there is no lower one. Other errors pass.
    """
    while True:
        try:
            return work(used), used
        except Exception as error:
            if not ran_out(error):
                raise
            less = lower(used)
            if less is None:
                raise OutOfMemory(_TOO_LARGE) from error
        # Outside of the except block: the error holds on to the tensors of the frames it came through.
        used, words = less
        _free()
        say(f"Memory ran out; it was tried again with {words}.")


_TOO_LARGE = "There is too little memory for this picture. Make it smaller, or choose a smaller model."
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


def ran_out(error: BaseException) -> bool:
    """Whether it means that memory ran out, on any device."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or (isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS))


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


@contextmanager
def applied(used: Plan, model: Model) -> Iterator[None]:
    """Inside, the model is run by the plan; outside, it is as it was, but for its memory format and what was compiled."""
    with ExitStack() as stack:
        _shape(used, model.unet)
        stack.enter_context(_tf32(used))
        stack.enter_context(_vae(used, model.vae))
        stack.enter_context(_attention(used, model.unet))
        stack.enter_context(_offloaded(used, model))
        yield


def _shape(used: Plan, unet: Any) -> None:
    compiled = any(module._compiled_call_impl is not None for module in unet.modules())
    if used.compile and not compiled:
        unet.compile_repeated_blocks()
    if used.channels_last:
        unet.to(memory_format=torch.channels_last)


@contextmanager
def _tf32(used: Plan) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = used.tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextmanager
def _vae(used: Plan, vae: Any) -> Iterator[None]:
    before = vae.use_slicing, vae.use_tiling
    vae.use_slicing, vae.use_tiling = used.vae_slicing, used.vae_tiling
    try:
        yield
    finally:
        vae.use_slicing, vae.use_tiling = before


@contextmanager
def _attention(used: Plan, unet: Any) -> Iterator[None]:
    before = unet.attn_processors
    if used.attention_slicing:
        unet.set_attention_slice("auto")
    try:
        yield
    finally:
        if used.attention_slicing:
            unet.set_attn_processor(before)


@contextmanager
def _offloaded(used: Plan, model: Model) -> Iterator[None]:
    """accelerate's hooks on the networks, in the order in which they work. The VAE stays whole: it is small, and may be cast."""
    networks = [*model.text_encoders, model.unet, model.vae]
    if used.offload == "none":
        for network in networks:
            network.to(used.device)
        yield
        return
    from accelerate import cpu_offload, cpu_offload_with_hook
    from accelerate.hooks import remove_hook_from_module

    device = torch.device(used.device)
    for network in networks:
        network.to("cpu")
    previous = None
    try:
        for network in networks:
            if network is model.unet and used.offload == "sequential":
                cpu_offload(network, device, offload_buffers=True)
            else:
                _, previous = cpu_offload_with_hook(network, device, prev_module_hook=previous)
        yield
    finally:
        for network in networks:
            remove_hook_from_module(network, recurse=True)
            network.to("cpu")
