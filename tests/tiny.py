"""A tiny random Model: a UNet of two blocks, a VAE with 8 pixels to a latent, CLIP of two layers.

Of the disk only the shipped tokenizer is read. The same arguments give the same weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from tests.checkpoints import networks, numbers
from webui.imaging.load import CONFIGS, Model
from webui.imaging.origins import clip_tokenizer

_CHANNELS = {"block_out_channels": [32, 32], "norm_num_groups": 8, "layers_per_block": 1, "sample_size": 8}
_VAE = {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4, "layers_per_block": 1, "sample_size": 64}
_VAE |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}


def model(
    architecture: str = "sd1",
    *,
    inpaint: bool = False,
    prediction: str = "epsilon",
    seed: int = 0,
    unet: Mapping[str, Any] = _CHANNELS,
    vae: Mapping[str, Any] = _VAE,
) -> Model:
    """In evaluation mode, fp32, on the CPU. Its default size is 64 x 64 pixels. unet, vae: numbers of a less tiny one."""
    configs = numbers(architecture, inpaint=inpaint)
    configs["unet"] |= unet
    configs["vae"] |= vae
    made = networks(configs, seed)
    for network in made.values():
        network.requires_grad_(False)
    merges = CONFIGS / "tokenizer" / "merges.txt.gz"
    tokenizers = [configs[part]["pad_token"] for part in ("tokenizer", "tokenizer_2") if part in configs]
    return Model(
        name=f"tiny-{architecture}",
        architecture=architecture,
        inpaint=inpaint,
        prediction=prediction,
        tokenizers=tuple(clip_tokenizer(merges, pad) for pad in tokenizers),
        text_encoders=tuple(made[part] for part in ("text_encoder", "text_encoder_2") if part in made),
        unet=made["unet"],
        vae=made["vae"],
        scheduler_config=configs["scheduler"] | {"prediction_type": prediction},
        dtype=torch.float32,
        device=torch.device("cpu"),
        hash="0123456789abcdef" * 4,
    )


def pipeline(kind: str, model: Model, scheduler: Any) -> Any:
    """diffusers' pipeline of this class, with the model's parts."""
    import diffusers

    parts: dict[str, Any] = {"vae": model.vae, "unet": model.unet, "scheduler": scheduler, "tokenizer": model.tokenizers[0]}
    parts["text_encoder"] = model.text_encoders[0]
    if len(model.text_encoders) == 2:
        parts |= {"text_encoder_2": model.text_encoders[1], "tokenizer_2": model.tokenizers[1]}
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    made = getattr(diffusers, kind)(**parts)
    made.set_progress_bar_config(disable=True)
    return made


@contextmanager
def calm() -> Iterator[None]:
    """Inside, one thread: two that wait for each other on a busy machine take many times as long for networks as small as these.

    And no warnings of what diffusers, transformers and numpy deprecate in each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
