"""Recognises what a weights file is by the names and shapes of its tensors, never by the name of the file.

RECOGNISERS are asked in order, and the first that knows the file wins; each is one short function. Nothing is loaded here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from webui.weights.files import Header
from webui.weights.layouts import bare, scale

FOLDERS = {
    "checkpoint": "Stable-diffusion", "vae": "VAE", "lora": "Lora", "embedding": "embeddings", "upscaler": "ESRGAN",
    "controlnet": "ControlNet", "restorer": "GFPGAN",
}  # fmt: skip
"""The folder in models/ for each kind of weights, as A1111 names them."""

RUNNABLE = ("sd1", "sd2", "sdxl")
"""Architectures of checkpoints and VAEs that this version runs."""

NAMES = {
    "sd1": "SD 1.x", "sd2": "SD 2.x", "sdxl": "SDXL", "sdxl-refiner": "SDXL refiner", "sd3": "SD 3", "flux": "Flux",
    "instruct-pix2pix": "instruct-pix2pix", "depth": "depth-to-image", "x4-upscaler": "SD x4 upscaler",
    "gfpgan": "GFPGAN", "restoreformer": "RestoreFormer", "codeformer": "CodeFormer",
}  # fmt: skip
"""Architectures as people write them."""

KINDS = {
    "checkpoint": "a checkpoint", "vae": "a VAE", "lora": "a LoRA", "embedding": "an embedding", "upscaler": "an upscaler",
    "controlnet": "a ControlNet", "restorer": "a face restorer", "face-tool": "a finder or parser of faces",
}  # fmt: skip
"""Kinds in words. A face-tool has no folder: other programs keep theirs beside their restorers, and nothing here needs it."""

PARTS = {
    "unet": ("model.diffusion_model.input_blocks.0.0.", "conv_in."),
    "vae": ("first_stage_model.decoder.conv_in.", "vae.decoder.conv_in."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
"""How the names of a part's tensors begin in a single file."""


@dataclass(frozen=True)
class Found:
    """What a file of weights is.

    kind:         a key of KINDS, or "unknown".
    architecture: a key of NAMES; "" where files of several have the same shapes, as VAEs do.
    inpaint:      its UNet takes 9 channels: latents, mask, and the latents of what is around the mask.
    prediction:   "epsilon" or "v_prediction"; None when the file does not say and both exist (SD 2.x).
    zero_snr:     it was trained down to pure noise (zero terminal SNR).
    dtype:        the kind of most of its numbers, as safetensors names them.
    bytes:        size of its tensors.
    parts:        which parts of a checkpoint are there, by diffusers' names.
    scale:        how many times larger an upscaler makes a picture; 0 where the shapes do not tell.
    """

    kind: str
    architecture: str = ""
    inpaint: bool = False
    prediction: str | None = "epsilon"
    zero_snr: bool = False
    dtype: str = ""
    bytes: int = 0
    parts: tuple[str, ...] = ()
    scale: int = 0

    @property
    def title(self) -> str:
        """In words: "a LoRA (SDXL)"."""
        if self.kind not in KINDS:
            return "of no kind that is known here"
        name = NAMES.get(self.architecture, "") + (" inpainting" if self.inpaint else "")
        return f"{KINDS[self.kind]} ({name})" if name else KINDS[self.kind]


Recogniser = Callable[[Header], "Found | None"]


class Registry:
    """Recognisers in the order in which they are asked."""

    def __init__(self) -> None:
        self._recognisers: list[Recogniser] = []

    def add(self, *recognisers: Recogniser) -> None:
        """All of them or, when one is there already, none: then ValueError."""
        if len({*self._recognisers, *recognisers}) < len(self._recognisers) + len(recognisers):
            raise ValueError("a recogniser is registered twice")
        self._recognisers += recognisers

    def __iter__(self) -> Iterator[Recogniser]:
        return iter(self._recognisers)


def detect(header: Header) -> Found:
    """What the file with this header is; kind "unknown" when nobody recognises it."""
    found = next((found for recognise in RECOGNISERS if (found := recognise(header))), Found("unknown"))
    return replace(found, dtype=_dtype(header), bytes=header.bytes)


def wrong(found: Found, wanted: str, name: str) -> str:
    """Why a file cannot be used as `wanted` (a key of FOLDERS), in a sentence with what to do; "" when it can."""
    if found.kind == "unknown":
        kind = KINDS[wanted].partition(" ")[2]
        return f"{name} is {found.title}. The folder {FOLDERS[wanted]} is for {kind}s: look for another version of it."
    if found.kind not in FOLDERS:
        return f"{name} is {found.title}. Other programs need it; here nothing does, and it does no harm."
    if found.kind != wanted:
        return f"{name} is {found.title}, not {KINDS[wanted]}. Move it into models/{FOLDERS[found.kind]}."
    if found.kind == "restorer":
        better = "This version runs GFPGAN 1.3 and 1.4, RestoreFormer and CodeFormer: choose one of those."
        return "" if found.architecture else f"{name} is {found.title} of another make. {better}"
    if found.architecture and found.architecture not in RUNNABLE:
        return f"{name} is {found.title}. This version runs SD 1.x, SD 2.x and SDXL: choose one of those."
    return ""


def _dtype(header: Header) -> str:
    """The kind of numbers that takes most of the file."""
    weight: Counter[str] = Counter()
    for fact in header.facts.values():
        weight[fact.dtype] += fact.bytes
    return weight.most_common(1)[0][0] if weight else ""


def _has(header: Iterable[str], *beginnings: str) -> bool:
    return any(name.startswith(beginnings) for name in header)


def _width(header: Header, *endings: str) -> int | None:
    """Last side of the first tensor whose name ends so: for layers that read the prompt, the width of its embedding."""
    return next((header[name].shape[-1] for name in header if name.endswith(endings) and header[name].shape), None)


_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl-refiner"}
"""Width of the prompt's embedding in the cross attention -> architecture."""

_UNET = "model.diffusion_model."
_CONV_IN = ("model.diffusion_model.input_blocks.0.0.weight", "conv_in.weight")
_OTHER_INPUTS = {5: "depth", 7: "x4-upscaler", 8: "instruct-pix2pix"}
"""UNets of SD's shape that take other channels than 4 (latents) or 9 (inpainting)."""


def _checkpoint(header: Header, architecture: str) -> Found | None:
    """A checkpoint of this architecture, or of a relative that takes other inputs."""
    conv_in = next((header[name] for name in _CONV_IN if name in header), None)
    if conv_in is None or len(conv_in.shape) != 4:
        return None
    channels = conv_in.shape[1]
    if channels not in (4, 9):
        return Found("checkpoint", _OTHER_INPUTS[channels]) if channels in _OTHER_INPUTS else None
    prediction, zero_snr = _prediction(header, architecture, channels == 9)
    parts = tuple(part for part, beginnings in PARTS.items() if _has(header, *beginnings))
    return Found("checkpoint", architecture, channels == 9, prediction, zero_snr, parts=parts)


def _prediction(header: Header, architecture: str, inpaint: bool) -> tuple[str | None, bool]:
    """What the UNet predicts, by the marks that trainers leave: empty tensors of that name, or Stability's modelspec."""
    zero_snr = "ztsnr" in header
    written = header.metadata.get("modelspec.prediction_type", "")
    if "v_pred" in header or written.startswith("v"):
        return "v_prediction", zero_snr
    unsaid = architecture == "sd2" and not inpaint and not written
    return (None if unsaid else "epsilon"), zero_snr


def sdxl(header: Header) -> Found | None:
    by_encoders = _has(header, "conditioner.embedders.1.")
    return _checkpoint(header, "sdxl") if _has(header, _UNET) and (by_encoders or _prompt_width(header) == 2048) else None


def sdxl_refiner(header: Header) -> Found | None:
    by_encoder = _has(header, "conditioner.embedders.0.model.")
    return _checkpoint(header, "sdxl-refiner") if _has(header, _UNET) and (by_encoder or _prompt_width(header) == 1280) else None


def sd2(header: Header) -> Found | None:
    by_encoder = _has(header, "cond_stage_model.model.")
    return _checkpoint(header, "sd2") if _has(header, _UNET) and (by_encoder or _prompt_width(header) == 1024) else None


def sd1(header: Header) -> Found | None:
    by_encoder = _has(header, "cond_stage_model.transformer.")
    return _checkpoint(header, "sd1") if _has(header, _UNET) and (by_encoder or _prompt_width(header) == 768) else None


def diffusers_unet(header: Header) -> Found | None:
    """The UNet alone, as it lies in a diffusers folder."""
    if not _has(header, "down_blocks.0.resnets.") or "conv_in.weight" not in header or "conv_norm_out.weight" not in header:
        return None
    architecture = _WIDTHS.get(_prompt_width(header) or 0)
    return _checkpoint(header, architecture) if architecture else None


def sd3(header: Header) -> Found | None:
    return Found("checkpoint", "sd3") if _has(header, "joint_blocks.", "model.diffusion_model.joint_blocks.") else None


def flux(header: Header) -> Found | None:
    return Found("checkpoint", "flux") if _has(header, "double_blocks.", "model.diffusion_model.double_blocks.") else None


def _prompt_width(header: Header) -> int | None:
    return _width(header, "attn2.to_k.weight")


_CONTROLNETS = (
    "control_model.",
    "controlnet_cond_embedding.",
    "input_hint_block.",
    "lora_controlnet",
    "adapter.body.",
    "controlnet_down_blocks.",
)


def controlnet(header: Header) -> Found | None:
    if not _has(header, *_CONTROLNETS):
        return None
    return Found("controlnet", _WIDTHS.get(_prompt_width(header) or 0, ""))


_LORAS = (
    ".lora_down.weight", ".lora_up.weight", ".lora_A.weight", ".lora_B.weight", ".lora.down.weight", ".lora.up.weight",
    ".hada_w1_a", ".hada_w2_a", ".lokr_w1", ".lokr_w2", ".lokr_w1_a", ".lokr_w2_a", ".oft_blocks", ".oft_diag", ".dora_scale",
)  # fmt: skip
_LORA_READERS = ("attn2_to_k", "attn2.to_k", "attn2.processor.to_k")
_LORA_DOWN = (".lora_down.weight", ".lora_A.weight", ".lora.down.weight", ".hada_w1_b", "_lora.down.weight")


def lora(header: Header) -> Found | None:
    """LoRA, LoCon, LoHa, LoKr, OFT: changes to the layers of a checkpoint, in kohya's, peft's or diffusers' names."""
    if not any(name.endswith((*_LORAS, "_lora.down.weight", "_lora.up.weight")) for name in header):
        return None
    if _has(header, "lora_te2_", "text_encoder_2."):
        return Found("lora", "sdxl")
    readers = (n for n in header if any(reader in n for reader in _LORA_READERS) and n.endswith(_LORA_DOWN))
    width = next((header[name].shape[1] for name in readers if len(header[name].shape) >= 2), 0)
    by_encoder = next(
        (header[n].shape[1] for n in header if n.startswith("lora_te_") and n.endswith("q_proj.lora_down.weight")), 0
    )
    if _has(header, "transformer.single_transformer_blocks.", "lora_unet_double_blocks_"):
        return Found("lora", "flux")
    return Found("lora", _WIDTHS.get(width or by_encoder, ""))


def embedding(header: Header) -> Found | None:
    """Textual inversion: A1111's `string_to_param`, `emb_params`, SDXL's pair, or diffusers' single `<token>`."""
    if "clip_g" in header and "clip_l" in header:
        return Found("embedding", "sdxl")
    vectors = [name for name in header if name.startswith("string_to_param.") or name == "emb_params"]
    if not vectors and len(header) == 1:
        vectors = [name for name in header if len(header[name].shape) in (1, 2) and header[name].shape[-1] in _WIDTHS]
    if not vectors:
        return None
    architecture = _WIDTHS.get(header[vectors[0]].shape[-1], "") if header[vectors[0]].shape else ""
    return Found("embedding", architecture)


_VAE_BODY = ("decoder.up.", "decoder.up_blocks.")


def vae(header: Header) -> Found | None:
    """An autoencoder alone, in the names of LDM or diffusers, with or without the prefix it has in a checkpoint."""
    for prefix in ("", "first_stage_model.", "vae."):
        conv_in = header.facts.get(f"{prefix}decoder.conv_in.weight")
        if conv_in is not None and len(conv_in.shape) == 4 and _has(header, *(prefix + body for body in _VAE_BODY)):
            return Found("vae", "" if conv_in.shape[1] == 4 else "sd3", parts=("vae",))
    return None


_GFPGAN = {"stylegan_decoder.style_mlp.1.weight", "conv_body_first.weight", "toRGB.0.weight"}
_RESTOREFORMER = {"quantize.embedding.weight", "quant_conv.weight", "encoder.conv_in.weight", "decoder.conv_out.weight"}
_CODEFORMER = {"quantize.embedding.weight", "position_emb", "encoder.blocks.0.weight", "generator.blocks.0.weight"}


def restorer(header: Header) -> Found | None:
    """GFPGAN's later networks (1.2 to 1.4, without CUDA code of their own), RestoreFormer, CodeFormer."""
    names = bare(header)
    if names.keys() >= _GFPGAN:
        return Found("restorer", "gfpgan")
    if names.keys() >= _CODEFORMER:
        return Found("restorer", "codeformer")
    # Other autoencoders with a codebook have one norm in their attention, not one for each of the two that are compared.
    if names.keys() >= _RESTOREFORMER and any(name.endswith(("attn_1.norm2.weight", "attn.0.norm2.weight")) for name in names):
        return Found("restorer", "restoreformer")
    return Found("restorer") if _has(names, "stylegan_decoder.", "fuse_convs_dict.") else None


_FACE_TOOLS = ("ClassHead.0.conv1x1.", "out_mask_conv.", "conv_out16.conv_out.", "ffm.convblk.")


def face_tool(header: Header) -> Found | None:
    """RetinaFace, ParseNet and BiSeNet, which facexlib leaves beside restorers."""
    return Found("face-tool") if _has(bare(header), *_FACE_TOOLS) else None


_UPSCALERS = (
    "model.1.sub.0.RDB1.", "model.1.sub.0.rdb1.", "body.0.rdb1.", "RRDB_trunk.0.RDB1.", "layers.0.residual_group.blocks.",
    "body.0.weight", "layers.0.blocks.0.", "upsampler.", "m_body.0.",
)  # fmt: skip


def upscaler(header: Header) -> Found | None:
    """ESRGAN in its old and new names, Real-ESRGAN's compact networks, SwinIR, HAT, DAT and SCUNet, with spandrel's keys."""
    names = bare(header)
    if not _has(names, *_UPSCALERS):
        return None
    return Found("upscaler", scale=scale({name: header[inside].shape for name, inside in names.items()}))


RECOGNISERS = Registry()
# A ControlNet file may have a whole checkpoint in it, and a restorer a VAE's names: the special come before the general.
RECOGNISERS.add(
    controlnet, lora, sdxl, sdxl_refiner, sd2, sd1, sd3, flux, diffusers_unet, restorer, face_tool, vae, embedding, upscaler
)
