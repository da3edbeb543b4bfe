"""Puts into effect how a model is run (plans.Plan).

When memory runs out, `attempt` tries again one level lower, and says what it gave up. What is chosen, and why, is plans.py's.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from webui import devices
from webui.errors import OutOfMemory
from webui.imaging.plans import Plan, lower

if TYPE_CHECKING:
    from webui.imaging.load import Model

T = TypeVar("T")


def attempt(used: Plan, work: Callable[[Plan], T], say: Callable[[str], None]) -> tuple[T, Plan]:
    """What `work` gives, and the plan it succeeded with: each time that memory runs out it is done again, one level lower.

    Raises OutOfMemory when there is no lower one. Other errors pass.
    """
    while True:
        try:
            return work(used), used
        except Exception as error:
            if not devices.ran_out(error):
                raise
            less = lower(used)
            if less is None:
                raise OutOfMemory(_TOO_LARGE) from error
        # Outside of the except block: the error holds on to the tensors of the frames it came through.
        used, words = less
        _free()
        say(f"Memory ran out; it was tried again with {words}.")


_TOO_LARGE = "There is too little memory for this picture. Make it smaller, or choose a smaller model."


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
    compiled = [module for module in unet.modules() if module._compiled_call_impl is not None]
    if used.compile and not compiled:
        devices.check_compiler(used.device)
        unet.compile_repeated_blocks()
    if not used.compile:
        for module in compiled:
            module._compiled_call_impl = None
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
