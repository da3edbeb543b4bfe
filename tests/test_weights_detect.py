"""What a file is, by its tensors: every kind and architecture, and the sentence for one that lies in the wrong folder."""

from __future__ import annotations

import pytest

from webui.weights import detect
from webui.weights.detect import NAMES, RECOGNISERS, Found, Registry, wrong
from webui.weights.files import Fact, Header


def header(*tensors: str | tuple[str, tuple[int, ...]], dtype: str = "F16", **metadata: str) -> Header:
    """A header of tensors by name, with their shapes where these matter."""
    pairs = [(tensor, (4, 4)) if isinstance(tensor, str) else tensor for tensor in tensors]
    return Header({name: Fact(dtype, shape) for name, shape in pairs}, metadata)


UNET = "model.diffusion_model."
KEY = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


def unet(channels: int = 4, width: int = 768) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{UNET}input_blocks.0.0.weight", (320, channels, 3, 3)), (f"{UNET}{KEY}", (320, width))]


SD1_TEXT = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
SD2_TEXT = "cond_stage_model.model.token_embedding.weight"
XL_TEXT = ("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "conditioner.embedders.1.model.ln_final.bias")
REFINER_TEXT = "conditioner.embedders.0.model.ln_final.bias"
VAE = ("decoder.conv_in.weight", (512, 4, 3, 3))

CODEBOOK = ("quantize.embedding.weight", "quant_conv.weight", "encoder.conv_in.weight", "decoder.conv_out.weight")

RECOGNISED = [
    ("checkpoint", "sd1", header(*unet(), SD1_TEXT, "first_stage_model.decoder.conv_in.weight")),
    ("checkpoint", "sd1", header(*unet())),
    ("checkpoint", "sd2", header(*unet(width=1024), SD2_TEXT)),
    ("checkpoint", "sd2", header(*unet(width=1024))),
    ("checkpoint", "sdxl", header(*unet(width=2048), *XL_TEXT)),
    ("checkpoint", "sdxl", header(*unet(width=2048))),
    ("checkpoint", "sdxl-refiner", header(*unet(width=1280), REFINER_TEXT)),
    (
        "checkpoint",
        "sdxl",
        header("down_blocks.0.resnets.0.x", "conv_norm_out.weight", ("conv_in.weight", (320, 4, 3, 3)), (KEY, (2, 2048))),
    ),
    ("checkpoint", "instruct-pix2pix", header(*unet(8), SD1_TEXT)),
    ("checkpoint", "depth", header(*unet(5, 1024), SD2_TEXT)),
    ("checkpoint", "x4-upscaler", header(*unet(7, 1024), SD2_TEXT)),
    ("checkpoint", "sd3", header("model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias")),
    ("checkpoint", "flux", header("double_blocks.0.img_attn.norm.key_norm.scale")),
    ("vae", "", header(VAE, "encoder.conv_in.weight", "decoder.up.0.block.0.norm1.weight")),
    ("vae", "", header(VAE, "decoder.up_blocks.0.resnets.0.norm1.weight")),
    ("vae", "", header(("first_stage_model.decoder.conv_in.weight", (512, 4, 3, 3)), "first_stage_model.decoder.up.0.x")),
    ("vae", "sd3", header(("decoder.conv_in.weight", (512, 16, 3, 3)), "decoder.up.0.x")),
    ("lora", "sd1", header(("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", (8, 768)))),
    ("lora", "sd2", header(("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", (8, 1024)))),
    ("lora", "sdxl", header(("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight", (8, 2048)))),
    ("lora", "sdxl", header(("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", (8, 8)))),
    ("lora", "sd1", header(("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight", (8, 768)))),
    (
        "lora",
        "sd1",
        header(("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight", (8, 768))),
    ),
    ("lora", "sd1", header(("lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight", (8, 768)))),
    ("lora", "", header("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a")),
    ("lora", "flux", header("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight")),
    ("embedding", "sd1", header(("string_to_param.*", (3, 768)))),
    ("embedding", "sd2", header(("emb_params", (1, 1024)))),
    ("embedding", "sdxl", header(("clip_l", (2, 768)), ("clip_g", (2, 1280)))),
    ("embedding", "sd1", header(("<cat-toy>", (768,)))),
    ("controlnet", "sd1", header("control_model.zero_convs.0.0.weight", (f"control_model.{KEY}", (320, 768)), *unet())),
    ("controlnet", "sdxl", header("controlnet_cond_embedding.conv_in.weight", (KEY, (640, 2048)))),
    ("upscaler", "", header("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight")),
    ("upscaler", "", header("conv_first.weight", "body.0.rdb1.conv1.weight")),
    ("upscaler", "", header("params_ema.body.0.weight")),
    ("restorer", "", header("stylegan_decoder.style_conv1.modulated_conv.weight")),
    (
        "restorer",
        "gfpgan",
        header(*(f"params_ema.{name}.weight" for name in ("stylegan_decoder.style_mlp.1", "conv_body_first", "toRGB.0"))),
    ),
    ("restorer", "restoreformer", header(*CODEBOOK, VAE, "decoder.up.0.x", "decoder.mid.attn_1.norm2.weight")),
    (
        "restorer",
        "codeformer",
        header("quantize.embedding.weight", "position_emb", "encoder.blocks.0.weight", "generator.blocks.0.weight"),
    ),
    ("vae", "", header(*CODEBOOK, VAE, "decoder.up.0.x", "decoder.mid.attn_1.norm.weight")),
    ("face-tool", "", header("module.body.conv1.weight", "module.ClassHead.0.conv1x1.weight")),
    ("face-tool", "", header("encoder.0.conv2d.weight", "out_mask_conv.conv2d.weight")),
    ("unknown", "", header("something.else")),
    ("unknown", "", header()),
    ("unknown", "", header(*unet(6), SD1_TEXT)),
]


@pytest.mark.parametrize(("kind", "architecture", "file"), RECOGNISED)
def test_each_kind_and_architecture_is_recognised(kind: str, architecture: str, file: Header):
    found = detect.detect(file)
    assert (found.kind, found.architecture) == (kind, architecture)
    assert found.bytes == file.bytes and found.dtype == ("F16" if len(file) else "")


def test_every_recogniser_and_architecture_has_a_file_here():
    assert {found[1] for found in RECOGNISED} - {""} == {*NAMES}
    for recognise in RECOGNISERS:
        assert any(recognise(file) for _, _, file in RECOGNISED), recognise


@pytest.mark.parametrize("text", [SD1_TEXT, SD2_TEXT, XL_TEXT[1]])
def test_nine_channels_make_an_inpainting_checkpoint(text: str):
    assert detect.detect(header(*unet(9), text)).inpaint
    assert not detect.detect(header(*unet(4), text)).inpaint


def weight(name: str, *shape: int) -> tuple[str, tuple[int, ...]]:
    return f"{name}.weight", shape


@pytest.mark.parametrize(
    ("file", "scale"),
    [
        (header(weight("model.0", 64, 3, 3, 3), "model.1.sub.0.RDB1.conv1.0.weight", weight("model.10", 3, 64, 3, 3)), 4),
        (header(weight("model.0", 64, 3, 3, 3), "model.1.sub.0.RDB1.conv1.0.weight", weight("model.7", 3, 64, 3, 3)), 2),
        (header(weight("model.0", 64, 3, 3, 3), "model.1.sub.0.RDB1.conv1.0.weight", weight("model.4", 3, 64, 3, 3)), 1),
        (header(weight("model.0", 64, 12, 3, 3), "model.1.sub.0.RDB1.conv1.0.weight", weight("model.10", 3, 64, 3, 3)), 2),
        (header(weight("params.body.0", 64, 3, 3, 3), weight("params.body.34", 48, 64, 3, 3)), 4),
        (header("body.0.rdb1.conv1.weight"), 0),
        (header("model.1.sub.0.RDB1.conv1.0.weight", weight("model.0", 0, 0, 0, 0)), 1),
    ],
)
def test_the_scale_of_an_upscaler_is_seen_in_its_shapes(file: Header, scale: int):
    assert detect.detect(file).kind == "upscaler" and detect.detect(file).scale == scale


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (header(*unet(), SD1_TEXT), ("epsilon", False)),
        (header(*unet(), SD1_TEXT, "v_pred"), ("v_prediction", False)),
        (header(*unet(width=2048), *XL_TEXT, "v_pred", "ztsnr"), ("v_prediction", True)),
        (header(*unet(width=1024), SD2_TEXT), (None, False)),
        (header(*unet(9, 1024), SD2_TEXT), ("epsilon", False)),
        (header(*unet(width=1024), SD2_TEXT, **{"modelspec.prediction_type": "v"}), ("v_prediction", False)),
        (header(*unet(width=1024), SD2_TEXT, **{"modelspec.prediction_type": "epsilon"}), ("epsilon", False)),
    ],
)
def test_what_the_unet_predicts_is_read_from_marks(file: Header, expected: tuple[str | None, bool]):
    found = detect.detect(file)
    assert (found.prediction, found.zero_snr) == expected


def test_the_parts_of_a_checkpoint_are_listed():
    assert detect.detect(header(*unet(), SD1_TEXT)).parts == ("unet", "text_encoder")
    whole = header(*unet(), *XL_TEXT, "first_stage_model.decoder.conv_in.weight")
    assert detect.detect(whole).parts == ("unet", "vae", "text_encoder", "text_encoder_2")


def test_the_kind_of_most_numbers_counts():
    facts = {"a": Fact("F32", (10,)), "b": Fact("F16", (1000,)), "c": Fact("F32", (10,))}
    assert detect.detect(Header(facts)).dtype == "F16"


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        (Found("lora", "sd1"), "checkpoint", "x is a LoRA (SD 1.x), not a checkpoint. Move it into models/Lora."),
        (Found("vae"), "checkpoint", "x is a VAE, not a checkpoint. Move it into models/VAE."),
        (Found("embedding", "sdxl"), "checkpoint", "x is an embedding (SDXL), not a checkpoint. Move it into models/embeddings."),
        (Found("upscaler"), "vae", "x is an upscaler, not a VAE. Move it into models/ESRGAN."),
        (Found("restorer", "gfpgan"), "upscaler", "x is a face restorer (GFPGAN), not an upscaler. Move it into models/GFPGAN."),
        (Found("restorer", "gfpgan"), "restorer", ""),
        (
            Found("face-tool"),
            "restorer",
            "x is a finder or parser of faces. Other programs need it; here nothing does, and it does no harm.",
        ),
        (Found("controlnet", "sd1"), "vae", "x is a ControlNet (SD 1.x), not a VAE. Move it into models/ControlNet."),
        (
            Found("checkpoint", "sd1", inpaint=True),
            "vae",
            "x is a checkpoint (SD 1.x inpainting), not a VAE. Move it into models/Stable-diffusion.",
        ),
        (
            Found("checkpoint", "flux"),
            "checkpoint",
            "x is a checkpoint (Flux). This version runs SD 1.x, SD 2.x and SDXL: choose one of those.",
        ),
        (Found("checkpoint", "sdxl"), "checkpoint", ""),
        (Found("vae"), "vae", ""),
    ],
)
def test_what_lies_in_the_wrong_folder_is_named_as_what_it_is(found: Found, wanted: str, expected: str):
    assert wrong(found, wanted, "x") == expected


def test_what_nobody_recognises_is_said():
    assert "of no kind that is known here" in wrong(Found("unknown"), "checkpoint", "x")


def test_a_registry_takes_all_or_nothing():
    registry = Registry()
    registry.add(detect.sd1, detect.sd2)
    with pytest.raises(ValueError):
        registry.add(detect.sdxl, detect.sd1)
    assert [*registry] == [detect.sd1, detect.sd2]
