"""From sound and photo to the coefficients that move the face: what is heard, cut out, fitted and made of it."""

from __future__ import annotations

import importlib.util
import json
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from extensions.sadtalker.engines.neural import coefficients, geometry, layout, mel, motion
from extensions.sadtalker.engines.neural.networks import blocks
from extensions.sadtalker.engines.neural.networks.audio import AudioToExpression
from extensions.sadtalker.engines.neural.networks.keypoints import KeypointDetector, expectation
from extensions.sadtalker.engines.neural.networks.mapping import MappingNet
from extensions.sadtalker.engines.neural.networks.pose import AudioToPose
from extensions.sadtalker.engines.neural.networks.recon import FaceFit
from tests import neural_files
from webui.errors import NoFaceFound

PARITY = Path(__file__).parents[2] / "shared" / "parity"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def nets() -> Any:
    return SimpleNamespace(
        expression=AudioToExpression.of(neural_files.tensors("audio2exp")),
        pose=AudioToPose.of(neural_files.tensors("audio2pose")),
    )


@pytest.fixture(scope="module")
def fit() -> FaceFit:
    return FaceFit.of(neural_files.tensors("face_3drecon"))


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Something to hear: noise that grows louder."""
    count = round(seconds * mel.SAMPLE_RATE)
    return (np.random.default_rng(seed).standard_normal(count) * np.linspace(0.01, 0.3, count)).astype(np.float32)


def row(seed: int = 0) -> np.ndarray:
    """A photo's coefficients."""
    return np.random.default_rng(seed).standard_normal((1, 73)).astype(np.float32) * 0.3


def rows_of(samples: np.ndarray) -> np.ndarray:
    heard = mel.MelRows()
    heard.push(samples)
    return heard.finish()


def hearing(seconds: float = 3.0) -> motion.Hear:
    return partial(mel.windows, rows_of(noise(seconds)))


class TestMel:
    def test_pieces_of_any_length_give_the_same_rows(self):
        sound = noise(2.7)
        whole = rows_of(sound)
        for cuts in ([1, 2, 399, 400, 641, 5000], [639, 640, 1280, 30000, 43199], range(160, 43200, 160)):
            ear = mel.MelRows()
            for piece in np.split(sound, list(cuts)):
                ear.push(piece)
            np.testing.assert_allclose(ear.finish(), whole, atol=1e-5)

    def test_80_rows_a_second_for_25_whole_frames(self):
        assert len(rows_of(noise(3))) == 241
        np.testing.assert_array_equal(rows_of(noise(3)), rows_of(np.append(noise(3), [0.5] * 639)))

    def test_less_than_a_frame_is_not_heard(self):
        ear = mel.MelRows()
        ear.push(noise(0.039))
        assert ear.finish().shape == (0, 80) and ear.frames == 0

    def test_silence_is_the_floor_and_a_tone_is_where_its_pitch_is(self):
        assert np.all(rows_of(np.zeros(16000)) == -mel.LOUDEST)
        time = np.arange(16000) / mel.SAMPLE_RATE
        low, high = (rows_of(0.5 * np.sin(2 * np.pi * hertz * time))[40].argmax() for hertz in (200, 4000))
        filters = mel.mel_filters()
        for hertz, band in ((200, low), (4000, high)):
            assert filters[:, round(hertz / 20)].argmax() == band

    def test_no_numbers_are_silence(self):
        broken = noise(1)
        broken[500:600] = np.nan
        assert np.isfinite(rows_of(broken)).all()

    def test_the_sound_itself_is_not_held(self):
        piece = noise(10)
        ear = mel.MelRows()
        tracemalloc.start()
        for _ in range(18):
            ear.push(piece)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        held = ear.finish().nbytes
        assert len(ear.finish()) == 180 * 80 + 1
        assert peak < held + 12e6 < 18 * piece.astype(float).nbytes

    def test_a_window_begins_two_frames_early_and_does_not_leave_the_sound(self):
        rows = np.arange(241, dtype=np.float32)[:, None].repeat(80, 1)
        windows = mel.windows(rows, 0, 75)
        assert windows.shape == (75, 80, 16) and windows.dtype == np.float32
        np.testing.assert_array_equal(windows[0, 0], [0] * 6 + list(range(10)))  # -6, and -3 for the next: towards zero
        np.testing.assert_array_equal(windows[1, 0], [0] * 3 + list(range(13)))
        np.testing.assert_array_equal(windows[12, 5], range(32, 48))
        np.testing.assert_array_equal(windows[74, 0][-8:], [238, 239, 240, 240, 240, 240, 240, 240][-8:])
        np.testing.assert_array_equal(mel.windows(rows, 30, 40), windows[30:40])

    def test_without_a_sound_nothing_is_heard(self):
        assert not mel.windows(np.empty((0, 80), np.float32), 5, 9).any()


def face(centre: tuple[float, float], span: float, angle: float = 0.0) -> np.ndarray:
    """68 points of an upright face, the eyes `span` apart; only those that the geometry asks for are meant seriously."""
    points = np.zeros((68, 2))
    eye = 0.1 * np.array([[-1, 0], [-0.5, -1], [0.5, -1], [1, 0], [0.5, 1], [-0.5, 1]])
    points[36:42], points[42:48] = eye - (0.5, 0), eye + (0.5, 0)
    points[30], points[48], points[54] = (0, 0.6), (-0.4, 1.05), (0.4, 1.05)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points @ turn.T * span + centre).astype(np.float32)


class TestCrop:
    @pytest.mark.parametrize("size", [(640, 480), (300, 900), (900, 300), (474, 474)])
    @pytest.mark.parametrize("at", [(0.5, 0.5), (0.1, 0.2), (0.95, 0.9), (0.5, 0.97)])
    @pytest.mark.parametrize("span", [12.0, 90.0, 400.0])
    def test_what_is_cut_lies_in_the_picture_and_is_as_large_as_it_says(
        self, size: tuple[int, int], at: tuple[float, float], span: float
    ):
        crop = geometry.crop_of(face((at[0] * size[0], at[1] * size[1]), span), size)
        picture = np.zeros((size[1], size[0], 3), np.uint8)
        for ext in (False, True):
            left, top, right, bottom = crop.place(ext=ext)
            assert 0 <= left < right <= size[0] + 1e-6 and 0 <= top < bottom <= size[1] + 1e-6
            cut = crop.cut(picture, ext=ext)
            if crop.rsize == size:
                assert cut.shape[:2] == (bottom - top, right - left)

    def test_a_tall_picture_is_not_cut_off_at_the_height_of_its_width(self):
        """Upstream's rectangle ends at y = 300 there: the chin is missing."""
        crop = geometry.crop_of(face((150, 240), 60), (300, 900))
        left, top, right, bottom = crop.place()
        whole = geometry.crop_of(face((150, 240), 60), (900, 900))
        assert bottom - top == whole.place()[3] - whole.place()[1] and right - left == 240

        wide = geometry.crop_of(face((150, 700), 60), (300, 900))
        assert wide.place()[3] - wide.place()[1] == pytest.approx(right - left, abs=1)

    def test_of_a_large_face_the_place_is_in_the_pictures_own_pixels(self):
        """Upstream pastes it in the pixels of the picture that was made smaller, at half the distance from the corner."""
        points = face((3000, 2500), 700)
        crop = geometry.crop_of(points, (6000, 5000))
        assert crop.rsize < (6000, 5000) and 6000 % crop.rsize[0] == 0
        left, top, right, bottom = crop.place()
        for point in points[[36, 45, 48, 54]]:
            assert left < point[0] < right and top < point[1] < bottom
        small = geometry.crop_of(points / 4, (1500, 1250))
        assert crop.place() == pytest.approx([4 * side for side in small.place()], abs=8)

    def test_landmarks_go_where_the_pixels_go(self):
        picture = np.zeros((900, 300, 3), np.uint8)
        points = face((140, 500), 50)
        x, y = np.rint(points[30]).astype(int)
        picture[y - 3 : y + 4, x - 3 : x + 4] = 255
        crop = geometry.crop_of(points, (300, 900))
        cut = geometry.resized(crop.cut(picture), 256)
        moved = geometry.into(points, crop.place(), 256)
        seen = np.argwhere(cut[..., 0] > 128).mean(0)[::-1]
        assert moved[30] == pytest.approx(seen, abs=1.5)

    def test_ext_shows_more(self):
        crop = geometry.crop_of(face((320, 240), 60), (640, 480))
        inner, outer = crop.place(), crop.place(ext=True)
        assert outer[0] < inner[0] < inner[2] < outer[2] and outer[1] < inner[1] < inner[3] < outer[3]


class TestAlign:
    def test_the_standard_face_is_laid_in_the_middle(self):
        points = (geometry.standard(256) - 128) * 0.6 + (150, 120)
        aligned = geometry.align(np.zeros((256, 256, 3), np.uint8), points)
        expected = geometry.STANDARD_POINTS[:, :2] * 102 + 112
        assert aligned.landmarks == pytest.approx(expected, abs=0.6)
        assert (aligned.x, aligned.y) == pytest.approx((150, 120), abs=0.01)
        assert aligned.image.shape == (224, 224, 3)

    def test_pixels_move_with_the_points(self):
        picture = np.zeros((256, 256, 3), np.uint8)
        points = face((120, 110), 50)
        x, y = np.rint(points[30]).astype(int)
        picture[y - 4 : y + 5, x - 4 : x + 5] = 255
        aligned = coefficients.aligned_face(picture, points)
        seen = np.argwhere(aligned.image[..., 0] > 128).mean(0)
        assert aligned.landmarks[30] == pytest.approx((seen[1], 224 - 1 - seen[0]), abs=1.5)

    def test_without_a_face_it_is_taken_to_be_in_the_middle(self):
        aligned = coefficients.aligned_face(np.zeros((512, 512, 3), np.uint8), None)
        assert (aligned.x, aligned.y) == pytest.approx((256, 256), abs=0.01)


class TestCoefficients:
    def test_a_row_is_expression_pose_and_place(self, fit: FaceFit):
        picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
        points = face((128, 110), 55)
        values = coefficients.fit(picture, points, fit)
        aligned = coefficients.aligned_face(picture, points)
        whole = coefficients.regressed([aligned.image], fit)
        assert values.shape == (1, 73) and values.dtype == np.float32 and whole.shape == (1, 257)
        np.testing.assert_array_equal(values[:, :64], whole[:, 80:144])
        np.testing.assert_array_equal(values[:, 64:70], np.concatenate([whole[:, 224:227], whole[:, 254:257]], 1))
        assert values[0, 70:] == pytest.approx([aligned.scale, aligned.x, aligned.y])

    def test_a_clip_is_cut_where_its_first_face_is_and_fitted_frame_by_frame(self, fit: FaceFit):
        random = np.random.default_rng(1)
        frames = random.integers(0, 256, (10, 120, 160, 3), np.uint8)
        points = [face((70 + i, 50), 22) for i in range(10)]
        rows = coefficients.of_clip(zip(frames, points, strict=True), fit, size=256)
        crop = geometry.crop_of(points[0], (160, 120))
        for i in (0, 7, 8, 9):  # more than is fitted at once
            picture = geometry.resized(crop.cut(frames[i]), 256)
            alone = coefficients.fit(picture, geometry.into(points[i], crop.place(), 256), fit)
            np.testing.assert_allclose(rows[i : i + 1], alone, atol=1e-4)
        assert len(rows) == 10

    def test_a_clip_with_nothing_in_it(self, fit: FaceFit):
        with pytest.raises(NoFaceFound, match="no frame in which a face is found"):
            coefficients.of_clip([], fit, size=256)


class TestSpeaking:
    @pytest.mark.parametrize("frames", [1, 2, 3, 12, 21, 33, 34, 75])
    def test_clips_of_any_length(self, nets: Any, frames: int):
        """Upstream fails at 21 frames, and at less than three."""
        made = motion.speak(hearing(), frames, row(), nets, seed=3)
        assert made.shape == (frames, 70) and made.dtype == np.float32 and np.isfinite(made).all()

    def test_a_seed_says_what_is_done(self, nets: Any):
        speak = partial(motion.speak, hearing(), 75, row(), nets)
        first = speak(seed=1)
        np.testing.assert_array_equal(first, speak(seed=1))
        assert not np.array_equal(first[:, 64:], speak(seed=2)[:, 64:])

    def test_a_style_changes_the_head_alone_and_blinks_the_face_alone(self, nets: Any):
        speak = partial(motion.speak, hearing(), 75, row(), nets, seed=1)
        plain, other, still = speak(style=0), speak(style=45), speak(blink=False)
        np.testing.assert_array_equal(plain[:, :64], other[:, :64])
        assert np.abs(plain[:, 64:] - other[:, 64:]).max() > 1e-3
        np.testing.assert_array_equal(plain[:, 64:], still[:, 64:])
        differs = np.abs(plain[:, :64] - still[:, :64]).max(1) > 0
        np.testing.assert_array_equal(differs, motion.blinks(75, np.random.default_rng((1, 0)))[:, 0] > 0)

    def test_the_lids_of_a_clip_take_the_place_of_blinks(self, nets: Any):
        clip = np.concatenate([row(seed) for seed in range(5)])
        made = motion.speak(hearing(), 40, row(9), nets, seed=1, lids=clip)
        alone = motion.expressions(hearing(), clip[np.arange(40) % 5, :64], np.zeros((40, 1), np.float32), nets.expression)
        np.testing.assert_array_equal(made[:, :64], alone)

    def test_the_head_of_a_clip_is_added(self, nets: Any):
        clip = np.concatenate([row(seed) for seed in range(5)])
        speak = partial(motion.speak, hearing(), 12, row(9), nets, seed=1)
        added = speak(head=clip)[:, 64:] - speak()[:, 64:]
        expected = (clip - clip[:1])[np.arange(12) % 5, 64:70]
        np.testing.assert_allclose(added, expected, atol=1e-6)

    def test_how_far_it_is_can_be_told_and_stopped(self, nets: Any):
        told: list[float] = []
        motion.speak(hearing(), 75, row(), nets, tick=told.append)
        assert told == sorted(told) and 0 < told[0] < 0.5 < told[-2] < told[-1] == 1

        def stop(_share: float) -> None:
            raise InterruptedError

        with pytest.raises(InterruptedError):
            motion.speak(hearing(), 75, row(), nets, tick=stop)

    def test_a_voice_says_something_else_than_silence(self, nets: Any):
        heard = motion.speak(hearing(), 30, row(), nets)
        idle = motion.speak(partial(mel.windows, np.empty((0, 80), np.float32)), 30, row(), nets)
        assert np.abs(heard - idle)[:, :64].max() > 1e-3


class TestHead:
    def poses(self, nets: Any, frames: int, seed: int = 0) -> np.ndarray:
        drawn = np.random.default_rng(seed).standard_normal((10, 64), np.float32)
        return motion.head_poses(hearing(), frames, row()[:, 64:70], nets.pose, style=7, noise=drawn)

    def test_the_first_frame_holds_the_head_as_the_photo_does(self, nets: Any):
        for frames in (1, 2, 40):
            np.testing.assert_array_equal(self.poses(nets, frames)[0], row()[0, 64:70])

    def test_whole_pieces_do_not_hang_on_what_follows(self, nets: Any):
        np.testing.assert_allclose(self.poses(nets, 33), self.poses(nets, 75)[:33], atol=1e-6)
        np.testing.assert_allclose(self.poses(nets, 65), self.poses(nets, 75)[:65], atol=1e-6)

    def test_the_rest_is_the_end_of_the_last_32_windows(self, nets: Any):
        drawn = np.random.default_rng(0).standard_normal((2, 64), np.float32)
        windows = torch.from_numpy(hearing()(8, 40)[:, None])
        made = nets.pose(nets.pose.embed(windows)[None], torch.from_numpy(row()[:, 64:70]), 7, torch.from_numpy(drawn[1:]))
        poses = motion.head_poses(hearing(), 40, row()[:, 64:70], nets.pose, style=7, noise=drawn)
        np.testing.assert_allclose(poses[33:], row()[:, 64:70] + made[0, -7:].numpy(), atol=1e-6)

    def test_of_a_short_clip_the_first_window_stands_for_those_that_are_missing_before_it(self, nets: Any):
        drawn = np.random.default_rng(0).standard_normal((1, 64), np.float32)
        windows = torch.from_numpy(hearing()(1, 6)[[0] * 28 + [1, 2, 3, 4]][:, None])
        made = nets.pose(nets.pose.embed(windows)[None], torch.from_numpy(row()[:, 64:70]), 7, torch.from_numpy(drawn))
        poses = motion.head_poses(hearing(), 6, row()[:, 64:70], nets.pose, style=7, noise=drawn)
        np.testing.assert_allclose(poses[1:], row()[:, 64:70] + made[0, -5:].numpy(), atol=1e-4)

    def test_noise_is_as_long_as_it_is_used(self):
        random = np.random.default_rng(0)
        assert [len(motion.noise_of(frames, random)) for frames in (1, 2, 33, 34, 75)] == [0, 1, 1, 2, 3]


class TestBlinks:
    def test_a_short_clip_has_none_and_one_of_21_frames_has_one(self):
        assert not motion.blinks(20, np.random.default_rng(0)).any()
        for seed in range(20):
            assert motion.blinks(21, np.random.default_rng(seed)).sum() == pytest.approx(motion.BLINK.sum())

    @pytest.mark.parametrize("frames", [22, 45, 75, 3000])
    def test_gaps_are_of_10_to_69_frames_and_no_blink_is_cut_off(self, frames: int):
        gaps = set()
        for seed in range(30):
            ratio = motion.blinks(frames, np.random.default_rng(seed))
            assert ratio.shape == (frames, 1) and ratio[-1] == 0
            starts = np.flatnonzero(np.diff(ratio[:, 0], prepend=0) == 0.5)
            for start in starts:
                np.testing.assert_array_equal(ratio[start : start + 5, 0], motion.BLINK)
            gaps |= set(np.diff(np.append(-5, starts)) - 5)
        assert min(gaps) >= 10 and max(gaps) <= max(10, min(frames // 2, 70) - 1)
        assert frames < 3000 or (min(gaps) == 10 and max(gaps) == 69)


class TestSmoothing:
    def test_a_parabola_stays_and_noise_goes(self):
        time = np.arange(50.0)
        parabola = (0.01 * time**2 - time + 3)[:, None].astype(np.float32)
        np.testing.assert_allclose(motion.smoothed(parabola), parabola, atol=1e-4)
        noise = np.random.default_rng(0).standard_normal((500, 6)).astype(np.float32)
        assert motion.smoothed(noise).std() < 0.6

    @pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 12])
    def test_of_a_few_rows_as_many_as_there_are(self, frames: int):
        """A parabola through three points meets them all."""
        values = np.random.default_rng(0).standard_normal((frames, 6)).astype(np.float32)
        smooth = motion.smoothed(values)
        assert smooth.shape == values.shape
        assert np.allclose(smooth, values, atol=1e-6) == (frames < 5)


class TestBlocks:
    def norm(self, channels: int) -> dict[str, torch.Tensor]:
        names = ("weight", "bias", "running_mean", "running_var")
        return {f"n.{name}": torch.rand(channels) + 0.5 for name in names}

    @pytest.mark.parametrize("sides", [1, 2, 3])
    @pytest.mark.parametrize("bias", [True, False])
    def test_a_norm_worked_into_a_convolution_gives_the_same(self, sides: int, bias: bool):
        torch.manual_seed(sides)
        tensors = self.norm(5) | {"c.weight": torch.randn(5, 3, *[3] * sides)} | ({"c.bias": torch.randn(5)} if bias else {})
        x = torch.randn(2, 3, *[7] * sides)
        plain = (F.conv1d, F.conv2d, F.conv3d)[sides - 1](x, tensors["c.weight"], tensors.get("c.bias"), padding=1)
        arguments = [tensors[f"n.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        expected = F.batch_norm(plain, *arguments)
        torch.testing.assert_close(blocks.conv(tensors, "c", "n", padding=1)(x), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(blocks.Affine.of(tensors, "n", sides)(plain), expected, atol=1e-5, rtol=1e-5)

    def test_a_spectral_norm_divides_by_the_largest_singular_value(self):
        torch.manual_seed(0)
        weight = torch.randn(6, 4, 3, 3)
        u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        tensors = {"c.weight_orig": weight, "c.weight_u": u[:, 0], "c.weight_v": v[0]}
        torch.testing.assert_close(blocks.spectral(tensors, "c"), weight / s[0])

    def test_the_expectation_of_a_point_is_the_point(self):
        heat = torch.zeros(1, 1, 16, 8, 8)
        heat[0, 0, 15, 0, 7] = 1
        assert expectation(heat)[0, 0].tolist() == [1, -1, 1]


PINNED = {
    "audio2exp": [-27.0486, 19.4263, -90.9492, -8.45384, -51.8036, -14.1035],
    "audio2pose": [0.735788, -0.74443, -1.29175, 1.17536, 0.191344, -0.33379],
    "face_3drecon": [298.703, -82.8225, -211.008, -71.1937, 112.099, -189.45],
    "mapping": [-2.5194, -2.86597, -3.64571, 3.13933, 1.83559, -0.712411],
    "mapping_full": [-4.43892, -0.778727, 1.86757, 1.89825, -1.49868, 3.45322],
    "kp_extractor": [-0.0451211, -0.383602, -0.848143, 0.0126776, -0.192705, 0.890774],
}
"""The first numbers of each network with the random weights of neural_files, taken when upstream's goldens were met."""


@pytest.mark.parametrize("net", PINNED)
def test_a_network_computes_what_it_did_when_it_met_upstreams_numbers(net: str, nets: Any, fit: FaceFit):
    random = np.random.default_rng(5)

    def given(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.random(shape, np.float32))

    if net == "audio2exp":
        made = nets.expression(given(1, 1, 80, 16) * 8 - 4, given(1, 64), given(1, 1))
    elif net == "audio2pose":
        made = nets.pose(nets.pose.embed(given(32, 1, 80, 16) * 8 - 4)[None], given(1, 6), 13, given(1, 64))
    elif net == "face_3drecon":
        made = fit(given(1, 3, 224, 224))
    elif net == "kp_extractor":
        made = KeypointDetector.of(neural_files.tensors(net))(given(1, 3, 256, 256))
    else:
        heads = MappingNet.of(neural_files.tensors(net))(given(1, layout.SEMANTICS[net == "mapping_full"], 27))
        made = torch.cat([heads[name][:, :2] for name in ("yaw", "pitch", "roll", "t", "exp")], 1)
    assert made.flatten()[:6].tolist() == pytest.approx(PINNED[net], rel=1e-4, abs=1e-4)


@pytest.mark.long
@pytest.mark.skipif(not PARITY.is_dir(), reason="upstream's goldens, ../shared/parity, are not at hand")
def test_upstreams_numbers_are_met():
    """All stages up to the coefficients; `python -m bench.parity` compares the others, too."""
    from bench.parity import report
    from bench.parity.motion import STAGES

    spec = importlib.util.spec_from_file_location("weights", PARITY / "weights.py")
    assert spec is not None and spec.loader is not None
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    section = json.loads((PARITY / "manifest.json").read_text())["files"][neural_files.MAIN[256]]
    standin = SimpleNamespace(
        expression=AudioToExpression.of(weights.checkpoint(section, "audio2exp.")),
        pose=AudioToPose.of(weights.checkpoint(section, "audio2pose.")),
        fit=FaceFit.of(weights.checkpoint(section, "face_3drecon.")),
    )
    goldens = report.Goldens(next(PARITY.glob("goldens*.npz")))
    for name, stage in STAGES.items():
        rows = list(stage(goldens, standin))  # pyright: ignore[reportArgumentType]
        assert not [report.row(one) for one in rows if one.failed]
        assert {one.array for one in rows} == {array for array in goldens.outputs if array.startswith(f"{name}/")}
        assert name == "crop" or not any(one.deviates for one in rows)
