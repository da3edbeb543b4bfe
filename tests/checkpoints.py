"""Random checkpoints of every architecture, tiny or of full size, as single files in A1111's manner and as diffusers folders.

The names of single files are made here from diffusers' own, the other way round than the product, so that the two check each
other.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from webui.imaging.load import CONFIGS, no_memory
from webui.imaging.origins import clip_tokenizer

ARCHITECTURES = ("sd1", "sd2", "sdxl")

_TINY_UNET = {"block_out_channels": [32, 64], "norm_num_groups": 8, "layers_per_block": 2, "sample_size": 8}
_TINY_TEXT = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_DOWN, _CROSS_DOWN, _CROSS_UP, _UP = "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"
_TINY: dict[str, dict[str, dict[str, Any]]] = {
    "sd1": {
        "unet": {"attention_head_dim": 2, "cross_attention_dim": 8, "down_block_types": [_CROSS_DOWN, _DOWN]}
        | {"up_block_types": [_UP, _CROSS_UP]},
        "text_encoder": {"hidden_size": 8, "projection_dim": 8},
    },
    "sd2": {
        "unet": {"attention_head_dim": [2, 4], "cross_attention_dim": 16, "down_block_types": [_CROSS_DOWN, _DOWN]}
        | {"up_block_types": [_UP, _CROSS_UP]},
        "text_encoder": {"hidden_size": 16, "projection_dim": 16},
    },
    "sdxl": {
        "unet": {"attention_head_dim": [2, 4], "cross_attention_dim": 24, "down_block_types": [_DOWN, _CROSS_DOWN]}
        | {"up_block_types": [_CROSS_UP, _UP], "transformer_layers_per_block": [1, 2]}
        | {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 16 + 6 * 8},
        "text_encoder": {"hidden_size": 8, "projection_dim": 8},
        "text_encoder_2": {"hidden_size": 16, "projection_dim": 16},
    },
}
_TINY_VAE = {"block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1, "sample_size": 16}
_TINY_VAE |= {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}


def numbers(architecture: str, *, inpaint: bool = False, full: bool = False) -> dict[str, dict[str, Any]]:
    """The configs of an architecture: the shipped ones, or with everything that can be small made small."""
    shipped = json.loads((CONFIGS / f"{architecture}.json").read_text(encoding="utf-8"))
    if not full:
        shipped["unet"] |= _TINY_UNET | _TINY[architecture]["unet"]
        shipped["vae"] |= _TINY_VAE
        for part in ("text_encoder", "text_encoder_2"):
            if part in shipped:
                shipped[part] |= _TINY_TEXT | _TINY[architecture][part]
    if inpaint:
        shipped["unet"]["in_channels"] = 9
    return shipped


def tiny_configs(folder: Path) -> Path:
    """A folder like the product's configs/ with the numbers of the tiny checkpoints."""
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    for architecture in ARCHITECTURES:
        (folder / f"{architecture}.json").write_text(json.dumps(numbers(architecture)))
    shutil.copy(CONFIGS / "tokenizer" / "merges.txt.gz", folder / "tokenizer")
    return folder


def networks(configs: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """The networks of a checkpoint by diffusers' names for the parts, with random weights: every tensor other than all others."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    made = {"unet": UNet2DConditionModel.from_config(configs["unet"]), "vae": AutoencoderKL.from_config(configs["vae"])}
    made["text_encoder"] = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))
    if "text_encoder_2" in configs:
        made["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**configs["text_encoder_2"]))
    for network in made.values():
        for tensor in network.parameters():
            if not tensor.is_meta:  # biases and norms are the same everywhere when they are new, which would hide a mix-up
                tensor.data.add_(0.02 * torch.randn_like(tensor))
        network.eval()
    return made


def single_file(
    path: Path,
    architecture: str,
    *,
    inpaint: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    add: Mapping[str, torch.Tensor] | None = None,
    without: str = "a name that no tensor has",
    metadata: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Writes a tiny single file; gives back the networks in it. `without` leaves out the tensors whose names begin so."""
    made = networks(numbers(architecture, inpaint=inpaint), seed)
    tensors = {
        name: tensor.to(dtype).contiguous() for name, tensor in ldm(architecture, made).items() if not name.startswith(without)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors | dict(add or {}), path, metadata)
    return made


def full_size(path: Path, architecture: str, dtype: torch.dtype = torch.float16) -> None:
    """Writes a single file of full size with random numbers, tensor by tensor: it never stands in memory as a whole."""
    with no_memory():
        made = networks(numbers(architecture, full=True))
    # A pickle of numbers repeated is as good as new ones here: only their count, and that they are not huge, matters.
    pool = (torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)) * 0.02).to(dtype)
    tensors = ldm(architecture, made)
    entries: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * dtype.itemsize
        entries[name] = {
            "dtype": {2: "F16", 4: "F32"}[dtype.itemsize],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + size],
        }
        end += size
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    block = pool.numpy().tobytes()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        while end > 0:
            file.write(block[: min(end, len(block))])
            end -= len(block)


def diffusers_folder(
    folder: Path, architecture: str, *, inpaint: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0, **scheduler: Any
) -> dict[str, Any]:
    """Writes a tiny diffusers folder with its weights; gives back the networks."""
    configs = numbers(architecture, inpaint=inpaint)
    configs["scheduler"] |= scheduler
    config_folder(folder, configs)
    made = networks(configs, seed)
    for part, network in made.items():
        network.to(dtype).save_pretrained(folder / part)
    return made


def config_folder(folder: Path, configs: dict[str, Any]) -> Path:
    """A diffusers folder without weights, as `from_single_file(config=...)` wants it."""
    xl = "text_encoder_2" in configs
    kinds = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    kinds |= {"scheduler": ["diffusers", configs["scheduler"]["_class_name"]]}
    kinds |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    if xl:
        kinds |= {
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
        }
    for part in kinds:
        (folder / part).mkdir(parents=True, exist_ok=True)
        if part.startswith("tokenizer"):
            clip_tokenizer(CONFIGS / "tokenizer" / "merges.txt.gz", configs[part]["pad_token"]).save_pretrained(folder / part)
        else:
            name = "scheduler_config.json" if part == "scheduler" else "config.json"
            (folder / part / name).write_text(json.dumps(configs[part]))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": configs["pipeline"], **kinds}))
    return folder


def ldm(architecture: str, made: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors in the names of A1111's single files."""
    found = _prefixed("model.diffusion_model.", ldm_unet(made["unet"].state_dict(), made["unet"].config["layers_per_block"]))
    found |= _prefixed("first_stage_model.", ldm_vae(made["vae"].state_dict()))
    encoder = made["text_encoder"].state_dict()
    if architecture == "sd1":
        found |= _prefixed("cond_stage_model.transformer.text_model.", encoder)
    elif architecture == "sd2":
        found |= _prefixed("cond_stage_model.model.", open_clip(encoder))
    else:
        second = {name.removeprefix("text_model."): tensor for name, tensor in made["text_encoder_2"].state_dict().items()}
        found |= _prefixed("conditioner.embedders.0.transformer.text_model.", encoder)
        found |= _prefixed("conditioner.embedders.1.model.", open_clip(second))
    return found


def _prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


_RESNET = [
    ("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"), ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection"),
]  # fmt: skip
_ENDS = [
    ("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"), ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2"),
]  # fmt: skip


def ldm_unet(tensors: Mapping[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    with_attention = {int(match[1]) for name in tensors if (match := re.match(r"up_blocks\.(\d+)\.attentions", name))}

    def renamed(name: str) -> str:
        if match := re.match(r"down_blocks\.(\d+)\.(resnets|attentions|downsamplers)\.(\d+)\.(.+)", name):
            block, kind, layer, rest = int(match[1]), match[2], int(match[3]), match[4]
            if kind == "downsamplers":
                return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
            place = f"input_blocks.{1 + block * (layers + 1) + layer}"
        elif match := re.match(r"up_blocks\.(\d+)\.(resnets|attentions|upsamplers)\.(\d+)\.(.+)", name):
            block, kind, layer, rest = int(match[1]), match[2], int(match[3]), match[4]
            if kind == "upsamplers":
                return f"output_blocks.{block * (layers + 1) + layers}.{2 if block in with_attention else 1}.{rest}"
            place = f"output_blocks.{block * (layers + 1) + layer}"
        elif match := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
            kind, rest = match[1], match[3]
            return (
                f"middle_block.1.{rest}" if kind == "attentions" else f"middle_block.{2 * int(match[2])}.{_swap(rest, _RESNET)}"
            )
        else:
            return _swap(name, _ENDS)
        return f"{place}.0.{_swap(rest, _RESNET)}" if kind == "resnets" else f"{place}.1.{rest}"

    return {renamed(name): tensor for name, tensor in tensors.items()}


_VAE = [
    ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"), ("mid_block.attentions.0.to_q", "mid.attn_1.q"),
    ("mid_block.attentions.0.to_k", "mid.attn_1.k"), ("mid_block.attentions.0.to_v", "mid.attn_1.v"),
    ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"), ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"), ("conv_norm_out", "norm_out"),
]  # fmt: skip


def ldm_vae(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    blocks = 1 + max(int(match[1]) for name in tensors if (match := re.match(r"decoder\.up_blocks\.(\d+)", name)))

    def renamed(name: str) -> str:
        side, _, rest = name.partition(".")
        rest = _swap(rest, _VAE).replace("conv_shortcut", "nin_shortcut")
        rest = re.sub(r"^down_blocks\.(\d+)\.", r"down.\1.", rest)
        rest = re.sub(r"^up_blocks\.(\d+)\.", lambda match: f"up.{blocks - 1 - int(match[1])}.", rest)
        rest = rest.replace(".resnets.", ".block.").replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        return f"{side}.{rest}"

    convolved = re.compile(r"attentions\.0\.to_(q|k|v|out\.0)\.weight$")
    return {renamed(name): tensor[:, :, None, None] if convolved.search(name) else tensor for name, tensor in tensors.items()}


_OPEN_CLIP = [("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")]
_OPEN_CLIP += [("self_attn.out_proj", "attn.out_proj")]


def open_clip(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    width = tensors["final_layer_norm.weight"].shape[0]
    found = {
        "positional_embedding": tensors["embeddings.position_embedding.weight"],
        "ln_final.weight": tensors["final_layer_norm.weight"],
    }
    found |= {
        "token_embedding.weight": tensors["embeddings.token_embedding.weight"],
        "ln_final.bias": tensors["final_layer_norm.bias"],
    }
    projection = tensors.get("text_projection.weight")
    found["text_projection"] = torch.eye(width) if projection is None else projection.T
    for name, tensor in tensors.items():
        if match := re.match(r"encoder\.layers\.(\d+)\.(.+)", name):
            layer, rest = f"transformer.resblocks.{match[1]}.", match[2]
            if rest.startswith("self_attn.q_proj."):
                three = [tensors[name.replace("q_proj", f"{one}_proj")] for one in "qkv"]
                found[f"{layer}attn.in_proj_{rest.rpartition('.')[2]}"] = torch.cat(three)
            elif not re.match(r"self_attn\.[kv]_proj", rest):
                found[layer + _swap(rest, _OPEN_CLIP)] = tensor
    return found


def _swap(name: str, table: list[tuple[str, str]]) -> str:
    return next((new + name[len(old) :] for old, new in table if name.startswith(f"{old}.")), name)
