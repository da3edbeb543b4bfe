"""Masks and sizes: what is masked, what is worked on, what it starts from, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from webui.errors import InvalidRequest
from webui.imaging.masks import Canvas, blurred, box_around, filled, for_latents, opacity, read
from webui.imaging.resize import LATENT_UPSCALERS, UPSCALERS, resize, resize_latents, upscaler


def painted(height: int = 60, width: int = 80, box: tuple[int, int, int, int] = (20, 10, 50, 40)) -> np.ndarray:
    left, top, right, bottom = box
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def test_what_is_light_is_masked_and_what_is_opaque_when_there_is_an_alpha():
    grey = painted()
    colours = np.repeat(grey[..., None], 3, axis=2)
    opaque = np.dstack([np.zeros_like(colours), grey])
    solid = np.dstack([colours, np.full_like(grey, 255)])
    for mask in (grey, colours, opaque, solid):
        assert np.array_equal(read(mask, 80, 60), grey)
    assert np.array_equal(read(grey, 80, 60, invert=True), 255 - grey)
    assert set(np.unique(read(np.linspace(0, 255, 60 * 80).reshape(60, 80).astype(np.uint8), 80, 60))) == {0, 255}


@pytest.mark.parametrize(("width", "height"), [(160, 120), (80, 61), (60, 80)])
def test_a_mask_of_another_size_is_refused(width: int, height: int):
    with pytest.raises(InvalidRequest, match=f"The mask is 80x60, and the picture {width}x{height}"):
        read(painted(), width, height)


@pytest.mark.parametrize(("mask", "invert"), [(np.zeros((6, 8), np.uint8), False), (np.full((6, 8), 255, np.uint8), True)])
def test_a_mask_that_marks_nothing_is_refused(mask: np.ndarray, invert: bool):
    with pytest.raises(InvalidRequest, match="Paint over"):
        read(mask, 8, 6, invert=invert)


def test_blur_softens_the_edge_and_nothing_far_from_it():
    soft = blurred(painted(), 4)
    assert 0 < soft[10, 30] < 255 and soft[25, 35] == 255
    assert not soft[:, 61:].any()  # 2.5 times the blur away
    assert np.array_equal(blurred(painted(), 0), painted())
    assert (opacity(soft)[painted() > 0] >= 254).mean() > 0.9


@pytest.mark.parametrize("padding", [0, 8, 300])
@pytest.mark.parametrize("shape", [(64, 64), (128, 64), (64, 200)])
def test_the_part_worked_on_has_the_mask_the_padding_and_the_shape_asked_for(padding: int, shape: tuple[int, int]):
    mask = painted(600, 800, (300, 200, 380, 290))
    left, top, right, bottom = box_around(mask, padding, *shape)
    assert 0 <= left <= max(300 - padding, 0) and min(380 + padding, 800) <= right <= 800
    assert 0 <= top <= max(200 - padding, 0) and min(290 + padding, 600) <= bottom <= 600
    if padding < 300:
        assert (right - left) / (bottom - top) == pytest.approx(shape[0] / shape[1], rel=0.02)


def test_the_part_worked_on_stays_inside_of_the_picture():
    assert box_around(painted(60, 80, (0, 0, 10, 5)), 4, 64, 64) == (0, 0, 14, 14)
    assert box_around(painted(20, 200, (90, 0, 110, 20)), 50, 64, 64) == (40, 0, 160, 20)


def test_filling_takes_the_colours_around():
    rgb = np.zeros((60, 80, 3), np.uint8)
    rgb[:, :40], rgb[:, 40:] = (200, 0, 0), (0, 0, 200)
    mask = painted(60, 80, (10, 10, 70, 50))
    rgb[mask > 0] = (0, 255, 0)
    result = filled(rgb, mask)
    assert np.array_equal(result[mask == 0], rgb[mask == 0])
    assert result[..., 1].max() <= 1, "nothing of what was there is left"
    assert result[30, 12, 0] > result[30, 12, 2] and result[30, 67, 2] > result[30, 67, 0]


def test_filling_when_all_is_masked_gives_grey():
    assert set(np.unique(filled(np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 255, np.uint8)))) == {127}


def test_latents_are_masked_by_half_or_more_and_never_none():
    assert torch.equal(for_latents(painted(64, 64, (16, 8, 40, 32)), 8, 8)[0, 0].nonzero().amin(0), torch.tensor([1, 2]))
    assert for_latents(painted(64, 64, (0, 0, 5, 8)), 8, 8)[0, 0].nonzero().tolist() == [[0, 0]]
    assert for_latents(painted(64, 64, (0, 0, 1, 1)), 8, 8)[0, 0].nonzero().tolist() == [[0, 0]]


def test_pasting_back_leaves_every_pixel_that_the_mask_does_not_touch():
    generator = np.random.default_rng(0)
    rgb, made = generator.integers(0, 256, (60, 80, 3), np.uint8), generator.integers(0, 256, (64, 64, 3), np.uint8)
    soft = blurred(painted(), 3)
    box = box_around(soft, 5, 64, 64)
    before = rgb.copy()
    result = Canvas(rgb, opacity(soft), box).with_part(made)
    assert np.array_equal(result[soft == 0], rgb[soft == 0])
    left, top, right, bottom = box
    inside = opacity(soft) == 255
    assert np.array_equal(result[inside], np.pad(resize(made, right - left, bottom - top), _around(box, 60, 80))[inside])
    assert np.array_equal(rgb, before)


def _around(box: tuple[int, int, int, int], height: int, width: int) -> Any:
    left, top, right, bottom = box
    return (top, height - bottom), (left, width - right), (0, 0)


def test_resize_modes():
    rgb = np.zeros((40, 80, 3), np.uint8)
    rgb[:, :10], rgb[:, 70:] = 255, 100
    assert resize(rgb, 80, 40) is rgb
    for mode in ("stretch", "crop", "fill"):
        assert resize(rgb, 48, 64, mode).shape == (64, 48, 3)
        assert resize(rgb[..., 0], 48, 64, mode).shape == (64, 48)
    assert resize(rgb, 40, 40, "crop").max() == 0, "both edges are cut off"
    filled_up = resize(rgb, 80, 80, "fill")
    assert np.array_equal(filled_up[20:60], rgb)
    assert np.array_equal(filled_up[0], rgb[0]) and np.array_equal(filled_up[-1], rgb[-1])
    assert resize(rgb, 40, 40)[:, :4].min() > 200, "stretched with both edges"


@pytest.mark.parametrize("name", LATENT_UPSCALERS)
def test_latents_are_enlarged_and_cut_to_the_middle_when_the_shape_is_another(name: str):
    latents = torch.randn(2, 4, 8, 8)
    assert resize_latents(latents, 16, 12, name).shape == (2, 4, 12, 16)
    assert resize_latents(torch.ones(1, 4, 8, 8), 16, 16, name).allclose(torch.ones(1, 4, 16, 16), atol=1e-5)


def test_upscalers_go_by_the_web_uis_names():
    assert upscaler("latent (NEAREST)") == "Latent (nearest)" and "Lanczos" in UPSCALERS
    with pytest.raises(InvalidRequest, match="Lanczos"):
        upscaler("Lanzcos")
