"""What is heard: the audio encoder (Wav2Lip, Prajwal et al. 2020), and SadTalker's network from sound to expressions."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from extensions.sadtalker.engines.neural.networks import blocks

_STEPS = (1, 1, 1, (3, 1), 1, 1, 3, 1, 1, (3, 2), 1, 1, 1)
"""Of each convolution, over mel bands and time: a window of 80 x 16 becomes one point."""

_VALID = 11
"""The first convolution that adds no border; the last is one point wide."""


class AudioEncoder(nn.Module):
    """Windows of log-mel rows to embeddings."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    @classmethod
    def of(cls, tensors: blocks.Tensors) -> AudioEncoder:
        layers = []
        for i, stride in enumerate(_STEPS):
            block = f"audio_encoder.{i}.conv_block"
            layers.append(blocks.conv(tensors, f"{block}.0", f"{block}.1", stride=stride, padding=int(i < _VALID)))
        return cls(layers)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """(N, 1, 80, 16), -4..4 -> (N, 512)."""
        x = windows
        for layer, step in zip(self.layers, _STEPS, strict=True):
            y = layer(x)
            keeps = step == 1 and y.shape == x.shape  # such a layer learns what to add to its input, but for the last one
            x = F.relu_(y + x if keeps and layer is not self.layers[-1] else y)
        return x.flatten(1)


class AudioToExpression(nn.Module):
    """Sound, the face's own expression and how far the lids are shut, to the 64 expression coefficients of the 3DMM."""

    def __init__(self, encoder: AudioEncoder, mapping: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.mapping = mapping

    @classmethod
    def of(cls, tensors: blocks.Tensors) -> AudioToExpression:
        return cls(AudioEncoder.of(tensors), blocks.linear(tensors, "mapping1")).eval()

    @blocks.exactly()
    def forward(self, windows: torch.Tensor, reference: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
        """windows (N, 1, 80, 16), reference (N, 64), ratio (N, 1) 0 open..1 shut -> (N, 64)."""
        return self.mapping(torch.cat([self.encoder(windows), reference, ratio], dim=1))
