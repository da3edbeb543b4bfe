"""How a model is run: chosen by what the machine has, overruled by who knows better, lowered when memory runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.checkpoints import networks, numbers
from webui.devices import GIB, Device, best, find, ran_out
from webui.errors import InvalidRequest, OutOfMemory
from webui.imaging.encode import Conditioner
from webui.imaging.latents import decode
from webui.imaging.load import no_memory
from webui.imaging.memory import applied, attempt
from webui.imaging.plans import KINDS, Kind, Plan, doubts, fits, lower, needs, plan

SD1, SDXL = 1_070_000_000, 3_470_000_000
"""Parameters."""


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    with tiny.calm():
        yield


def card(gigabytes: float, **abilities: bool) -> Device:
    return Device("cuda", "A card", int(gigabytes * GIB), **{"fp16": True, "bf16": True, **abilities})


def test_this_machine_is_known():
    found = best()
    assert found.kind in ("cuda", "mps", "cpu") and found.memory > GIB and found.name


def test_of_two_cards_each_is_known_by_its_own_abilities(monkeypatch: pytest.MonkeyPatch):
    cards = [SimpleNamespace(name=name, total_memory=8 * GIB) for name in ("NVIDIA GeForce RTX 3060", "NVIDIA GeForce GTX 1660")]
    now = [0]

    @contextmanager
    def on(number: int) -> Iterator[None]:
        now[0] = number
        yield

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: now[0] == 0)
    assert find("auto") == (Device("cuda", cards[0].name, 8 * GIB, True, True), "cuda")
    assert find("cuda:1") == (Device("cuda", cards[1].name, 8 * GIB, False, False), "cuda:1")


@pytest.mark.parametrize(
    ("device", "parameters", "expected"),
    [
        (card(24), SDXL, {"offload": "none", "precision": "fp16", "vae_tiling": False, "vae_slicing": False, "tf32": True}),
        (card(8), SDXL, {"offload": "sequential", "vae_slicing": True}),
        (card(9), SDXL, {"offload": "model"}),
        (card(8), SD1, {"offload": "none", "vae_tiling": False}),
        (card(4), SD1, {"offload": "sequential", "vae_tiling": True}),
        (card(3), SD1, {"offload": "sequential", "split_guidance": True}),
        (card(8, fp16=False), SD1, {"precision": "bf16"}),
        (card(8, fp16=False, bf16=False), SD1, {"precision": "fp32"}),
        (Device("cpu", "CPU", 16 * GIB), SD1, {"precision": "fp32", "offload": "none", "channels_last": False}),
        (Device("cpu", "CPU", 16 * GIB), SDXL, {"precision": "bf16"}),
        (Device("mps", "Apple GPU", 16 * GIB, fp16=True), SD1, {"precision": "fp16", "offload": "none"}),
    ],
)
def test_a_plan_follows_from_what_there_is(device: Device, parameters: int, expected: dict[str, Any]):
    chosen = plan(device, parameters)
    assert {name: getattr(chosen, name) for name in expected} == expected


def test_every_part_of_a_plan_can_be_overruled():
    for name, value in vars(Plan("cuda", "fp32", True, True, True, False, True, True, True, "model", True)).items():
        assert getattr(plan(card(24), SD1, **{name: value}), name) == value
    assert plan(card(6), SDXL, precision="fp32").offload == "sequential", "what follows from it is chosen anew"
    with pytest.raises(TypeError):
        plan(card(24), SD1, speed="high")


CPU = Device("cpu", "CPU", 16 * GIB)


@pytest.mark.parametrize(
    ("device", "wanted", "told"),
    [
        (CPU, {"offload": "model"}, "offload"),
        (Device("mps", "Apple GPU", 16 * GIB), {"offload": "sequential"}, "offload"),
        (card(24), {"offload": "sequential", "compile": True}, "compile"),
        (card(4), {"compile": True}, "compile"),
    ],
)
def test_what_cannot_be_had_together_is_refused(device: Device, wanted: dict[str, Any], told: str):
    with pytest.raises(InvalidRequest, match=f"setting '{told}'"):
        plan(device, SD1, **wanted)


@pytest.mark.parametrize(
    ("device", "wanted", "told"),
    [
        (CPU, {"precision": "fp16"}, "slow on a CPU"),
        (card(6, fp16=False), {"precision": "fp16"}, "black"),
        (card(6, bf16=False), {"precision": "bf16"}, "slow"),
        (CPU, {"tf32": True}, "no effect"),
    ],
)
def test_what_will_hardly_be_wanted_is_said(device: Device, wanted: dict[str, Any], told: str):
    (sentence,) = doubts(device, plan(device, SD1, **wanted))
    assert told in sentence and "setting" in sentence
    assert doubts(device, plan(device, SD1)) == ()


def test_what_is_chosen_for_a_device_fits_into_it_when_anything_does():
    for kind in KINDS:
        for gigabytes in (4, 6, 8, 12, 24):
            chosen = plan(card(gigabytes), kind.parameters, kind.largest)
            assert fits(card(gigabytes), chosen, kind.parameters, kind.largest), (kind, gigabytes)
    assert not fits(Device("cpu", "CPU", 4 * GIB), plan(Device("cpu", "CPU", 4 * GIB), SDXL), SDXL)
    assert needs(plan(card(24), SDXL), SDXL) > 2 * SDXL


@pytest.mark.parametrize("kind", KINDS)
def test_known_kinds_are_as_large_as_their_networks(kind: Kind):
    with no_memory():
        made = networks(numbers(kind.architecture, full=True))
    sizes = {name: sum(tensor.numel() for tensor in network.parameters()) for name, network in made.items()}
    assert sum(sizes.values()) == pytest.approx(kind.parameters, rel=0.01) and sizes["unet"] == kind.largest


def test_weights_are_loaded_where_they_will_be():
    assert Plan("cuda").load_device == "cuda" and Plan("cuda", offload="model").load_device == "cpu"


def test_each_level_gives_up_one_thing_more_and_the_last_has_none_below():
    reached, words = Plan("cuda", vae_slicing=False, compile=True), []
    while less := lower(reached):
        assert less[0] != reached
        reached = less[0]
        words.append(less[1])
    lowest = {"singly": True, "vae_tiling": True, "split_guidance": True, "attention_slicing": True, "offload": "sequential"}
    assert reached == replace(Plan("cuda"), **lowest)
    assert len(words) == len(set(words)) == 6


def test_what_has_been_given_up_is_not_taken_back():
    used = Plan("cuda", offload="sequential")
    while less := lower(used):
        used = less[0]
        assert used.offload == "sequential"


def test_a_machine_with_one_memory_does_not_offload():
    used = Plan("cpu")
    while less := lower(used):
        used = less[0]
    assert used.offload == "none" and used.attention_slicing


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
        RuntimeError("MPS backend out of memory (MPS allocated: 18 GB)"),
    ],
)
def test_lack_of_memory_is_known_on_every_device(error: Exception):
    assert ran_out(error) and not ran_out(RuntimeError("shapes do not match")) and not ran_out(ValueError("out of memory"))


def test_torch_really_says_so_when_there_is_too_little():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert ran_out(caught.value)


def test_an_attempt_is_made_again_one_level_lower_until_it_succeeds():
    tried, said = [], []

    def work(used: Plan) -> str:
        tried.append(used)
        if not used.vae_tiling:
            raise torch.OutOfMemoryError
        return "done"

    result, used = attempt(Plan(), work, said.append)
    assert result == "done" and used.vae_tiling and [one.vae_tiling for one in tried] == [False, False, True]
    assert len(said) == 2 and "tiles" in said[1]


def test_without_a_lower_level_the_user_is_told_what_to_do():
    def work(_used: Plan) -> None:
        raise MemoryError

    with pytest.raises(OutOfMemory, match="smaller"):
        attempt(Plan(), work, lambda _words: None)


def test_other_errors_pass():
    def work(_used: Plan) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        attempt(Plan(), work, lambda _words: None)


def test_a_plan_is_in_effect_inside_and_gone_outside():
    model = tiny.model()
    kinds = {type(one) for one in model.unet.attn_processors.values()}
    used = Plan(vae_tiling=True, attention_slicing=True, tf32=True)
    with applied(used, model):
        assert model.vae.use_tiling and model.vae.use_slicing and torch.backends.cuda.matmul.allow_tf32
        assert {type(one).__name__ for one in model.unet.attn_processors.values()} == {"SlicedAttnProcessor"}
    assert not model.vae.use_tiling and not torch.backends.cuda.matmul.allow_tf32
    assert {type(one) for one in model.unet.attn_processors.values()} == kinds


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_an_offloaded_model_does_the_same_and_is_whole_afterwards(offload: Any):
    model = tiny.model()

    def made() -> list[np.ndarray]:
        told = Conditioner(model).encode(["a cat"]).hidden
        with torch.no_grad():
            answer = model.unet(torch.ones(1, 4, 8, 8), 500, told, return_dict=False)[0]
        return [told.numpy(), answer.numpy(), decode(model.vae, answer)]

    plain = made()
    weights = {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}
    with applied(Plan(offload=offload), model):
        parameter = next(model.unet.parameters())
        assert parameter.is_meta == (offload == "sequential")
        offloaded = made()
    assert all(np.array_equal(one, other) for one, other in zip(plain, offloaded, strict=True))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.unet.state_dict().items())
    assert not hasattr(model.unet, "_hf_hook")


def test_a_vae_in_half_precision_that_overflows_is_run_in_single():
    model = tiny.model()
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = decode(model.vae, latents)
    vae = model.vae.to(torch.bfloat16)
    vae.config.force_upcast = False
    first = vae.post_quant_conv.forward
    vae.post_quant_conv.forward = lambda given: first(given) * (torch.nan if given.dtype == torch.bfloat16 else 1)
    found = decode(vae, latents)
    assert vae.dtype == torch.bfloat16 and np.abs(found.astype(int) - expected).max() <= 6
