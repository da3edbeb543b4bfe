"""SadTalker's PoseVAE, its decoder alone: sound, a style and noise to 32 frames of head motion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from extensions.sadtalker.engines.neural.networks import blocks
from extensions.sadtalker.engines.neural.networks.audio import AudioEncoder

FRAMES = 32
"""Frames that are made at once."""

NOISE = 64
STYLES = 46
POSE = 6
"""Three angles in radians, and a translation."""


class AudioToPose(nn.Module):
    """encoder: to embeddings; __call__: motion from the embeddings of FRAMES windows."""

    biases: torch.Tensor

    def __init__(self, encoder: AudioEncoder, biases: torch.Tensor, layers: dict[str, nn.Module], unet: ResidualUNet) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("biases", biases)
        self.audio, self.hidden, self.coarse, self.pose = (layers[name] for name in ("audio", "hidden", "coarse", "pose"))
        self.unet = unet

    @classmethod
    def of(cls, tensors: blocks.Tensors) -> AudioToPose:
        decoder = blocks.below(tensors, "netG.decoder")
        names = {"audio": "linear_audio", "hidden": "MLP.L0", "coarse": "MLP.L1", "pose": "pose_linear"}
        layers = {ours: blocks.linear(decoder, theirs) for ours, theirs in names.items()}
        encoder = AudioEncoder.of(blocks.below(tensors, "audio_encoder"))
        return cls(encoder, decoder["classbias"], layers, ResidualUNet.of(blocks.below(decoder, "resunet"))).eval()

    @blocks.exactly()
    def embed(self, windows: torch.Tensor) -> torch.Tensor:
        """(N, 1, 80, 16) -> (N, 512)."""
        return self.encoder(windows)

    @blocks.exactly()
    def forward(self, embeddings: torch.Tensor, reference: torch.Tensor, style: int, noise: torch.Tensor) -> torch.Tensor:
        """embeddings (N, 32, 512), reference pose (N, 6), style 0..45, noise (N, 64) -> motion away from it, (N, 32, 6)."""
        heard = self.audio(embeddings).flatten(1)
        hidden = F.relu(self.hidden(torch.cat([reference, noise + self.biases[style], heard], dim=1)))
        coarse = torch.sigmoid(self.coarse(hidden)).reshape(-1, 1, FRAMES, POSE)
        return self.pose(self.unet(coarse)[:, 0])


class ResidualUNet(nn.Module):
    """Zhang et al. 2018, "Road Extraction by Deep Residual U-Net", on a picture of frames x pose; halves the frames alone."""

    def __init__(self, start: Sequence[nn.Module], down: Sequence[nn.Module], up: Sequence[nn.Module], end: nn.Module) -> None:
        super().__init__()
        self.start = nn.ModuleList(start)
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.end = end

    @classmethod
    def of(cls, tensors: blocks.Tensors) -> ResidualUNet:
        start = [
            blocks.conv(tensors, "input_layer.0", "input_layer.1", padding=1),
            blocks.conv(tensors, "input_layer.3", padding=1),
            blocks.conv(tensors, "input_skip.0", padding=1),
        ]
        down = [_Residual.of(tensors, name, (2, 1)) for name in ("residual_conv_1", "residual_conv_2", "bridge")]
        up: list[nn.Module] = []
        for i in (1, 2, 3):
            up.append(blocks.upsampling(tensors, f"upsample_{i}.upsample"))
            up.append(_Residual.of(tensors, f"up_residual_conv{i}", 1))
        return cls(start, down, up, blocks.conv(tensors, "output_layer.0"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, frames, pose) -> the same, 0..1; frames: a multiple of 8."""
        first, second, skip = self.start
        x = second(F.relu(first(x))) + skip(x)
        kept = []
        for residual in self.down:
            kept.append(x)
            x = residual(x)
        for upsample, residual in zip(self.up[::2], self.up[1::2], strict=True):
            x = residual(torch.cat([upsample(x), kept.pop()], dim=1))
        return torch.sigmoid(self.end(x))


class _Residual(nn.Module):
    """Two convolutions, each after norm and ReLU, beside a third."""

    def __init__(self, norm: blocks.Affine, first: nn.Module, second: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.norm, self.first, self.second, self.skip = norm, first, second, skip

    @classmethod
    def of(cls, tensors: blocks.Tensors, name: str, stride: int | tuple[int, int]) -> _Residual:
        block, skip = f"{name}.conv_block", f"{name}.conv_skip"
        return cls(
            blocks.Affine.of(tensors, f"{block}.0", 2),
            blocks.conv(tensors, f"{block}.2", f"{block}.3", stride=stride, padding=1),
            blocks.conv(tensors, f"{block}.5", padding=1),
            blocks.conv(tensors, f"{skip}.0", f"{skip}.1", stride=stride, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(F.relu(self.first(F.relu(self.norm(x))))) + self.skip(x)
