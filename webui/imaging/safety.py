"""Stable Diffusion's safety checker: whether a picture is not safe for work, and a blurred one in place of such a picture.

Its weights are CompVis' stable-diffusion-safety-checker. The studio works without them, and never fetches them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from webui.errors import UnsupportedModel
from webui.weights import files, folders

FOLDER = "safety-checker"
"""In models/: config.json and model.safetensors."""

SIDE = 224
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training pictures, by colour."""

COARSE = 12
"""Patches along the longer side that are left of a blurred picture."""


_NUMBERS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "image_size", "patch_size",
    "hidden_act", "layer_norm_eps", "projection_dim",
)  # fmt: skip
"""What of CLIP's config describes the network. The rest can name code to be fetched (`attn_implementation`)."""


@dataclass(frozen=True)
class Checker:
    """network: diffusers' StableDiffusionSafetyChecker, on the CPU in fp32."""

    network: Any

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.network.parameters())

    @torch.no_grad()
    def flags(self, rgb: np.ndarray) -> bool:
        """Whether an (H, W, 3) uint8 RGB picture is near one of the concepts, nearer than that one's threshold.

        The rule is that of diffusers' safety_checker.py; a picture that needs special care has lower thresholds.
        """
        net = self.network
        seen = net.visual_projection(net.vision_model(prepared(rgb))[1])
        care = _above(seen, net.special_care_embeds, net.special_care_embeds_weights, 0.0).any()
        return bool(_above(seen, net.concept_embeds, net.concept_embeds_weights, 0.01 if care else 0.0).any())


def _above(seen: torch.Tensor, concepts: torch.Tensor, thresholds: torch.Tensor, adjustment: float) -> torch.Tensor:
    near = torch.nn.functional.cosine_similarity(seen, concepts)
    return torch.round((near - thresholds + adjustment) * 1000) > 0


def load(folder: Path) -> Checker:
    """The checker in a folder. Raises UnsupportedModel when it is not whole."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    config, weights = folders.read_json(folder / "config.json"), folder / "model.safetensors"
    read = files.reader(weights)
    try:
        said = {**config.get("vision_config", {}), **config.get("vision_config_dict", {})}
        numbers = {key: value for key, value in said.items() if key in _NUMBERS}
        network = StableDiffusionSafetyChecker(CLIPConfig(vision_config=numbers, projection_dim=config["projection_dim"]))
        expected = network.state_dict().keys()
        tensors = {_name(name, expected): read(name) for name in files.header(weights) if not name.endswith("position_ids")}
        network.load_state_dict(tensors)
    except Exception as error:  # what a config says can make the libraries fail in any way
        raise UnsupportedModel(f"{weights.name} in {folder.name} is no safety checker. Copy the whole folder again.") from error
    return Checker(network.float().eval().requires_grad_(False))


def _name(name: str, expected: Any) -> str:
    """As this version of transformers has it: an older one has a level more."""
    shorter = name.replace("vision_model.vision_model.", "vision_model.", 1)
    return shorter if name not in expected and shorter in expected else name


def prepared(rgb: np.ndarray) -> torch.Tensor:
    """(1, 3, 224, 224) as CLIP sees it: the shorter side made to fit, the middle cut out, colours normalised."""
    height, width = rgb.shape[:2]
    scale = SIDE / min(height, width)
    size = max(SIDE, int(width * scale)), max(SIDE, int(height * scale))
    left, top = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    small = Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC).crop((left, top, left + SIDE, top + SIDE))
    values = (np.asarray(small, np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return torch.from_numpy(values.transpose(2, 0, 1).copy())[None]


def blurred(rgb: np.ndarray) -> np.ndarray:
    """The picture with nothing left but its colours, in soft patches."""
    height, width = rgb.shape[:2]
    scale = COARSE / max(height, width)
    patches = Image.fromarray(rgb).resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX)
    return np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC))
