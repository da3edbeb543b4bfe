"""A head that something else rendered, put back into its photo: no box, no tint, and the rest of the person follows it.

The built-in engine stands in for the network: it sees nothing but the square round the face, and its frames are made as soft and
as tinted as a network's.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from extensions.sadtalker.engines.geometric.engine import GeometricEngine, render_frame
from extensions.sadtalker.face import FaceFrame
from extensions.sadtalker.paste import Paste, match_colours
from extensions.sadtalker.preprocess import head_box
from extensions.sadtalker.silhouette import NOT_FOUND, find_silhouette
from extensions.sadtalker.surroundings import Surroundings
from extensions.sadtalker.types import COEFFICIENTS, HEAD, Box, HeadMotion, Portrait
from tests.conftest import EXAMPLES
from webui.faces import face_finder
from webui.pictures import read_picture

TALKING = {"jaw": 0.7, "yaw": 3.0, "pitch": 2.0, "roll": 1.0}
TURNED = {"jaw": 0.3, "yaw": 12.0, "pitch": 3.0, "roll": -4.0, "shift_x": 0.1}
BLINKING = {"blink": 1.0, "pitch": 5.0, "yaw": -6.0}


class Photo:
    """A photo with its face, and the square that a network sees of it."""

    def __init__(self, rgb: np.ndarray, landmarks: np.ndarray, wider: float = 1.0) -> None:
        self.rgb, self.landmarks = rgb, landmarks
        self.place = head_box(landmarks, wider, rgb.shape[1], rgb.shape[0])
        self.face = FaceFrame.of(landmarks)

    def enlarged(self, times: float) -> Photo:
        rgb = cv2.resize(self.rgb, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
        return Photo(rgb, (self.landmarks + 0.5) * times - 0.5)

    def at(self, x: float, y: float) -> np.ndarray:
        """The pixel at face units."""
        return self.face.to_pixels(np.array([x, y]))


class Network:
    """What the built-in engine renders of the square alone, blurred and tinted; size: of its frames."""

    def __init__(self, photo: Photo, size: int = 256, tint: bool = True) -> None:
        self.size, self.tint = size, tint
        place, pad = photo.place, photo.place.width // 5
        canvas = cv2.copyMakeBorder(photo.rgb[place.slices], pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        wide, high = (round((side + 2 * pad) * size / side) for side in (place.width, place.height))
        canvas = cv2.resize(canvas, (wide, high), interpolation=cv2.INTER_AREA)
        scale = np.array([wide / (place.width + 2 * pad), high / (place.height + 2 * pad)])
        points = (photo.landmarks - (place.left - pad, place.top - pad) + 0.5) * scale - 0.5
        left, top = (round(pad * one) for one in scale)
        self.portrait = Portrait(canvas, points, Box(left, top, left + size, top + size))
        self.identity = GeometricEngine().prepare(self.portrait)

    def frame(self, **coefficients: float) -> np.ndarray:
        drawn = render_frame(self.identity, self.portrait.canvas.copy(), dict.fromkeys(COEFFICIENTS, 0.0) | coefficients)
        if not self.tint:
            return drawn
        soft = cv2.resize(drawn, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
        soft = cv2.resize(soft, (self.size, self.size), interpolation=cv2.INTER_CUBIC)
        return np.clip(np.rint(soft * np.float32([1.05, 0.98, 0.95]) + np.float32([-2, 1, 5])), 0, 255).astype(np.uint8)


def head(coefficients: dict[str, float]) -> HeadMotion:
    return HeadMotion(*(coefficients.get(name, 0.0) for name in HEAD))


def whole(photo: Photo, **coefficients: float) -> np.ndarray:
    """What the built-in engine makes of the whole photo: where a head that moves so takes the picture along."""
    h, w = photo.rgb.shape[:2]
    identity = GeometricEngine().prepare(Portrait(photo.rgb, photo.landmarks, Box(0, 0, w, h)))
    return render_frame(identity, photo.rgb.copy(), dict.fromkeys(COEFFICIENTS, 0.0) | coefficients)


def seam(picture: np.ndarray, truth: np.ndarray, place: Box) -> float:
    """Levels by which neighbours across the border of `place` differ more than in the truth, on average."""
    inside = np.zeros(picture.shape[:2], bool)
    inside[place.slices] = True
    inside[:2] = inside[-2:] = inside[:, :2] = inside[:, -2:] = False
    step = [np.abs(np.diff(side.astype(float), axis=axis)).mean(2) for side in (picture, truth) for axis in (0, 1)]
    across = [np.diff(inside.astype(int), axis=axis) != 0 for axis in (0, 1)]
    return float(np.mean(np.concatenate([(step[axis] - step[axis + 2])[across[axis]] for axis in (0, 1)])))


def boxed(photo: Photo, frame: np.ndarray) -> np.ndarray:
    picture = photo.rgb.copy()
    picture[photo.place.slices] = cv2.resize(frame, (photo.place.width, photo.place.height), interpolation=cv2.INTER_AREA)
    return picture


def moved(picture: np.ndarray, photo: Photo, at: np.ndarray, half: int, reach: int) -> np.ndarray:
    """How far the patch of the photo round `at` lies elsewhere in `picture`, whole pixels."""
    x, y = np.round(at).astype(int)
    patch = photo.rgb[y - half : y + half, x - half : x + half]
    around = picture[y - half - reach : y + half + reach, x - half - reach : x + half + reach]
    return np.array(cv2.minMaxLoc(cv2.matchTemplate(around, patch, cv2.TM_CCOEFF_NORMED))[3]) - reach


@pytest.fixture(scope="module")
def hopper() -> Photo:
    """An officer with a hat before a flag, 83 pixels between her eyes."""
    rgb = read_picture(EXAMPLES / "grace_hopper.jpg").rgb
    return Photo(rgb, face_finder().find(rgb)[0].landmarks)


@pytest.fixture(scope="module")
def collins(portrait_file) -> Photo:
    """An astronaut, 43 pixels between her eyes."""
    rgb = read_picture(portrait_file).rgb
    return Photo(rgb, face_finder().find(rgb)[0].landmarks)


@pytest.fixture(scope="module", params=[256, 512])
def pasted(request, collins) -> tuple[Photo, Network, Paste]:
    network = Network(collins, request.param)
    return collins, network, Paste(collins.rgb, collins.place, collins.landmarks, network.frame())


def test_far_from_the_head_every_pixel_is_the_photos_own(pasted):
    photo, network, paste = pasted
    y, x = np.indices(photo.rgb.shape[:2])
    far = np.hypot(x - photo.at(0, 0.6)[0], y - photo.at(0, 0.6)[1]) > 4.2 * photo.face.iod
    assert far.mean() > 0.3
    for coefficients in ({}, TALKING, TURNED, BLINKING):
        picture = paste.put(network.frame(**coefficients), head(coefficients))
        assert (picture[far] == photo.rgb[far]).all()


def test_a_tinted_frame_at_rest_shows_as_the_photo(pasted):
    photo, network, paste = pasted
    picture = paste.put(network.frame(), HeadMotion())
    soft = [cv2.GaussianBlur(side.astype(np.float32), (0, 0), 4.0) for side in (picture, photo.rgb)]
    differs = np.abs(soft[0] - soft[1]).max(2)[photo.place.slices]
    tinted = np.abs(cv2.GaussianBlur(boxed(photo, network.frame()).astype(np.float32), (0, 0), 4.0) - soft[1]).max(2)
    # What is left: whites that were tinted beyond white, and what the frame has other than the photo, lips and lids.
    assert np.median(differs) < 1.2 < 5 < np.median(tinted[photo.place.slices])


@pytest.mark.parametrize("coefficients", [TALKING, TURNED, BLINKING], ids=["talking", "turned", "blinking"])
def test_no_box_is_seen(pasted, coefficients):
    photo, network, paste = pasted
    frame = network.frame(**coefficients)
    truth = whole(photo, **coefficients)
    assert seam(boxed(photo, frame), truth, photo.place) > 1.5
    assert abs(seam(paste.put(frame, head(coefficients)), truth, photo.place)) < 0.4


def test_the_frame_is_the_face(pasted):
    """Lips and lids of the video are the network's, where it has put them."""
    photo, network, paste = pasted
    for coefficients in (TALKING, TURNED):
        frame = network.frame(**coefficients)
        ours = face_finder().find(paste.put(frame, head(coefficients)))[0].landmarks
        theirs = face_finder().find(boxed(photo, frame))[0].landmarks
        assert np.abs(ours - theirs)[17:].mean() < 0.02 * photo.face.iod

    def opening(p: np.ndarray) -> float:
        return float(np.mean([np.linalg.norm(p[a] - p[b]) for a, b in ((37, 41), (38, 40), (43, 47), (44, 46))]))

    closed = face_finder().find(paste.put(network.frame(blink=1.0), HeadMotion()))[0].landmarks
    assert opening(closed) < 0.75 * opening(photo.landmarks)


@pytest.mark.parametrize("told", [1.0, 0.0, 1.6], ids=["rightly", "nothing", "too much"])
def test_neck_and_hat_go_with_the_head_as_the_frame_shows_it(hopper, told):
    """Even when the pose that the network was asked for is not what it drew."""
    network = Network(hopper)
    paste = Paste(hopper.rgb, hopper.place, hopper.landmarks, network.frame())
    turned = {"roll": 5.0, "shift_x": 0.2}
    pose = HeadMotion(roll=5.0 * told, shift_x=0.2 * told)
    picture, truth = paste.put(network.frame(**turned), pose), whole(hopper, **turned)
    iod = hopper.face.iod
    for name, x, y in (("badge", 0.05, -1.55), ("collar", 0.0, 2.15)):  # one above the frame's border, one at it
        at, half, reach = hopper.at(x, y), round(0.25 * iod), round(0.5 * iod)
        expected = moved(truth, hopper, at, half, reach)
        assert np.hypot(*expected) > 0.05 * iod, name
        assert np.hypot(*(moved(picture, hopper, at, half, reach) - expected)) < 0.06 * iod, name


def test_what_is_shown_of_the_frame_moves_with_the_head(hopper):
    network = Network(hopper, tint=False)
    paste = Paste(hopper.rgb, hopper.place, hopper.landmarks)

    def middle(**coefficients: float) -> np.ndarray:
        """Of what a lighter frame makes lighter."""
        frame = np.minimum(network.frame(**coefficients), 225)
        dark = paste.put(frame, head(coefficients)).astype(int)
        light = (paste.put(frame + 30, head(coefficients)) - dark).sum(2)
        return np.array([(axis * light).sum() / light.sum() for axis in np.indices(light.shape)[::-1]])

    went = (middle(shift_x=0.25) - middle()) / hopper.face.iod
    assert 0.18 < went[0] < 0.3 and abs(went[1]) < 0.04


def test_a_frame_is_the_same_whatever_was_before(pasted):
    photo, network, paste = pasted
    frames = [(network.frame(**one), head(one)) for one in (TURNED, BLINKING, TALKING)]
    seen = [paste.put(*one).copy() for one in frames]
    for one, before in zip(reversed(frames), reversed(seen), strict=True):
        assert (paste.put(*one) == before).all()
    fresh = Paste(photo.rgb, photo.place, photo.landmarks, network.frame())
    assert (fresh.put(*frames[1]) == seen[1]).all()


def test_where_nothing_moves_nothing_flickers(hopper):
    """A network's frames are never twice the same; the ground behind a still head is."""
    network = Network(hopper)
    paste = Paste(hopper.rgb, hopper.place, hopper.landmarks, network.frame())
    chance = np.random.default_rng(0)
    frames = []
    for _ in range(8):
        noise = cv2.resize(chance.normal(0, 3.0, (16, 16, 3)).astype(np.float32), (256, 256), interpolation=cv2.INTER_CUBIC)
        frame = np.clip(network.frame() + noise, 0, 255).astype(np.uint8)
        frames.append(paste.put(frame, HeadMotion()).astype(np.float32))
    flicker = np.std(frames, axis=0).mean(2)
    x, y = (round(value) for value in hopper.at(2.4, -0.6))  # blue ground, inside what moves with the head
    half = round(0.3 * hopper.face.iod)
    assert flicker[y - half : y + half, x - half : x + half].mean() < 0.5
    x, y = (round(value) for value in hopper.at(0, 0.3))
    assert flicker[y - half : y + half, x - half : x + half].mean() > 1.5


def test_the_array_is_always_the_same(pasted):
    _, network, paste = pasted
    assert paste.put(network.frame(), HeadMotion()) is paste.put(network.frame(), HeadMotion())


def test_what_the_picture_cuts_off_moves_along_its_border(hopper):
    """Nothing comes in from beyond it, and nothing hangs on it while the head goes on."""
    top = round(hopper.at(0, -1.62)[1])
    part = Photo(np.ascontiguousarray(hopper.rgb[top:]), hopper.landmarks - (0, top))
    around = Surroundings.of(part.rgb.shape, part.landmarks, part.place)
    turned = around.displacement(HeadMotion(roll=6.0))
    x, y = around.grid.sample(turned, np.array([[part.at(side, 0)[0], 0.0] for side in (-0.8, 0.0, 0.8)])).T / part.face.iod
    assert (x > 0.25).all() and (x < 0.4).all()  # 0.32 by its pose
    assert np.abs(y).max() < 0.02


@pytest.mark.parametrize("cut", ["top", "left", "bottom", "tight"])
def test_a_head_at_the_pictures_border(hopper, cut):
    """Where the photo ends the frame goes on to its end; nothing dark, doubled or cut comes in."""
    x0, y0 = np.round(hopper.at(-0.9, -0.8)).astype(int)
    x1, y1 = np.round(hopper.at(0.9, 1.35)).astype(int)
    h, w = hopper.rgb.shape[:2]
    cuts = {"top": (0, y0, w, h), "left": (x0, 0, w, h), "bottom": (0, 0, w, y1), "tight": (x0, y0, x1, y1)}
    left, top, right, bottom = cuts[cut]
    part = Photo(np.ascontiguousarray(hopper.rgb[top:bottom, left:right]), hopper.landmarks - (left, top))
    network = Network(part)
    paste = Paste(part.rgb, part.place, part.landmarks, network.frame())
    picture = paste.put(network.frame(**TALKING), head(TALKING))
    soft = [cv2.GaussianBlur(side, (0, 0), 5.0).astype(float) for side in (picture, whole(part, **TALKING))]
    assert picture.shape == part.rgb.shape
    assert np.percentile(np.abs(soft[0] - soft[1]).max(2), 99) < 40


def test_the_edge_of_a_scan_stays_at_the_edge(hopper):
    """A light line along the picture's border does not move in with what follows the head."""
    scanned = hopper.rgb.copy()
    scanned[:2] = scanned[-2:] = scanned[:, :2] = scanned[:, -2:] = 255
    top = round(hopper.at(0, -2.3)[1])
    part = Photo(scanned[top:], hopper.landmarks - (0, top))
    part.rgb[:2] = 255
    network = Network(part)
    coefficients = {"roll": 4.0, "shift_y": 0.08}
    picture = Paste(part.rgb, part.place, part.landmarks, network.frame()).put(network.frame(**coefficients), head(coefficients))
    across = slice(*np.round([hopper.at(x, 0)[0] for x in (-1.6, 1.6)]).astype(int))
    inner = picture[3:12, across].astype(int)
    assert (inner.min(2) > 240).mean() <= (part.rgb[3:12, across].min(2) > 240).mean() + 0.005


def test_the_silhouette_has_the_hat_and_not_the_flag(hopper):
    silhouette = find_silhouette(hopper.rgb, hopper.landmarks)
    assert silhouette.found and silhouette.note == ""

    def outside(x: float, y: float) -> float:
        return float(silhouette.at(hopper.at(x, y)[None, None])[0, 0])

    assert max(outside(0, 0), outside(0, -1.4), outside(0.9, -1.1), outside(0, 1.9), outside(0, 3.0)) < -0.05
    assert min(outside(-2.0, -0.5), outside(2.0, -1.0), outside(1.9, 0.8)) > 0.25
    again = find_silhouette(hopper.rgb, hopper.landmarks)
    assert (again.outside == silhouette.outside).all()


def test_a_head_that_is_half_covered_gets_an_ellipse_and_a_note(hopper):
    covered = hopper.rgb.copy()
    covered[:, round(hopper.at(0.1, 0)[0]) :] = (120, 140, 90)
    silhouette = find_silhouette(covered, hopper.landmarks)
    assert not silhouette.found and silhouette.note == NOT_FOUND
    at = np.stack([hopper.at(x, y) for x, y in ((0, 0), (0, -1.5), (-1.9, 0), (1.9, 0), (0, -2.4))])[None]
    assert list(silhouette.at(at)[0] < 0) == [True, True, False, False, False]


def test_colours_are_matched_and_another_picture_is_no_tint(collins):
    photo = collins.rgb[collins.place.slices]
    mask = np.ones((64, 64), np.float32)
    tinted = np.clip(photo * np.float32([1.05, 0.97, 0.95]) + 4, 0, 255).astype(np.uint8)
    back = cv2.transform(tinted, match_colours(tinted, photo, mask)).astype(float)
    assert np.abs(back - photo).mean() < 1.0 < np.abs(tinted.astype(float) - photo).mean()
    other = np.random.default_rng(0).integers(0, 255, photo.shape).astype(np.uint8)
    assert (match_colours(other, photo, mask) == np.eye(3, 4)).all()
    grey = np.full_like(photo, 90)
    assert np.abs(cv2.transform(grey, match_colours(grey, grey, mask)).astype(int) - 90).max() <= 1


def test_a_frame_may_have_any_size_and_the_place_any_shape(collins):
    """A place that the picture has cut off is no square, and a restored frame is larger."""
    top = round(collins.at(0, -1.0)[1])
    place = Box(collins.place.left, top, collins.place.right, collins.place.bottom)
    paste = Paste(collins.rgb, place, collins.landmarks)
    for size in ((100, 180), (256, 256), (640, 333)):
        frame = cv2.resize(collins.rgb[place.slices], size, interpolation=cv2.INTER_AREA)
        picture = paste.put(frame, HeadMotion())
        soft = [cv2.GaussianBlur(side, (0, 0), 3.0).astype(float) for side in (picture, collins.rgb)]
        assert np.abs(soft[0] - soft[1]).mean(2).max() < 14
