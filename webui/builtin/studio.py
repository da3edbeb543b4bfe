"""What a worker process makes pictures with: the models it has, those that are loaded, and the device they run on.

A job chooses once (`choose`) and leases what it chose as often as it is run (`leased`). Nothing is exchanged silently: what was
chosen is said, and what is not there any more is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webui import devices
from webui.imaging import plans, preview, safety
from webui.imaging.load import Model, Rest, load_part, load_rest
from webui.imaging.plans import Plan
from webui.imaging.requests import PictureRequest
from webui.imaging.safety import Checker
from webui.plugin_api import ModelMissing, OutOfMemory, UnsupportedModel
from webui.weights.cache import Cache
from webui.weights.catalog import Catalog, Entry, shared

if TYPE_CHECKING:
    from webui.plugin_api import Settings

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Of a number, by safetensors' name for its kind."""


@dataclass(frozen=True)
class Means:
    """What a job makes its pictures with. Chosen once, so that a job which goes on after a restart does not change in its middle.

    model, vae: names in the catalogue. model_hash, vae_hash: sha256. vae: None for the checkpoint's own.
    vae_reason: why this VAE, in words. longest_side: pixels that pictures are read at, at most.
    """

    model: str
    model_hash: str
    vae: str | None
    vae_hash: str | None
    vae_reason: str
    precision: str
    longest_side: int


def choose(settings: Settings, request: PictureRequest) -> Means:
    """What the request is to be made with.

    Raises ModelMissing, UnsupportedModel for a file that is broken or of another kind, InvalidRequest for a missing device.
    """
    known = catalog(settings)
    entry = known.hashed(_sound(known.find(request.model) if request.model else _default(known)))
    vae, reason = _vae(known, entry, request.vae)
    vae = vae and known.hashed(_sound(vae))
    device, _ = devices.find(settings.device)
    return Means(
        model=entry.name,
        model_hash=entry.hash or "",
        vae=vae and vae.name,
        vae_hash=vae and vae.hash,
        vae_reason=reason,
        precision=_plan(device, entry, settings.plan_overrides).precision,
        longest_side=settings.longest_side,
    )


@contextmanager
def leased(settings: Settings, means: Means, say: Callable[[str], None]) -> Iterator[tuple[Model, Plan]]:
    """The model and how it is to be run. It stays in memory until the block ends, and after that as long as there is room.

    say: told when there is less memory than was planned with, so that it is run another way.
    Raises ModelMissing when the files are not those that were chosen, and what load.load raises.
    """
    entry, vae = _found(settings, means)
    device, where = devices.find(settings.device)
    plan = _plan(device, entry, settings.plan_overrides | {"precision": means.precision, "device": where})
    with ExitStack() as stack:
        try:
            model = _taken(stack, settings, (entry, vae), plan, devices.models(where))
        except OutOfMemory:
            if device.one_memory or plan.offload != "none":
                raise
            model = None
        # Outside of the except block, as in memory.attempt.
        if model is None:
            plan = replace(plan, offload="model")
            devices.models(where).unload()
            say(LESS)
            model = _taken(stack, settings, (entry, vae), plan, devices.models(where))
        yield model, plan


LESS = "The graphics card has less memory free than planned with: each network is on it only while it works, which is slower."


def _taken(stack: ExitStack, settings: Settings, chosen: tuple[Entry, Entry | None], plan: Plan, held: Cache) -> Model:
    """The model, leased until the stack ends."""
    entry, vae = chosen
    options: dict[str, Any] = {
        "precision": plan.precision, "device": plan.load_device, "allow_pickles": settings.allow_pickles,
    }  # fmt: skip

    def rest() -> tuple[Rest, int]:
        loaded = load_rest(entry, **options)
        return loaded, loaded.size

    def decoder() -> tuple[Any, int]:
        loaded = load_part(vae or entry, "vae", architecture=entry.found.architecture, **options)
        return loaded, plans.BYTES[plan.precision] * sum(tensor.numel() for tensor in loaded.parameters())

    wanted = [_key(one, part, plan) for one, part in ((entry, "rest"), (vae or entry, "vae"))]
    expects = _parameters(entry) * plans.BYTES[plan.precision]
    with ExitStack() as both:
        model = both.enter_context(held.lease(wanted[0], rest, expects=expects))
        whole = model.with_vae(both.enter_context(held.lease(wanted[1], decoder)))
        stack.enter_context(both.pop_all())
    return whole


@contextmanager
def checker(settings: Settings) -> Iterator[Checker | None]:
    """The safety checker, where its weights are and it is wanted. Raises UnsupportedModel when they are broken."""
    folder = settings.models_dir / safety.FOLDER
    if not settings.nsfw_filter or not folder.is_dir():
        yield None
        return

    def read() -> tuple[Checker, int]:
        found = safety.load(folder)
        return found, found.bytes

    with devices.models("cpu").lease(devices.Key(safety.FOLDER, "cpu", (str(folder),)), read) as found:
        yield found


def _key(entry: Entry, part: str, plan: Plan) -> devices.Key:
    """part: a checkpoint without its VAE ("rest"), or a VAE, so that another VAE costs no second copy of the rest."""
    return devices.Key(entry.name, plan.load_device, (str(entry.path), entry.hash, part, plan.precision))


def own_preview(settings: Settings, means: Means) -> preview.Linear | None:
    """The quick look at latents that comes with the model, as long as it is used with its own VAE."""
    return None if means.vae else preview.shipped(catalog(settings).find(means.model).path)


def doubts(settings: Settings, plan: Plan) -> tuple[str, ...]:
    """What of the settings will hardly be what their owner wanted."""
    return plans.doubts(devices.find(settings.device)[0], plan)


def warm_up() -> None:
    """Import what the first picture needs: most of the time that it takes longer than the second. No model is loaded, because
    nobody has said yet which, and one can take most of the memory."""
    from accelerate import init_empty_weights  # noqa: F401
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: F401
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    from webui.builtin import draw  # noqa: F401


def catalog(settings: Settings) -> Catalog:
    """The models of this studio."""
    return shared(settings.models_dir, settings.allow_pickles)


def _default(known: Catalog) -> Entry:
    """The catalogue's; when all that is there is unusable, why."""
    try:
        return known.default()
    except ModelMissing:
        broken = known.checkpoints()
        if not broken:
            raise
        raise UnsupportedModel(broken[0].problem) from None


def _vae(known: Catalog, entry: Entry, wanted: str | None) -> tuple[Entry | None, str]:
    """The VAE to use instead of the checkpoint's own, if any, and why."""
    if wanted:
        return known.find_vae(wanted), "asked for"
    beside = f"{Path(entry.stem).name}.vae."
    for vae in known.vaes():
        if vae.path.parent == entry.path.parent and vae.path.name.startswith(beside):
            return vae, "it lies beside the checkpoint"
    return None, "the checkpoint's own"


def _found(settings: Settings, means: Means) -> tuple[Entry, Entry | None]:
    known = catalog(settings)
    entry = known.hashed(_sound(known.find(means.model)))
    vae = known.hashed(_sound(known.find_vae(means.vae))) if means.vae else None
    if (entry.hash, vae and vae.hash) != (means.model_hash, means.vae_hash):
        raise ModelMissing("The model that this job was begun with was replaced meanwhile. Start it again.")
    return entry, vae


def _sound(entry: Entry) -> Entry:
    """The entry. Raises UnsupportedModel when it has a problem, before anything is read of it."""
    if entry.problem:
        raise UnsupportedModel(entry.problem)
    return entry


def _plan(device: devices.Device, entry: Entry, overrides: dict[str, Any]) -> Plan:
    parameters = _parameters(entry)
    return plans.plan(device, parameters, plans.largest_part(entry.found.architecture, parameters), **overrides)


def _parameters(entry: Entry) -> int:
    return max(1, entry.found.bytes // _BYTES.get(entry.found.dtype, 4))
