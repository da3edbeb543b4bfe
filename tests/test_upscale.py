"""Upscalers: which files they are in, that tiles leave no seam, sizes to the pixel, cancelling, memory, Lanczos."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import enhancers as made
from tests import tiny
from webui import devices
from webui.errors import Cancelled, InvalidRequest, ModelMissing, OutOfMemory, UnsupportedModel
from webui.imaging import upscale
from webui.weights import catalog
from webui.weights.catalog import Catalog


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    with tiny.calm():
        yield
    devices.unload()


@pytest.fixture(scope="module")
def photo(portrait_file: Path) -> np.ndarray:
    with Image.open(portrait_file) as picture:
        return np.asarray(picture.convert("RGB").resize((150, 130), Image.Resampling.LANCZOS))


NETWORKS = {
    "esrgan": (made.esrgan, 4), "esrgan-old-2x": (lambda: made.esrgan(2, old_names=True), 2), "compact": (made.compact, 2),
    "compact-4x": (lambda: made.compact(4), 4), "swinir": (made.swinir, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_is_recognised_loaded_and_computes_what_spandrel_does(name: str, tmp_path: Path, photo: np.ndarray):
    build, scale = NETWORKS[name]
    path = made.safetensors(tmp_path / "ESRGAN" / f"{name}.safetensors", build())
    (entry,) = Catalog(tmp_path).upscalers()
    assert (entry.problem, entry.found.kind, entry.found.scale) == ("", "upscaler", scale)
    upscaler = upscale.load(path)
    large = upscaler(photo)
    assert large.shape == (photo.shape[0] * scale, photo.shape[1] * scale, 3) and large.dtype == np.uint8
    from spandrel import MAIN_REGISTRY

    theirs = MAIN_REGISTRY.load(dict(build()))
    tensor = torch.from_numpy(photo.transpose(2, 0, 1).copy())[None] / 255
    wanted = (255 * theirs(tensor)[0].permute(1, 2, 0)).numpy()
    assert np.abs(large - wanted).max() < 0.51 and large.std() > 1


@pytest.mark.parametrize("wrapper", made.WRAPPED)
def test_pickles_of_every_layout_are_read_where_they_are_allowed(wrapper: str, tmp_path: Path, photo: np.ndarray):
    path = made.pickled(tmp_path / "RealESRGAN" / "x2.pth", made.compact(2, seed=3), wrapper)
    plain = upscale.load(made.safetensors(tmp_path / "plain.safetensors", made.compact(2, seed=3)))
    assert np.array_equal(upscale.load(path, allow_pickles=True)(photo), plain(photo))
    (entry,) = Catalog(tmp_path).upscalers()
    assert "is a pickle" in entry.problem and "--allow-pickles" in entry.problem
    with pytest.raises(UnsupportedModel, match="--allow-pickles"):
        upscale.load(path)


def test_both_sets_in_one_safetensors_file_give_the_averaged_one(tmp_path: Path, photo: np.ndarray):
    good = made.compact(2, seed=1)
    both = {f"params_ema.{name}": one for name, one in good.items()}
    both |= {f"params.{name}": torch.zeros_like(one) for name, one in good.items()}
    one = upscale.load(made.safetensors(tmp_path / "both.safetensors", both))
    assert np.array_equal(one(photo), upscale.load(made.safetensors(tmp_path / "good.safetensors", good))(photo))


def test_what_is_no_upscaler_is_named_as_what_it_is(tmp_path: Path):
    folder = tmp_path / "ESRGAN"
    made.safetensors(folder / "face.safetensors", made.restoreformer())
    made.safetensors(folder / "strange.safetensors", {"a.b": torch.ones(3)})
    whole = made.safetensors(folder / "half.safetensors", made.compact())
    whole.write_bytes(whole.read_bytes()[:-50])
    problems = {entry.name: entry.problem for entry in Catalog(tmp_path).upscalers()}
    assert "is a face restorer (RestoreFormer), not an upscaler. Move it into models/GFPGAN." in problems["face.safetensors"]
    assert "The folder ESRGAN is for upscalers" in problems["strange.safetensors"]
    assert "breaks off" in problems["half.safetensors"]
    for name in problems:
        with pytest.raises(UnsupportedModel), upscale.leased(name, tmp_path, "cpu"):
            pass


def test_a_network_with_numbers_missing_is_refused_in_words(tmp_path: Path):
    tensors = dict(made.esrgan())
    del tensors["conv_body.weight"]
    path = made.safetensors(tmp_path / "x.safetensors", tensors)
    with pytest.raises(UnsupportedModel, match="of a make that is not known here"):
        upscale.load(path)


def test_grey_networks_are_refused(tmp_path: Path):
    from spandrel.architectures.Compact import Compact

    path = made.safetensors(
        tmp_path / "grey.safetensors", Compact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=2, upscale=2).state_dict()
    )
    with pytest.raises(UnsupportedModel, match="in colour"):
        upscale.load(path)


@pytest.mark.parametrize("folder", catalog.UPSCALER_FOLDERS)
def test_all_of_their_folders_are_looked_into(folder: str, tmp_path: Path):
    made.safetensors(tmp_path / folder / "sub" / "mine.safetensors", made.compact())
    assert Catalog(tmp_path).find_upscaler("mine").name == "sub/mine.safetensors"
    with pytest.raises(ModelMissing, match=r"There is no upscaler 'main'. Did you mean sub/mine.safetensors\?"):
        Catalog(tmp_path).find_upscaler("main")


# ---- tiles


@pytest.mark.parametrize(("width", "height"), [(150, 130), (97, 300), (40, 64), (65, 64), (64, 63)])
def test_tiles_make_the_very_picture_that_the_whole_would(width: int, height: int, tmp_path: Path):
    """Exactly, with a network that repeats pixels."""
    picture = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    upscaler = upscale.load(made.safetensors(tmp_path / "x.safetensors", made.compact(2, nearest=True)))
    upscaler._tile = 64
    assert np.array_equal(upscaler(picture), picture.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("name", ["esrgan", "swinir"])
def test_no_seam_is_seen_between_tiles(name: str, tmp_path: Path, photo: np.ndarray):
    build, scale = NETWORKS[name]
    path = made.safetensors(tmp_path / "x.safetensors", build())
    whole, tiled = upscale.load(path), upscale.load(path)
    tiled._tile = 96
    apart = np.abs(whole(photo).astype(int) - tiled(photo))
    assert apart.max() <= 2 and apart.mean() < 0.1
    # Where neighbours meet there is no edge that is not in the picture.
    across = np.diff(tiled(photo).astype(int), axis=1) - np.diff(whole(photo).astype(int), axis=1)
    assert np.abs(across).mean(axis=(0, 2)).max() < 0.5
    assert len(upscale._starts(photo.shape[1], 96)) > 1 and scale


@pytest.mark.parametrize(("length", "tile"), [(64, 64), (65, 64), (203, 64), (1000, 192), (97, 96), (10, 64), (4096, 192)])
def test_the_weights_of_all_tiles_are_one_everywhere(length: int, tile: int):
    starts = upscale._starts(length, tile)
    total = np.zeros(2 * length)
    for start, fade in zip(starts, upscale._fades(starts, length, tile, 2), strict=True):
        total[2 * start : 2 * start + len(fade)] += fade
        assert fade.min() >= 0
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert length - starts[-1] <= tile and not any(start % upscale.GRID for start in starts)
    assert all(later - one <= tile - upscale.OVERLAP for one, later in pairwise(starts))


def test_memory_does_not_grow_with_the_height(tmp_path: Path):
    upscaler = upscale.load(made.safetensors(tmp_path / "x.safetensors", made.compact(2, nearest=True)))
    upscaler._tile = 64

    def peak(height: int) -> int:
        """Beside the result."""
        picture = np.zeros((height, 96, 3), np.uint8)
        upscaler(picture)
        tracemalloc.start()
        upscaler(picture)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most - 4 * picture.size

    assert peak(1200) < 1.2 * peak(300)


def test_when_memory_runs_out_smaller_tiles_are_taken(tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    upscaler = upscale.load(made.safetensors(tmp_path / "x.safetensors", made.compact(2, nearest=True)))
    small, enlarged, asked = 80, upscaler._enlarged, []

    def short(part: np.ndarray) -> np.ndarray:
        asked.append(max(part.shape))
        if max(part.shape) > small:
            raise MemoryError
        return enlarged(part)

    monkeypatch.setattr(upscaler, "_enlarged", short)
    upscaler._tile = 256
    assert np.array_equal(upscaler(photo), photo.repeat(2, 0).repeat(2, 1))
    assert asked[0] == 150 and max(asked[2:]) == 64
    small = 8
    with pytest.raises(OutOfMemory, match="too little memory for enlarging a picture"):
        upscaler(photo)


def test_it_stops_in_the_middle_of_a_tile(tmp_path: Path):
    upscaler = upscale.load(made.safetensors(tmp_path / "x.safetensors", made.esrgan(4, blocks=8)))
    picture = np.zeros((192, 192, 3), np.uint8)
    asked = 0

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked > 20

    begun = time.perf_counter()
    with pytest.raises(Cancelled):
        upscaler(picture, stopped=stopped)
    half = time.perf_counter() - begun
    begun = time.perf_counter()
    upscaler(picture)
    assert asked == 21 and half < 0.5 * (time.perf_counter() - begun)
    assert not any(layer._forward_pre_hooks for layer in upscaler._about.model.modules()), "nothing is left behind"


def test_progress_goes_from_tile_to_tile(tmp_path: Path, photo: np.ndarray):
    upscaler = upscale.load(made.safetensors(tmp_path / "x.safetensors", made.compact(2)))
    upscaler._tile = 64
    told: list[float] = []
    upscaler.to_size(photo, 600, 520, told.append)
    assert told == sorted(told) and told[-1] == 1.0 and len(told) > 40, "two passes"


# ---- sizes


@pytest.mark.parametrize(
    ("scale", "size", "passes"),
    [(2, (301, 259), 2), (2, (300, 260), 1), (4, (300, 260), 1), (2, (1200, 1040), 3), (2, (150, 130), 1)],
)
def test_a_picture_has_the_size_that_was_asked_for_to_the_pixel(
    scale: int, size: tuple[int, int], passes: int, tmp_path: Path, photo: np.ndarray
):
    upscaler = upscale.load(made.safetensors(tmp_path / "x.safetensors", made.compact(scale, nearest=True)))
    told: list[float] = []
    large = upscaler.to_size(photo, *size, told.append)
    assert large.shape[1::-1] == size and len(told) >= passes
    wanted = upscale.Filter("Lanczos").to_size(photo, *size, print, lambda: False)
    assert np.abs(large.astype(int) - wanted).mean() < 12


def test_lanczos_and_nearest_need_no_file_and_no_torch(tmp_path: Path, photo: np.ndarray):
    with upscale.leased("nearest", tmp_path, "cpu") as upscaler:
        large = upscaler.to_size(photo, 300, 260, print, lambda: False)
    assert np.array_equal(large, photo.repeat(2, 0).repeat(2, 1))
    with upscale.leased("LANCZOS", tmp_path, "cpu") as upscaler:
        smooth = upscaler.to_size(photo, 300, 260, print, lambda: False)
    wanted = Image.fromarray(photo).resize((300, 260), Image.Resampling.LANCZOS)
    assert np.array_equal(smooth, np.asarray(wanted))


@pytest.mark.parametrize(
    ("scale", "size", "crop", "expected"),
    [
        (2, None, True, (200, 100)), (1.5, None, True, (150, 75)), (2, (300, 300), True, (600, 300)),
        (2, (150, 60), False, (150, 75)), (2, (50, 50), True, (100, 50)), (2, (333, 100), True, (333, 166)),
    ],
)  # fmt: skip
def test_the_size_to_come_is_known_before(scale: float, size: tuple[int, int] | None, crop: bool, expected: tuple[int, int]):
    assert upscale.target_size(100, 50, scale, size, crop) == expected


def test_more_pixels_than_there_is_memory_for_are_refused_before_any_work():
    with pytest.raises(InvalidRequest, match=r"80000x40000 pixels, and the most is 134 million"):
        upscale.target_size(10000, 5000, 8, None, True)


def test_a_pass_that_would_be_too_large_is_made_smaller(tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    upscaler = upscale.load(made.safetensors(tmp_path / "x.safetensors", made.compact(4, nearest=True)))
    monkeypatch.setattr(upscale, "LARGEST", 300 * 260)
    shapes: list[tuple[int, ...]] = []
    whole = upscaler._pass
    monkeypatch.setattr(upscaler, "_pass", lambda rgb, *rest: shapes.append(rgb.shape) or whole(rgb, *rest))
    assert upscaler.to_size(photo, 300, 260).shape == (260, 300, 3)
    assert shapes == [(65, 75, 3)]


def test_two_pictures_are_blended_as_pillow_does(photo: np.ndarray):
    other = photo[::-1].copy()
    assert np.array_equal(upscale.blended(photo, other, 0.0), photo) and np.array_equal(upscale.blended(photo, other, 1.0), other)
    assert np.abs(upscale.blended(photo, other, 0.25) - (0.75 * photo + 0.25 * other)).max() <= 1


# ---- kept in memory


def test_a_network_is_loaded_once_and_again_when_its_file_changes(tmp_path: Path, photo: np.ndarray):
    path = made.safetensors(tmp_path / "ESRGAN" / "x.safetensors", made.compact(2, nearest=True))
    with upscale.leased("x", tmp_path, "cpu") as first:
        pass
    assert [one.name for one in devices.loaded()] == ["x.safetensors"] and devices.loaded()[0].bytes == first.bytes
    with upscale.leased("x", tmp_path, "cpu") as second:
        assert second is first
    made.safetensors(path, made.compact(4, nearest=True))
    with upscale.leased("x", tmp_path, "cpu") as third:
        assert third.scale == 4
