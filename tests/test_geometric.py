"""The built-in engine: every coefficient moves the face the way it says, and nothing else. Measured by dlib."""

from __future__ import annotations

import numpy as np
import pytest

from extensions.sadtalker.composite import composite
from extensions.sadtalker.engines.geometric.engine import GeometricEngine, render_frame
from extensions.sadtalker.preprocess import prepare_portrait
from extensions.sadtalker.types import COEFFICIENTS, Box, Motion
from extensions.sadtalker.warp import Grid, curve, thin_plate
from webui.faces import face_finder
from webui.pictures import read_picture


@pytest.fixture(scope="module")
def picture(portrait_file):
    return read_picture(portrait_file).rgb


@pytest.fixture(scope="module")
def landmarks(picture):
    return face_finder().find(picture)[0].landmarks


@pytest.fixture(scope="module")
def head_shot(picture, landmarks):
    portrait, _ = prepare_portrait(picture, landmarks, "crop", 512)
    return portrait, GeometricEngine().prepare(portrait)


def draw(identity, portrait, **coefficients):
    return render_frame(identity, portrait.canvas.copy(), dict.fromkeys(COEFFICIENTS, 0.0) | coefficients)


def points(frame):
    return face_finder().find(frame)[0].landmarks


def iod(p):
    return np.linalg.norm(p[36:42].mean(0) - p[42:48].mean(0))


def aperture(p):
    return np.mean([np.linalg.norm(p[a] - p[b]) for a, b in ((61, 67), (62, 66), (63, 65))]) / iod(p)


def eye_opening(p):
    return np.mean([np.linalg.norm(p[a] - p[b]) for a, b in ((37, 41), (38, 40), (43, 47), (44, 46))]) / iod(p)


def mouth_width(p):
    return np.linalg.norm(p[48] - p[54]) / iod(p)


def test_at_rest_only_the_mouth_may_differ_from_the_photo(head_shot):
    portrait, identity = head_shot
    frame = draw(identity, portrait)
    differs = np.abs(frame.astype(int) - portrait.canvas[portrait.view.slices]).max(2) > 0
    if identity.mouth.own_opening == 0:
        assert not differs.any()
    box = identity.mouth.grid.box
    differs[box.top - portrait.view.top : box.bottom - portrait.view.top,
            box.left - portrait.view.left : box.right - portrait.view.left] = False  # fmt: skip
    assert not differs.any()


def test_the_jaw_opens_the_mouth_in_proportion(head_shot):
    portrait, identity = head_shot
    opened = [aperture(points(draw(identity, portrait, jaw=jaw))) for jaw in (0.0, 0.25, 0.5, 0.8)]
    assert np.all(np.diff(opened) > 0.04)
    assert opened[0] < 0.05


def test_pressing_shuts_an_open_mouth(head_shot):
    portrait, identity = head_shot
    shut = aperture(points(draw(identity, portrait, jaw=0.5, press=1.0)))
    assert shut < aperture(points(draw(identity, portrait))) + 0.02


def test_rounding_narrows_and_spreading_widens(head_shot):
    portrait, identity = head_shot
    rest, narrow, wide = (
        mouth_width(points(draw(identity, portrait, jaw=0.2, **c))) for c in ({}, {"rounding": 1.0}, {"spreading": 1.0})
    )
    assert narrow < rest - 0.05 < rest + 0.05 < wide


def test_a_blink_shuts_the_eyes_and_leaves_the_rest(head_shot):
    portrait, identity = head_shot
    rest, shut = draw(identity, portrait), draw(identity, portrait, blink=1.0)
    assert eye_opening(points(shut)) < 0.5 * eye_opening(points(rest))
    changed = np.abs(shut.astype(int) - rest).max(2) > 0
    assert changed[: changed.shape[0] // 5].sum() == 0  # hair
    assert changed[changed.shape[0] * 3 // 5 :].sum() == 0  # mouth, chin and below


def test_the_gaze_moves_only_within_the_eyes(head_shot):
    portrait, identity = head_shot
    changed = np.abs(draw(identity, portrait, gaze_x=0.06).astype(int) - draw(identity, portrait)).max(2) > 0
    assert 0 < changed.mean() < 0.02


@pytest.mark.parametrize(
    ("pose", "axis", "sign"),
    [
        ({"yaw": 6.0}, 0, 1),
        ({"yaw": -6.0}, 0, -1),
        ({"pitch": 4.0}, 1, 1),
        ({"shift_x": 0.05}, 0, 1),
        ({"shift_y": -0.05}, 1, -1),
    ],
)
def test_poses_move_the_nose_the_way_they_say(head_shot, pose, axis, sign):
    portrait, identity = head_shot
    still, moved = points(draw(identity, portrait)), points(draw(identity, portrait, **pose))
    assert sign * (moved[30] - still[30])[axis] / iod(still) > 0.025


def test_roll_tilts_the_eyes_clockwise(head_shot):
    portrait, identity = head_shot

    def tilt(p):
        across = p[42:48].mean(0) - p[36:42].mean(0)
        return np.degrees(np.arctan2(across[1], across[0]))

    turned = tilt(points(draw(identity, portrait, roll=4.0))) - tilt(points(draw(identity, portrait)))
    assert 2.5 < turned < 5.5


def test_in_full_mode_pixels_outside_the_heads_region_are_the_photos(picture, landmarks):
    padded = np.pad(picture, ((300, 400), (500, 500), (0, 0)), mode="reflect")
    portrait, crop = prepare_portrait(padded, landmarks + (500, 300), "full", 512)
    engine = GeometricEngine()
    values = np.zeros((1, len(COEFFICIENTS)), np.float32)
    values[0, COEFFICIENTS.index("yaw")] = 7.0
    values[0, COEFFICIENTS.index("roll")] = 4.0
    frame = next(composite(engine.render(engine.prepare(portrait), Motion(values)), padded, crop))
    changed = np.abs(frame.astype(int) - padded[: frame.shape[0], : frame.shape[1]]).max(2) > 0
    assert changed.any()
    eyes = landmarks[36:48].mean(0) + (500, 300)
    yy, xx = np.nonzero(changed)
    assert np.hypot(xx - eyes[0], yy - eyes[1]).max() < 4.2 * iod(landmarks)
    border = np.ones_like(changed)
    border[crop.source.top + 1 : crop.source.bottom - 1, crop.source.left + 1 : crop.source.right - 1] = False
    assert not changed[border].any()  # no seam: what the region's border shows is the photo


def test_rendering_is_a_stream_and_the_same_every_time(head_shot):
    portrait, identity = head_shot
    values = np.random.default_rng(0).uniform(0, 0.5, (3, len(COEFFICIENTS))).astype(np.float32)
    first, second = (list(GeometricEngine().render(identity, Motion(values))) for _ in range(2))
    assert len(first) == 3 and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].shape == (portrait.view.height, portrait.view.width, 3)


def test_a_backward_map_undoes_a_smooth_displacement():
    grid = Grid(Box(10, 20, 110, 100), 8)
    field = np.stack([4 * np.sin(grid.nodes[..., 1] / 30), 3 * np.cos(grid.nodes[..., 0] / 25)], -1).astype(np.float32)
    source = grid.backward_map(field)
    exact = source + np.stack([4 * np.sin(source[..., 1] / 30), 3 * np.cos(source[..., 0] / 25)], -1)
    assert np.abs(exact - grid.pixels)[8:-8, 8:-8].max() < 0.35


def test_thin_plate_passes_through_its_handles():
    handles = np.random.default_rng(1).uniform(-1, 1, (12, 2))
    moves = np.random.default_rng(2).uniform(-0.2, 0.2, (12, 2))
    assert np.abs(thin_plate(handles, handles, smoothing=0.0) @ moves - moves).max() < 1e-3


def test_a_curve_passes_through_its_points():
    p = np.array([[0.0, 0], [1, 2], [2, 1], [4, 0]])
    assert np.allclose(curve(p, 4), p) and len(curve(p, 31)) == 31
