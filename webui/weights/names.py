"""From the names that tensors have in single files (LDM's, open_clip's) to those of diffusers and transformers.

Names and where their numbers are, nothing else: no tensor is touched here, and torch is not needed. Each function takes the names
of one part, without the prefix the part has in the file, and gives new name -> Source.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

Names = dict[str, "Source"]


@dataclass(frozen=True)
class Source:
    """Where a tensor's numbers are: in the tensor `name` of the file.

    third:     of its rows, the first, second or third third (0, 1, 2); None: all. open_clip keeps query, key and value in one.
    transpose: with rows and columns exchanged.
    matrix:    a 1x1 convolution (out, in, 1, 1) that is a linear layer (out, in) for us.
    """

    name: str
    third: int | None = None
    transpose: bool = False
    matrix: bool = False


_UNET_ENDS = {
    "time_embed.0.": "time_embedding.linear_1.",
    "time_embed.2.": "time_embedding.linear_2.",
    "label_emb.0.0.": "add_embedding.linear_1.",
    "label_emb.0.2.": "add_embedding.linear_2.",
    "input_blocks.0.0.": "conv_in.",
    "out.0.": "conv_norm_out.",
    "out.2.": "conv_out.",
}

_RESNET = {
    "in_layers.0.": "norm1.",
    "in_layers.2.": "conv1.",
    "emb_layers.1.": "time_emb_proj.",
    "out_layers.0.": "norm2.",
    "out_layers.3.": "conv2.",
    "skip_connection.": "conv_shortcut.",
}


def unet(names: Iterable[str], layers_per_block: int) -> Names:
    """LDM's UNet. Names that are not known keep their old name, so that whoever builds the network can tell."""
    return {_unet_name(name, layers_per_block + 1): Source(name) for name in names}


def _unet_name(name: str, per_block: int) -> str:
    for old, new in _UNET_ENDS.items():
        if name.startswith(old):
            return new + name[len(old) :]
    match = re.fullmatch(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.(?:(\d)\.)?(.+)", name)
    if match is None:
        return name
    where, index, inner, rest = match[1], int(match[2]), match[3], match[4]
    if where == "middle_block":
        rest = f"{inner}.{rest}" if inner else rest
        return f"mid_block.attentions.0.{rest}" if index == 1 else f"mid_block.resnets.{index // 2}.{_swapped(rest, _RESNET)}"
    if where == "input_blocks":
        return f"down_blocks.{(index - 1) // per_block}." + _layer(inner, (index - 1) % per_block, rest)
    return f"up_blocks.{index // per_block}." + _layer(inner, index % per_block, rest)


def _layer(inner: str, layer: int, rest: str) -> str:
    """One layer of a block: 0 is the resnet, or the downsampler (op); 1 the attention; the last the upsampler (conv)."""
    if rest.startswith("op."):
        return f"downsamplers.0.conv.{rest[3:]}"
    if rest.startswith("conv."):
        return f"upsamplers.0.conv.{rest[5:]}"
    return f"resnets.{layer}.{_swapped(rest, _RESNET)}" if inner == "0" else f"attentions.{layer}.{rest}"


_VAE_ATTENTION = {
    "norm.": "group_norm.",
    "q.": "to_q.",
    "k.": "to_k.",
    "v.": "to_v.",
    "proj_out.": "to_out.0.",
    # diffusers' own names of before 2023
    "query.": "to_q.",
    "key.": "to_k.",
    "value.": "to_v.",
    "proj_attn.": "to_out.0.",
}


def vae(names: Iterable[str]) -> Names:
    """LDM's autoencoder; diffusers' names pass through."""
    names = list(names)
    blocks = 1 + max((int(match[1]) for name in names if (match := re.match(r"decoder\.up\.(\d+)\.", name))), default=0)
    found = {}
    for name in names:
        new = _vae_name(name, blocks)
        linear = ".attentions." in new and new.endswith("weight") and "group_norm" not in new
        found[new] = Source(name, matrix=linear)
    return found


def _vae_name(name: str, blocks: int) -> str:
    name = re.sub(r"^encoder\.down\.(\d+)\.", r"encoder.down_blocks.\1.", name)
    name = re.sub(r"^decoder\.up\.(\d+)\.", lambda match: f"decoder.up_blocks.{blocks - 1 - int(match[1])}.", name)
    name = re.sub(r"\.block\.(\d+)\.", r".resnets.\1.", name)
    name = re.sub(r"\.mid\.block_(\d)\.", lambda match: f".mid_block.resnets.{int(match[1]) - 1}.", name)
    name = re.sub(r"\.mid\.attn_1\.", ".mid_block.attentions.0.", name)
    name = name.replace(".nin_shortcut.", ".conv_shortcut.").replace("coder.norm_out.", "coder.conv_norm_out.")
    name = re.sub(r"\.(down|up)sample\.conv\.", r".\1samplers.0.conv.", name)
    head, attention, rest = name.partition(".mid_block.attentions.0.")
    return head + attention + _swapped(rest, _VAE_ATTENTION) if attention else name


_OPEN_CLIP = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
    "attn.out_proj.": "self_attn.out_proj.",
}

_OPEN_CLIP_ENDS = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}


def clip(names: Iterable[str]) -> Names:
    """transformers' own text encoder, with the `text_model.` that some files have and some have not taken away."""
    return {name.removeprefix("text_model."): Source(name) for name in names}


def open_clip(names: Iterable[str]) -> Names:
    """open_clip's text encoder, in which query, key and value are one matrix, and the projection is transposed."""
    found: Names = {}
    for name in names:
        if name in _OPEN_CLIP_ENDS:
            found[_OPEN_CLIP_ENDS[name]] = Source(name)
        elif name == "text_projection":
            found["text_projection.weight"] = Source(name, transpose=True)
        elif match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name):
            found |= _open_clip_layer(name, f"encoder.layers.{match[1]}.", match[2])
    return found


def _open_clip_layer(name: str, layer: str, rest: str) -> Names:
    if rest.startswith("attn.in_proj_"):
        kind = rest.removeprefix("attn.in_proj_")
        return {f"{layer}self_attn.{one}_proj.{kind}": Source(name, third=third) for third, one in enumerate("qkv")}
    return {layer + _swapped(rest, _OPEN_CLIP): Source(name)}


def _swapped(name: str, table: dict[str, str]) -> str:
    """The name with its beginning exchanged by the table."""
    for old, new in table.items():
        if name.startswith(old):
            return new + name[len(old) :]
    return name
