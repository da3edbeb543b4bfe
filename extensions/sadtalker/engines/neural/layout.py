"""Names and shapes of every tensor that SadTalker v0.0.2 reads at inference, by network: what a checkpoint must hold.

Written out from the networks' plans, so that a file can be judged by its header alone, without PyTorch. What is in the files
beside that (the pose network's training half, optimizer state, counters of batches, he_estimator) is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import pairwise

Shapes = dict[str, tuple[int, ...]]

SEMANTICS = {False: 70, True: 73}
"""Channels of the mapping net: expression, angles and translation; with where the face lies for full pictures."""


@cache
def of(net: str, *, full: bool = False) -> Mapping[str, tuple[int, ...]]:
    """The tensors of a network, named as below the net's prefix. full: of "mapping" those for full pictures."""
    return _PLANS["mapping_full" if full and net == "mapping" else net]()


def _below(name: str, *parts: Shapes) -> Shapes:
    return {f"{name}.{inner}": shape for part in parts for inner, shape in part.items()}


def _layer(name: str, *shape: int) -> Shapes:
    """A convolution or linear layer: outputs, inputs, kernel."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _norm(name: str, channels: int) -> Shapes:
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def _block(name: str, *shape: int) -> Shapes:
    """First Order Motion's blocks: a convolution and its batch norm."""
    return _below(name, _layer("conv", *shape), _norm("norm", shape[0]))


def _audio_encoder() -> Shapes:
    widths = (1, 32, 32, 32, 64, 64, 64, 128, 128, 128, 256, 256, 512, 512)
    found: Shapes = {}
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        kernel = (1, 1) if i == len(widths) - 2 else (3, 3)
        found |= _below(f"audio_encoder.{i}.conv_block", _layer("0", outputs, inputs, *kernel), _norm("1", outputs))
    return found


def _audio2exp() -> Shapes:
    return _audio_encoder() | _layer("mapping1", 64, 512 + 64 + 1)


def _residual(name: str, inputs: int, outputs: int) -> Shapes:
    block = _norm("0", inputs) | _layer("2", outputs, inputs, 3, 3) | _norm("3", outputs) | _layer("5", outputs, outputs, 3, 3)
    skip = _layer("0", outputs, inputs, 3, 3) | _norm("1", outputs)
    return _below(name, _below("conv_block", block), _below("conv_skip", skip))


def _resunet() -> Shapes:
    found = _layer("input_layer.0", 32, 1, 3, 3) | _norm("input_layer.1", 32) | _layer("input_layer.3", 32, 32, 3, 3)
    found |= _layer("input_skip.0", 32, 1, 3, 3)
    found |= _residual("residual_conv_1", 32, 64) | _residual("residual_conv_2", 64, 128) | _residual("bridge", 128, 256)
    for i, (deep, beside) in enumerate(((256, 128), (128, 64), (64, 32)), 1):
        found |= _layer(f"upsample_{i}.upsample", deep, deep, 2, 1) | _residual(f"up_residual_conv{i}", deep + beside, beside)
    return found | _layer("output_layer.0", 1, 32, 1, 1)


def _audio2pose() -> Shapes:
    decoder = _below("resunet", _resunet()) | _layer("MLP.L0", 128, 6 + 64 + 192) | _layer("MLP.L1", 192, 128)
    decoder |= _layer("linear_audio", 6, 512) | _layer("pose_linear", 6, 6) | {"classbias": (46, 64)}
    return _below("audio_encoder", _audio_encoder()) | _below("netG.decoder", decoder)


def _face_3drecon() -> Shapes:
    found: Shapes = {"conv1.weight": (64, 3, 7, 7)} | _norm("bn1", 64)
    inputs = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for i in range(blocks):
            sides = ((width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1))
            parts = [{f"conv{n}.weight": shape} | _norm(f"bn{n}", shape[0]) for n, shape in enumerate(sides, 1)]
            if not i:
                parts.append({"downsample.0.weight": (4 * width, inputs, 1, 1)} | _norm("downsample.1", 4 * width))
            found |= _below(f"layer{stage}.{i}", *parts)
            inputs = 4 * width
    heads = [_layer(str(i), outputs, 2048, 1, 1) for i, outputs in enumerate((80, 64, 80, 3, 27, 2, 1))]
    return _below("backbone", found) | _below("final_layers", *heads)


def _mapping(channels: int) -> Shapes:
    found = _layer("first.0", 1024, channels, 7)
    for i in range(3):
        found |= _layer(f"encoder{i}.1", 1024, 1024, 3)
    for head, outputs in (("roll", 66), ("pitch", 66), ("yaw", 66), ("t", 3), ("exp", 45)):
        found |= _layer(f"fc_{head}", outputs, 1024)
    return found


def _kp_extractor() -> Shapes:
    found: Shapes = {"down.weight": (3, 1, 13, 13)} | _layer("kp", 15, 32, 3, 3, 3)
    found |= _layer("predictor.conv", 1024 * 16, 1024, 1, 1)
    for i, (inputs, outputs) in enumerate(((3, 64), (64, 128), (128, 256), (256, 512), (512, 1024))):
        found |= _block(f"predictor.down_blocks.down{i}", outputs, inputs, 3, 3)
    for i, (inputs, outputs) in enumerate(((1024, 512), (512, 256), (256, 128), (128, 64), (64, 32))):
        found |= _block(f"predictor.up_blocks.up{i}", outputs, inputs, 3, 3, 3)
    return found


def _dense_motion() -> Shapes:
    found: Shapes = {}
    for i, (inputs, outputs) in enumerate(((80, 64), (64, 128), (128, 256), (256, 512), (512, 1024))):
        found |= _block(f"hourglass.encoder.down_blocks.{i}", outputs, inputs, 3, 3, 3)
    for i, (inputs, outputs) in enumerate(((1024, 512), (1024, 256), (512, 128), (256, 64), (128, 32))):
        found |= _block(f"hourglass.decoder.up_blocks.{i}", outputs, inputs, 3, 3, 3)
    found |= _block("hourglass.decoder", 112, 112, 3, 3, 3)
    found |= _layer("compress", 4, 32, 1, 1, 1) | _norm("norm", 4)
    return found | _layer("mask", 16, 112, 7, 7, 7) | _layer("occlusion", 1, 112 * 16, 7, 7)


def _spade_block(name: str, inputs: int, outputs: int) -> Shapes:
    between = min(inputs, outputs)
    convs = {"conv_0": (between, inputs, 3, 3), "conv_1": (outputs, between, 3, 3)}
    norms = {"norm_0": inputs, "norm_1": between}
    if inputs != outputs:
        convs["conv_s"], norms["norm_s"] = (outputs, inputs, 1, 1), inputs
    parts: list[Shapes] = []
    for conv, shape in convs.items():
        flat = shape[1] * shape[2] * shape[3]
        parts.append({f"{conv}.weight_orig": shape, f"{conv}.weight_u": shape[:1], f"{conv}.weight_v": (flat,)})
        if conv != "conv_s":
            parts.append({f"{conv}.bias": shape[:1]})
    for norm, channels in norms.items():
        parts.append(_below(norm, _layer("mlp_shared.0", 128, 256, 3, 3)))
        parts.append(_below(norm, _layer("mlp_gamma", channels, 128, 3, 3), _layer("mlp_beta", channels, 128, 3, 3)))
    return _below(name, *parts)


def _generator() -> Shapes:
    found = _block("first", 64, 3, 3, 3) | _block("down_blocks.0", 128, 64, 3, 3) | _block("down_blocks.1", 256, 128, 3, 3)
    found |= _layer("second", 512, 256, 1, 1) | _block("third", 256, 512, 3, 3) | _layer("fourth", 256, 256, 1, 1)
    for i in range(6):
        parts = [_layer(f"conv{n}", 32, 32, 3, 3, 3) | _norm(f"norm{n}", 32) for n in (1, 2)]
        found |= _below(f"resblocks_3d.3dr{i}", *parts)
    decoder = _layer("fc", 512, 256, 3, 3) | _layer("conv_img", 3, 64, 3, 3)
    for i in range(6):
        decoder |= _spade_block(f"G_middle_{i}", 512, 512)
    decoder |= _spade_block("up_0", 512, 256) | _spade_block("up_1", 256, 64)
    return found | _below("decoder", decoder) | _below("dense_motion_network", _dense_motion())


_PLANS = {
    "generator": _generator,
    "kp_extractor": _kp_extractor,
    "audio2exp": _audio2exp,
    "audio2pose": _audio2pose,
    "face_3drecon": _face_3drecon,
    "mapping": lambda: _mapping(SEMANTICS[False]),
    "mapping_full": lambda: _mapping(SEMANTICS[True]),
}
"""By upstream's names; mapping_full is the mapping net for full pictures."""
