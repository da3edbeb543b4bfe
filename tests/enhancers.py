"""Stand-ins for files of upscalers and face restorers: spandrel's own networks, small where their loaders allow it, with random
numbers, saved in the layouts that the real files have.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Tensors = Mapping[str, torch.Tensor]


def _tensors(network: torch.nn.Module, seed: int, gain: float = 1.0) -> OrderedDict[str, torch.Tensor]:
    """All of a network's numbers, none of which is alike: biases and norms are when they are new, which would hide a mix-up."""
    dice = torch.Generator().manual_seed(seed)
    found = OrderedDict(network.state_dict())
    for name, tensor in found.items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=dice)
            found[name] = tensor + 0.02 * noise if tensor.ndim < 2 else tensor * gain
    return found


def esrgan(scale: int = 4, seed: int = 0, *, blocks: int = 1, old_names: bool = False) -> Tensors:
    """ESRGAN with few channels, in Real-ESRGAN's names or the first ones."""
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(seed)
    doublings = scale.bit_length() - 1
    found = _tensors(ESRGAN(num_filters=8, num_blocks=blocks, scale=scale), seed)
    if old_names:
        return found
    last = 2 + 3 * doublings
    names = {"model.0": "conv_first", f"model.1.sub.{blocks}": "conv_body", f"model.{last}": "conv_hr"}
    names |= {f"model.{last + 2}": "conv_last"} | {f"model.{3 * n}": f"conv_up{n}" for n in range(1, doublings + 1)}

    def renamed(name: str) -> str:
        block = re.fullmatch(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.(\w+)", name)
        stem, _, end = name.rpartition(".")
        return f"body.{block[1]}.rdb{block[2]}.conv{block[3]}.{block[4]}" if block else f"{names[stem]}.{end}"

    return OrderedDict((renamed(name), tensor) for name, tensor in found.items())


def compact(scale: int = 2, seed: int = 0, *, nearest: bool = False) -> Tensors:
    """Real-ESRGAN's compact network. nearest: it only repeats pixels, because all that it would add is nought."""
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(seed)
    found = _tensors(Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=scale), seed)
    if nearest:
        *_, last = (name for name in found if name.endswith(".weight"))
        for name in (last, last.replace("weight", "bias")):
            found[name] = torch.zeros_like(found[name])
    return found


def swinir(seed: int = 0) -> Tensors:
    """SwinIR's light 2x network, with few channels."""
    from spandrel.architectures.SwinIR import SwinIR

    torch.manual_seed(seed)
    network = SwinIR(
        img_size=64, in_chans=3, embed_dim=12, depths=[2], num_heads=[2], window_size=8, mlp_ratio=2, upscale=2, img_range=1.0,
        upsampler="pixelshuffledirect",
    )  # fmt: skip
    return _tensors(network, seed)


def restoreformer(seed: int = 0) -> Tensors:
    """RestoreFormer with few channels."""
    from spandrel.architectures.RestoreFormer import RestoreFormer

    torch.manual_seed(seed)
    network = RestoreFormer(
        n_embed=16, embed_dim=32, ch=32, out_ch=3, ch_mult=(1, 1, 1, 1, 1, 1), num_res_blocks=1, attn_resolutions=(16,),
        dropout=0.0, in_channels=3, resolution=512, z_channels=32, double_z=False, enable_mid=True, head_size=8,
    )  # fmt: skip
    return _tensors(network, seed)


@lru_cache(maxsize=1)
def gfpgan() -> Tensors:
    """GFPGAN at its full size: its loader knows no other. The noise that it adds is switched on, as it is in trained files."""
    from spandrel.architectures.GFPGAN import GFPGAN

    torch.manual_seed(0)
    network = GFPGAN(
        out_size=512, num_style_feat=512, channel_multiplier=2, fix_decoder=False, num_mlp=8, input_is_latent=True,
        different_w=True, narrow=1, sft_half=True,
    )  # fmt: skip
    found = OrderedDict(network.state_dict())
    for name, tensor in found.items():
        if re.fullmatch(r"stylegan_decoder\.style_conv(1|s\.\d+)\.weight", name):
            found[name] = torch.full_like(tensor, 0.1)
    return found


CODEFORMER = {
    name: torch.zeros(shape)
    for name, shape in {
        "position_emb": (256, 512), "quantize.embedding.weight": (1024, 256), "encoder.blocks.0.weight": (64, 3, 3, 3),
        "generator.blocks.0.weight": (512, 256, 3, 3), "idx_pred_layer.1.weight": (1024, 512),
        "fuse_convs_dict.32.scale.0.weight": (8, 8, 3, 3), "ft_layers.0.self_attn.in_proj_weight": (8, 8),
    }.items()
}  # fmt: skip
"""As much of CodeFormer as it is recognised by."""

RETINAFACE = {"module.body.conv1.weight": torch.zeros(8, 3, 7, 7), "module.ClassHead.0.conv1x1.weight": torch.zeros(4, 8, 1, 1)}

WRAPPED: dict[str, Callable[[Tensors], Any]] = {
    "bare": lambda tensors: tensors,
    "params": lambda tensors: {"params": tensors},
    "params_ema": lambda tensors: {"params_ema": tensors},
    "both": lambda tensors: {"params": {name: torch.zeros_like(one) for name, one in tensors.items()}, "params_ema": tensors},
}
"""What trainers save."""


def safetensors(path: Path, tensors: Tensors, dtype: torch.dtype | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cast = {name: one.to(dtype) if dtype and one.is_floating_point() else one for name, one in tensors.items()}
    save_file({name: one.contiguous() for name, one in cast.items()}, path)
    return path


def pickled(path: Path, tensors: Tensors, wrapper: str = "params_ema") -> Path:
    """A .pth as the real files are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(WRAPPED[wrapper](OrderedDict(tensors)), path)
    return path
