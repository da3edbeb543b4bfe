"""Faces are found where they are, in order of size, with their points in place; and what cannot be used is said."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from PIL import Image

from training.pocket import portraits
from webui import faces
from webui.errors import ModelMissing, NoFaceFound
from webui.faces import DlibFaceFinder, Face, choose_face, face_finder
from webui.pictures import read_picture


@pytest.fixture(scope="module")
def portrait(portrait_file):
    return read_picture(portrait_file).rgb


def scaled(rgb, size):
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS))


def eyes(face):
    return face.landmarks[36:42].mean(0), face.landmarks[42:48].mean(0)


def test_the_points_are_where_the_features_are(portrait):
    (face,) = face_finder().find(portrait)
    assert face.landmarks.shape == (68, 2) and face.landmarks.dtype == np.float64
    left, right = eyes(face)
    # Read off the picture by eye: pupils, the tip of the chin, the corners of the mouth.
    np.testing.assert_allclose([left, right], [[203, 101], [247, 103]], atol=3)
    np.testing.assert_allclose(face.landmarks[8], [223, 177], atol=5)
    np.testing.assert_allclose(face.landmarks[[48, 54]], [[202, 140], [245, 140]], atol=3)
    box_left, top, box_right, bottom = face.box
    assert box_left < left[0] < right[0] < box_right and top < left[1] < face.landmarks[57][1] < bottom


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 4.0])
def test_the_points_do_not_depend_on_the_pictures_scale(portrait, scale):
    size = (round(portrait.shape[1] * scale), round(portrait.shape[0] * scale))
    (face,) = face_finder().find(scaled(portrait, size))
    (reference,) = face_finder().find(portrait)
    error = np.linalg.norm(face.landmarks / scale - reference.landmarks, axis=1)
    assert error.mean() < 0.025 * reference.width


def test_a_face_between_two_sizes_of_the_detector_is_seen_in_the_second_pass(monkeypatch):
    small = portraits.example(1_000_027, 128).picture
    (face,) = DlibFaceFinder().find(small)
    assert 48 < face.landmarks[30, 0] < 80, "the nose is in the middle"
    monkeypatch.setattr(faces, "_PASSES", faces._PASSES[:1])
    assert DlibFaceFinder().find(small) == []


def test_two_faces_come_largest_first_and_once_each(portrait):
    head = portrait[20:240, 100:340]
    group = np.full((480, 900, 3), 128, np.uint8)
    group[100 : 100 + 220, 20 : 20 + 240] = head
    group[10 : 10 + 440, 400 : 400 + 480] = scaled(head, (480, 440))
    found = face_finder().find(group)
    assert len(found) == 2
    assert found[0].width == pytest.approx(2 * found[1].width, rel=0.1)
    assert found[0].landmarks[30, 0] > 400 > found[1].landmarks[30, 0]


def test_two_sightings_of_one_face_count_once():
    boxes = [((10.0, 10.0, 110.0, 110.0), 1.0), ((14.0, 8.0, 114.0, 108.0), 2.0), ((300.0, 10.0, 400.0, 110.0), 0.5)]
    assert [score for _, score in faces._distinct(boxes)] == [2.0, 0.5]


def test_a_face_at_the_border(portrait):
    cut = np.ascontiguousarray(portrait[70:240, 175:340])
    (face,) = face_finder().find(cut)
    left, top, right, bottom = face.box
    assert 0 <= left < right <= cut.shape[1] and 0 <= top < bottom <= cut.shape[0]
    np.testing.assert_allclose(face.landmarks[36:48].mean(0), [225 - 175, 102 - 70], atol=5)


def test_a_small_face_is_found_and_refused_for_its_size(portrait):
    small = scaled(portrait, (128, 128))
    found = face_finder().find(small)
    assert len(found) == 1 and found[0].width < 30
    with pytest.raises(NoFaceFound, match=r"only 2\d pixels wide in a picture of 128x128; at least 48"):
        choose_face(found, None, (128, 128))


@pytest.mark.parametrize("make", ["noise", "flat", "stripes"])
def test_no_face_where_there_is_none(make):
    picture = {
        "noise": np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8),
        "flat": np.full((300, 400, 3), 90, np.uint8),
        "stripes": np.tile(np.uint8([0, 255]).repeat(8)[:, None], (300, 25, 3)),
    }[make]
    assert face_finder().find(picture) == []
    with pytest.raises(NoFaceFound, match=r"No face was found .* looks at the camera"):
        choose_face([], None, (400, 300))


def a_face(width):
    landmarks = np.zeros((68, 2))
    landmarks[16] = (width, 0)
    return Face((0.0, 0.0, width, width), landmarks, 1.0)


def test_the_largest_is_taken_and_the_choice_is_said():
    found = [a_face(200.0), a_face(100.0), a_face(50.0)]
    face, notes = choose_face(found, None, (800, 600))
    assert face is found[0]
    assert notes == ("3 faces were found and the largest was taken; choose another with --face 0 to 2",)
    face, notes = choose_face(found, 1, (800, 600))
    assert face is found[1] and "face 1 was taken" in notes[0]
    assert choose_face(found[:1], None, (800, 600)) == (found[0], ())


def test_a_face_that_is_not_there_cannot_be_chosen():
    with pytest.raises(NoFaceFound, match=r"shows one face, so there is no face 1\. Use --face 0"):
        choose_face([a_face(200.0)], 1, (800, 600))
    with pytest.raises(NoFaceFound, match=r"2 faces, so there is no face 7\. Use --face 0 to 1"):
        choose_face([a_face(200.0)] * 2, 7, (800, 600))


def test_threads_share_one_finder_and_agree(portrait, monkeypatch):
    made = []
    monkeypatch.setattr(faces, "DlibFaceFinder", lambda: made.append(1) or DlibFaceFinder())
    faces._shared_finder.cache_clear()
    results = []
    threads = [threading.Thread(target=lambda: results.append(face_finder().find(portrait))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result[0].landmarks, results[0][0].landmarks)


def test_missing_data_are_named(monkeypatch):
    monkeypatch.setattr(faces.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelMissing, match="face_recognition_models"):
        DlibFaceFinder()


def test_the_finder_is_quick(portrait):
    started = time.perf_counter()
    finder = DlibFaceFinder()
    assert time.perf_counter() - started < 2.0  # 0.7 s measured
    large = scaled(portrait, (1024, 1536))
    started = time.perf_counter()
    finder.find(large)
    assert time.perf_counter() - started < 0.7  # 0.05 s measured


def test_every_sample_portrait_has_a_face(samples):
    for path in sorted((samples / "portraits").iterdir()):
        picture = read_picture(path)
        face, _ = choose_face(face_finder().find(picture.rgb), None, picture.original_size)
        left, right = eyes(face)
        assert left[0] < right[0] and face.landmarks[57, 1] > right[1], path.name
