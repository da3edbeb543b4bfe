"""Cutting the head out: the five modes, whatever the picture's shape."""

from __future__ import annotations

import numpy as np
import pytest

from extensions.sadtalker.preprocess import even, head_box, prepare_portrait


def a_face(at=(400.0, 300.0), iod=80.0):
    """68 landmarks that are no more than eyes, nose and mouth in place."""
    p = np.tile(np.array(at), (68, 1))
    p[36:42] += (-iod / 2, 0)
    p[42:48] += (iod / 2, 0)
    p[48:68] += (0, 1.05 * iod)
    p[27:36] += (0, 0.6 * iod)
    p[0:17, 0] += np.linspace(-iod, iod, 17)
    p[0:17, 1] += 1.7 * iod * np.sin(np.linspace(0, np.pi, 17))
    return p


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 255, (901, 1201, 3), dtype=np.uint8)


def test_crop_is_as_wide_as_asked_and_not_stretched(picture):
    for mode in ("crop", "extcrop", "resize"):
        portrait, crop = prepare_portrait(picture, a_face(), mode, 512)
        assert portrait.view.width == 512 and portrait.view.height % 2 == 0
        assert portrait.view.height / 512 == pytest.approx(crop.source.height / crop.source.width, abs=0.01)
        eyes = np.linalg.norm(portrait.landmarks[42] - portrait.landmarks[36])
        assert eyes == pytest.approx(80 * 512 / crop.source.width, rel=0.02)


def test_extcrop_shows_more_than_crop_and_resize_shows_all(picture):
    widths = [prepare_portrait(picture, a_face(), mode, 256)[1].source.width for mode in ("crop", "extcrop", "resize")]
    assert widths[0] < widths[1] < widths[2] == picture.shape[1]


def test_full_keeps_the_pictures_own_scale(picture):
    for mode in ("full", "extfull"):
        portrait, crop = prepare_portrait(picture, a_face(), mode, 256)
        assert crop.whole and crop.scale == 1.0
        assert np.array_equal(portrait.canvas, picture[crop.source.slices])
    regions = [prepare_portrait(picture, a_face(), mode, 256)[1].source.width for mode in ("full", "extfull")]
    assert regions[0] < regions[1]


@pytest.mark.parametrize("at", [(30.0, 40.0), (1190.0, 880.0), (600.0, 10.0), (5.0, 890.0)])
@pytest.mark.parametrize("mode", ["crop", "extcrop", "resize", "full", "extfull"])
def test_a_face_at_the_border_stays_inside_the_picture(picture, at, mode):
    portrait, crop = prepare_portrait(picture, a_face(at), mode, 256)
    box = crop.source
    assert 0 <= box.left < box.right <= 1201 and 0 <= box.top < box.bottom <= 901
    view = portrait.view
    assert 0 <= view.left < view.right <= portrait.canvas.shape[1]
    assert 0 <= view.top < view.bottom <= portrait.canvas.shape[0]


def test_the_box_is_square_where_the_picture_allows():
    box = head_box(a_face(), 1.1, 1201, 901)
    assert abs(box.width - box.height) <= 1
    tight = head_box(a_face(iod=300.0), 1.1, 1201, 901)
    assert (tight.top, tight.bottom) == (0, 901) and tight.width > 901


def test_even_sizes():
    assert all(even(x) % 2 == 0 for x in range(1, 50))
