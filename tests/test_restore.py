"""Face restoration: its files, where a face is cut out and put back, what stays untouched, and that a clip does not flicker."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests import enhancers as made
from tests import tiny
from webui import devices
from webui.errors import Cancelled, ModelMissing, OutOfMemory, UnsupportedModel
from webui.faces import Face, face_finder
from webui.imaging import alignment, enhancers, restore
from webui.imaging.alignment import SIDE, TEMPLATE, Alignment, cut_out, face_mask, put_back
from webui.imaging.restore import Restorer
from webui.weights.catalog import Catalog
from webui.weights.detect import Found


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    with tiny.calm():
        yield


@pytest.fixture(scope="module")
def photo(portrait_file: Path) -> np.ndarray:
    with Image.open(portrait_file) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.fixture(scope="module")
def face(photo: np.ndarray) -> Face:
    return face_finder().find(photo)[0]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a small RestoreFormer."""
    folder = tmp_path_factory.mktemp("models")
    made.safetensors(folder / "GFPGAN" / "RestoreFormer.safetensors", made.restoreformer())
    return folder


@pytest.fixture(scope="module")
def restorer(files: Path) -> Restorer:
    return restore.load(files / "GFPGAN" / "RestoreFormer.safetensors")


class Nervous(torch.nn.Module):
    """A network that takes no time. It draws a texture over the face: a fixed one, and with `new` another in every frame."""

    def __init__(self, new: float = 0.0) -> None:
        super().__init__()
        self.same, self.new = torch.nn.Identity(), new
        self.texture = 0.3 * torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) - 0.15
        self.dice = torch.Generator().manual_seed(2)

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, None]:
        drawn = self.texture + self.new * torch.randn(crops.shape, generator=self.dice)
        return self.same(crops) + drawn, None


def quick(new: float = 0.0) -> Restorer:
    """A restorer with it, for what is about faces and frames and not about networks."""
    about = SimpleNamespace(model=Nervous(new).eval())
    return Restorer(enhancers.Loaded("quick", Found("restorer", "restoreformer"), about, "cpu", 0))


@pytest.fixture(scope="module")
def gfpgan(tmp_path_factory: pytest.TempPathFactory) -> Restorer:
    """At full size, as GFPGANv1.4.pth is: a pickle with `params_ema`."""
    path = made.pickled(tmp_path_factory.mktemp("gfpgan") / "GFPGANv1.4.pth", made.gfpgan())
    with tiny.calm():
        return restore.load(path, allow_pickles=True)


# ---- files


def test_each_make_is_recognised_by_its_tensors(files: Path, tmp_path: Path):
    folder = tmp_path / "GFPGAN"
    made.safetensors(folder / "a.safetensors", {name: torch.zeros(1) for name in made.gfpgan()})
    made.safetensors(folder / "b.safetensors", made.restoreformer())
    made.safetensors(tmp_path / "Codeformer" / "c.safetensors", made.CODEFORMER)
    found = {entry.stem: entry.found.architecture for entry in Catalog(tmp_path).restorers()}
    assert found == {"a": "gfpgan", "b": "restoreformer", "c": "codeformer"}


def test_files_that_cannot_be_used_are_named_as_what_they_are(tmp_path: Path):
    folder = tmp_path / "GFPGAN"
    made.safetensors(folder / "larger.safetensors", made.esrgan())
    made.safetensors(folder / "finder.safetensors", made.RETINAFACE)
    made.safetensors(folder / "old.safetensors", {"stylegan_decoder.style_mlp.1.weight": torch.zeros(1)})
    made.safetensors(folder / "codeformer.safetensors", made.CODEFORMER)
    made.pickled(folder / "GFPGANv1.4.pth", {"x": torch.zeros(1)})
    half = made.safetensors(folder / "half.safetensors", made.restoreformer())
    half.write_bytes(half.read_bytes()[:-100])
    problems = {entry.name: entry.problem for entry in Catalog(tmp_path).restorers()}
    assert problems["larger.safetensors"].endswith("is an upscaler, not a face restorer. Move it into models/ESRGAN.")
    assert "finder or parser of faces" in problems["finder.safetensors"] and "no harm" in problems["finder.safetensors"]
    assert "of another make" in problems["old.safetensors"] and "GFPGAN 1.3 and 1.4" in problems["old.safetensors"]
    assert "pip install spandrel_extra_arches" in problems["codeformer.safetensors"]
    assert "--allow-pickles" in problems["GFPGANv1.4.pth"] and "breaks off" in problems["half.safetensors"]
    for name in problems:
        with pytest.raises(UnsupportedModel), restore.leased(name, tmp_path, "cpu"):
            pass


def test_a_pickle_that_carries_a_program_is_not_opened(tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"params_ema": {"x": Trap()}}, tmp_path / "GFPGANv1.4.pth")
    with pytest.raises(UnsupportedModel, match="holds more than numbers"):
        restore.load(tmp_path / "GFPGANv1.4.pth", allow_pickles=True)
    assert not (tmp_path / "sprung").exists()


def test_one_is_asked_for_by_file_or_by_make_and_stays_in_memory(files: Path):
    devices.unload()
    with restore.leased("RestoreFormer.safetensors", files, "cpu") as first:
        pass
    with restore.leased("restoreformer", files, "cpu") as second:
        assert second is first and second.make == "restoreformer"
    assert [one.name for one in devices.loaded()] == ["RestoreFormer.safetensors"]
    with pytest.raises(ModelMissing, match=r"There is no face restorer 'GFPGAN'. Put it into models/GFPGAN."):
        restore.leased("GFPGAN", files, "cpu").__enter__()
    devices.unload()
    assert devices.loaded() == []


# ---- where a face is


def similarity(scale: float, degrees: float, x: float, y: float) -> Alignment:
    turn = np.deg2rad(degrees)
    return Alignment(scale * np.cos(turn), scale * np.sin(turn), x, y)


def in_picture(place: Alignment, points: np.ndarray) -> np.ndarray:
    """The picture's points that lie at these of the cut-out."""
    return np.linalg.solve(place.matrix[:, :2], (points - place.matrix[:, 2]).T).T


@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 0), (0.4, 10), (3.0, -35), (1.7, 170)])
def test_points_that_lie_as_ffhqs_do_are_put_where_ffhq_has_them(scale: float, degrees: float):
    place = similarity(scale, degrees, 40, -90)
    found = Alignment.of_points(in_picture(place, TEMPLATE))
    np.testing.assert_allclose(found.matrix, place.matrix, atol=1e-9)
    assert found.scale == pytest.approx(scale)


def test_68_landmarks_are_five_points(face: Face):
    points = face.landmarks
    five = [points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]]
    assert Alignment.of_points(points) == Alignment.of_points(np.array(five)) == alignment.alignment(points)


def test_the_same_face_in_a_larger_picture_or_a_part_of_it():
    place = similarity(1.3, 20, 10, 20)
    points = np.array([(0.0, 0.0), (100, 50), (30, 200)])
    same = points @ place.matrix[:, :2].T + place.matrix[:, 2]
    larger = place.enlarged(2.5)
    np.testing.assert_allclose(((points + 0.5) * 2.5 - 0.5) @ larger.matrix[:, :2].T + larger.matrix[:, 2], same)
    part = place.moved(7, -4)
    np.testing.assert_allclose((points - (7, -4)) @ part.matrix[:, :2].T + part.matrix[:, 2], same)


def test_a_box_is_as_good_as_landmarks_to_a_tenth_of_the_face(face: Face):
    by_box, by_points = Alignment.of_box(face.box), Alignment.of_points(face.landmarks)
    points = in_picture(by_points, TEMPLATE)
    placed = points @ by_box.matrix[:, :2].T + by_box.matrix[:, 2]
    assert np.abs(placed - TEMPLATE).max() < 40 and by_box.scale == pytest.approx(by_points.scale, rel=0.2)


def test_over_time_the_place_follows_the_face_and_does_not_tremble():
    true = [similarity(1.2, 3 * np.sin(t / 25), 100 + t, 50) for t in range(100)]
    dice = np.random.default_rng(1)
    seen = np.array([in_picture(one, TEMPLATE) + dice.normal(0, 0.7, (5, 2)) for one in true])
    shift = np.array([one.shift_x for one in restore.steady(seen)])
    raw = np.array([Alignment.of_points(points).shift_x for points in seen])
    tremor = [np.abs(np.diff(values, 2)).mean() for values in (raw, shift)]
    assert tremor[1] < 0.15 * tremor[0]
    off = [np.abs(values - [one.shift_x for one in true])[5:-5].mean() for values in (raw, shift)]
    assert off[1] < 0.6 * off[0]
    assert len(restore.steady(seen[:1])) == 1 and len(restore.steady(seen[:2])) == 2


# ---- cutting out and putting back


def test_eyes_and_mouth_of_a_photo_come_to_their_places(photo: np.ndarray, face: Face):
    crop = cut_out(photo, Alignment.of_points(face.landmarks))
    assert crop.shape == (SIDE, SIDE, 3) and crop.dtype == np.float32 and 0 <= crop.min() < crop.max() <= 1
    again = face_finder().find(np.clip(255 * crop, 0, 255).astype(np.uint8))[0]
    points = again.landmarks
    five = np.array([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])
    assert np.abs(five - TEMPLATE).max() < 14


@pytest.mark.parametrize("scale", [0.25, 0.6, 1.0, 2.2, 6.0])
def test_a_face_goes_back_to_where_it_was_cut_out(scale: float):
    """One that is brighter all over makes its middle brighter by so much, and nothing beyond the mask."""
    side = round(1100 / scale)
    picture = np.full((side, side, 3), 100, np.uint8)
    place = similarity(scale, 12, -120, -300)
    cut = cut_out(picture, place)
    put_back(picture, place, cut + np.float32(0.2), cut)
    middle = np.round(in_picture(place, np.array([(256.0, 292.0)]))[0]).astype(int)
    assert np.abs(picture[middle[1], middle[0]].astype(int) - 151).max() <= 1
    far = in_picture(place, np.array([(256.0, 560.0)]))[0].astype(int)
    assert (picture[far[1], far[0]] == 100).all() and (picture[:3] == 100).all()


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_what_is_cut_out_and_what_is_put_back_lie_on_each_other(scale: float):
    """To a tenth of a pixel: a picture's own structure is taken out of it by its own cut-out."""
    side = round(700 / scale)
    y, x = np.mgrid[:side, :side] * scale / 40
    picture = np.repeat((128 + 60 * np.sin(x) * np.cos(y))[..., None], 3, 2).astype(np.uint8)
    place = similarity(scale, -8, -90, -60)
    changed = picture.copy()
    cut = cut_out(picture, place)
    put_back(changed, place, np.full_like(cut, 128 / 255), cut)
    inside = in_picture(place, np.array([(256.0, 250.0), (200.0, 300.0), (310.0, 330.0)])).astype(int)
    for px, py in inside:
        reach = max(2, round(30 / scale))
        part = changed[py - reach : py + reach, px - reach : px + reach].astype(int)
        assert np.abs(part - 128).max() <= 4, np.abs(part - 128).max()


@pytest.mark.parametrize("box", [(-80, 20, 60, 160), (150, 150, 400, 400), (500, 500, 600, 600), (-900, -900, -800, -800)])
def test_a_face_that_leaves_the_picture_is_no_trouble(box: tuple[float, float, float, float]):
    picture = np.random.default_rng(2).integers(0, 256, (200, 220, 3), np.uint8)
    restored = quick().picture(picture, [box])
    assert restored.shape == picture.shape and restored.dtype == np.uint8
    if box[0] > 300 or box[2] < -300:
        assert np.array_equal(restored, picture)


def test_a_large_face_of_which_only_the_edge_is_in_the_picture_is_no_trouble():
    picture = np.random.default_rng(2).integers(0, 256, (200, 220, 3), np.uint8)
    for shift in range(-60, 600, 20):
        assert quick().picture(picture, [Alignment(0.1, 0, shift, 100)]).shape == picture.shape


def test_the_mask_ends_before_the_cut_out_does():
    mask = face_mask()
    assert mask[292, 256] == pytest.approx(1, abs=1e-3)
    assert max(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) < 0.01
    assert np.abs(np.diff(mask[..., 0], axis=0)).max() < 0.03, "soft"


# ---- pictures


def test_the_network_gets_what_it_was_trained_with(restorer: Restorer, photo: np.ndarray, face: Face):
    """As spandrel calls RestoreFormer: with the picture in -1..1."""
    place = Alignment.of_points(face.landmarks)
    crop = torch.from_numpy(cut_out(photo, place)).permute(2, 0, 1)[None].contiguous()
    from spandrel import MAIN_REGISTRY

    wanted = MAIN_REGISTRY.load(dict(made.restoreformer()))(crop)
    with torch.inference_mode():
        ours = restorer._restored(crop, 0.5)
    assert torch.equal(ours, wanted)


def test_faces_change_and_nothing_else(restorer: Restorer, photo: np.ndarray, face: Face):
    before = photo.copy()
    restored = restorer.picture(photo, [face.landmarks])
    assert np.array_equal(photo, before) and restored.shape == photo.shape
    changed = np.abs(restored.astype(int) - photo).max(2)
    left, top, right, bottom = (round(side) for side in face.box)
    assert changed[top:bottom, left:right].mean() > 5
    near = np.zeros(changed.shape, bool)
    height, width = bottom - top, right - left
    near[max(0, top - height) : bottom + height, max(0, left - width) : right + width] = True
    assert changed[~near].max() == 0
    assert changed[0].max() == changed[:, 0].max() == 0


def test_strength_goes_from_nothing_to_all(photo: np.ndarray, face: Face):
    none, half, full = (quick().picture(photo, [face.landmarks], strength=one).astype(int) for one in (0, 0.5, 1))
    assert np.array_equal(none, photo)
    inside = (np.abs(full - photo) > 3) & (full > 2) & (full < 253)
    np.testing.assert_allclose((half - photo)[inside], 0.5 * (full - photo)[inside], atol=1.01)


def test_several_faces_are_restored_together(restorer: Restorer, photo: np.ndarray, face: Face, monkeypatch: pytest.MonkeyPatch):
    two = np.concatenate([photo, photo], axis=1)
    places = [face.landmarks, face.landmarks + (photo.shape[1], 0)]
    monkeypatch.setattr(restorer, "_batch", 2)
    told: list[float] = []
    both = restorer.picture(two, places, progress=told.append)
    one = restorer.picture(photo, places[:1]).astype(int)
    assert np.abs(both[:, : photo.shape[1]] - one).max() <= 1 and np.abs(both[:, photo.shape[1] :] - one).max() <= 1
    assert told == [0.0]


def test_it_stops_between_two_layers(restorer: Restorer, photo: np.ndarray, face: Face):
    asked = iter([False] * 5 + [True])
    with pytest.raises(Cancelled):
        restorer.picture(photo, [face.landmarks], stopped=lambda: next(asked))
    assert next(asked, None) is None


def test_when_memory_runs_out_fewer_faces_are_restored_at_a_time(
    photo: np.ndarray, face: Face, monkeypatch: pytest.MonkeyPatch
):
    restorer = quick()
    ask, most = restorer._ask, 1

    def short(crops: torch.Tensor, fidelity: float) -> torch.Tensor:
        if len(crops) > most:
            raise MemoryError
        return ask(crops, fidelity)

    monkeypatch.setattr(restorer, "_ask", short)
    restorer._batch = 4
    three = restorer.picture(photo, [face.landmarks] * 3, strength=0.3)
    assert three.shape == photo.shape and restorer._batch == 1
    most = 0
    with pytest.raises(OutOfMemory, match="too little memory for restoring a face"):
        restorer.picture(photo, [face.landmarks])


@pytest.fixture(scope="module")
def by_gfpgan(gfpgan: Restorer, photo: np.ndarray, face: Face) -> tuple[torch.Tensor, torch.Tensor]:
    """A face cut out, (1, 3, 512, 512), and restored: a run takes seconds."""
    crop = torch.from_numpy(cut_out(photo, Alignment.of_points(face.landmarks))).permute(2, 0, 1)[None].contiguous()
    with tiny.calm():
        return crop, gfpgan._restored(crop, 0.5)


@pytest.mark.long
def test_gfpgan_is_given_minus_one_to_one_and_the_same_noise_every_time(
    gfpgan: Restorer, by_gfpgan: tuple[torch.Tensor, torch.Tensor]
):
    """spandrel's own call does neither."""
    crop, ours = by_gfpgan
    with torch.inference_mode():
        signed, noisy = (crops_of(gfpgan, crop * 2 - 1, randomize_noise=new) for new in (False, True))
    assert torch.equal(ours, signed) and (ours - crop).abs().mean() > 1e-3
    assert (noisy - signed).abs().mean() > 1e-3, "so that this test can fail"


def crops_of(restorer: Restorer, signed: torch.Tensor, **how: bool) -> torch.Tensor:
    return (restorer._network(signed, **how)[0] / 2 + 0.5).clamp(0, 1)


@pytest.mark.long
def test_gfpgan_takes_several_faces_at_a_time(gfpgan: Restorer, by_gfpgan: tuple[torch.Tensor, torch.Tensor]):
    crop, alone = by_gfpgan
    another, after = gfpgan._restored(torch.cat([1 - crop, crop]), 0.5)
    assert (after - alone[0]).abs().max() < 2e-3 and (another - after).abs().mean() > 1e-3


# ---- clips


def clip(photo: np.ndarray, face: Face, frames: int = 14) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """A talking face for tests: its mouth moves up and down, all else stands still; a camera's noise over it. The frames, the
    landmarks as a finder would see them, trembling, and where in the picture nothing moves though it is face."""
    dice = np.random.default_rng(3)
    points = face.landmarks
    left, top = points[48:68].min(0).astype(int) - 6
    right, bottom = points[48:68].max(0).astype(int) + 7
    made_frames = []
    for t in range(frames):
        frame = photo.copy()
        frame[top:bottom, left:right] = np.roll(photo[top:bottom, left:right], round(3 * np.sin(t)), axis=0)
        made_frames.append(np.clip(frame + dice.normal(0, 1.5, frame.shape) + 0.5, 0, 255).astype(np.uint8))
    canvas, white = np.zeros(photo.shape, np.uint8), np.ones((SIDE, SIDE, 3), np.float32)
    put_back(canvas, Alignment.of_points(points), white, 0 * white)
    still = canvas[..., 0] > 200
    reach = (right - left) // 3
    still[max(0, top - reach) : bottom + reach, max(0, left - reach) : right + reach] = False
    return made_frames, [points + dice.normal(0, 0.6, points.shape) for _ in range(frames)], still


def flicker(frames: list[np.ndarray], still: np.ndarray) -> float:
    """Mean difference from frame to frame, in levels, where nothing moves."""
    return float(np.mean([np.abs(one[still].astype(int) - other[still]).mean() for one, other in pairwise(frames)]))


def by_itself(restorer: Restorer, frames: list[np.ndarray], seen: list[np.ndarray]) -> list[np.ndarray]:
    """Each frame as if it were a picture, its face where a finder sees it."""
    return [restorer.picture(frame, [points]) for frame, points in zip(frames, seen, strict=True)]


def test_a_network_that_draws_anew_each_time_is_calmed(photo: np.ndarray, face: Face):
    frames, seen, still = clip(photo, face)
    steadily = list(quick(0.1).faces(frames, restore.steady(seen)))
    given, before, after = (flicker(one, still) for one in (frames, by_itself(quick(0.1), frames, seen), steadily))
    print(f"flicker in levels: given {given:.2f}, frame by frame {before:.2f}, steady {after:.2f}")
    assert after < 0.4 * before
    # The texture is there all the same, and the mouth still moves.
    assert np.abs(steadily[-1].astype(int) - frames[-1])[still].mean() > 3
    mouth = np.zeros(still.shape, bool)
    (left, top), (right, bottom) = face.landmarks[48:68].min(0).astype(int), face.landmarks[48:68].max(0).astype(int)
    mouth[top:bottom, left:right] = True
    assert flicker(steadily, mouth) > 0.7 * flicker(frames, mouth)


@pytest.mark.long
def test_a_clip_does_not_flicker(restorer: Restorer, photo: np.ndarray, face: Face):
    """Of a camera's noise and of what the finder sees, a network makes more."""
    frames, seen, still = clip(photo, face, 5)
    steadily, fixed = list(restorer.faces(frames, restore.steady(seen))), list(restorer.faces(frames, face.landmarks))
    given, before = flicker(frames, still), flicker(by_itself(restorer, frames, seen), still)
    after, after_fixed = flicker(steadily[2:], still), flicker(fixed[2:], still)
    print(f"flicker in levels: given {given:.2f}, frame by frame {before:.2f}, steady {after:.2f}, one place {after_fixed:.2f}")
    assert after < 0.5 * before and after_fixed < 0.5 * before
    assert np.abs(steadily[-1].astype(int) - frames[-1])[still].mean() > 3, "restored all the same"


@pytest.mark.long
def test_gfpgan_does_not_flicker(gfpgan: Restorer, photo: np.ndarray, face: Face):
    """Against upstream's use of it: new noise in every frame, a face found anew in each."""
    frames, seen, still = clip(photo, face, 3)
    singly = []
    for frame, points in zip(frames, seen, strict=True):
        place = Alignment.of_points(points)
        crop = torch.from_numpy(cut_out(frame, place)).permute(2, 0, 1)[None].contiguous()
        with torch.inference_mode():
            face_now = crops_of(gfpgan, crop * 2 - 1, randomize_noise=True)
        singly.append(frame.copy())
        put_back(singly[-1], place, *(one[0].permute(1, 2, 0).numpy() for one in (face_now, crop)))
    steadily = list(gfpgan.faces(frames, restore.steady(seen)))
    before, after = flicker(singly, still), flicker(steadily, still)
    print(f"flicker in levels: given {flicker(frames, still):.2f}, upstream's way {before:.2f}, ours {after:.2f}")
    assert after < 0.4 * before


def test_the_frames_keep_their_size_and_are_not_written_into(photo: np.ndarray, face: Face):
    canvas = photo.copy()

    def one_array() -> Iterator[np.ndarray]:
        """As a compositor yields them."""
        for level in (0, 3):
            canvas[:] = np.clip(photo.astype(int) + level, 0, 255)
            yield canvas

    first, second = quick().faces(one_array(), face.landmarks)
    assert first.shape == second.shape == photo.shape
    assert first is not second and np.array_equal(canvas, np.clip(photo.astype(int) + 3, 0, 255))
    assert np.array_equal(first[0], photo[0])


def test_frames_are_taken_one_by_one(photo: np.ndarray, face: Face):
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield photo

    made_frames = quick().faces(endless(), face.landmarks)
    next(made_frames)
    assert taken == 1
    next(made_frames)
    assert taken == 2


def test_a_frame_is_the_same_wherever_the_clip_was_begun(photo: np.ndarray, face: Face):
    frames, seen, _ = clip(photo, face, 8)
    places = restore.steady(seen)
    whole = list(quick().faces(frames, places))
    begun = 2
    later = list(quick().faces(frames[begun:], places[begun:]))
    for one, other in zip(whole[begun + restore.REACH :], later[restore.REACH :], strict=True):
        assert np.array_equal(one, other)


def test_with_no_strength_the_frames_are_handed_on(photo: np.ndarray):
    restorer = quick()
    restorer._ask = None
    (same,) = restorer.faces([photo], (0.0, 0.0, 9.0, 9.0), strength=0)
    assert same is photo


def test_batches_make_the_same_clip(photo: np.ndarray, face: Face):
    frames, _, _ = clip(photo, face, 5)
    singly, batched = (list(quick().faces(frames, face.landmarks, batch=size)) for size in (1, 3))
    assert len(batched) == 5
    assert max(np.abs(one.astype(int) - other).max() for one, other in zip(singly, batched, strict=True)) <= 1
