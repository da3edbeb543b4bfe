"""Every kind of picture that should simply work, and every kind of broken one that should be refused in plain words."""

from __future__ import annotations

import struct
import time
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from tests import media
from webui.errors import MediaError
from webui.pictures import MAX_PIXELS, read_picture

PLAIN = [media.RED, media.GREEN, media.BLUE, media.GREY]


def assert_corners(rgb, expected=PLAIN, tolerance=24):
    assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.flags.c_contiguous
    np.testing.assert_allclose(media.corner_colors(rgb), expected, atol=tolerance)


def save(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "heic", "bmp", "tiff", "gif", "jp2", "ppm"])
def test_common_formats(tmp_path, suffix):
    pillow_heif.register_heif_opener()
    picture = read_picture(save(tmp_path / f"a.{suffix}", media.corners()))
    assert picture.rgb.shape == (90, 120, 3) and picture.original_size == (120, 90) and picture.notes == ()
    assert_corners(picture.rgb)


@pytest.mark.parametrize("name", ["with space.png", "照片 二.png", "🙂.png", "none", "a.mp4", "-dash.png", "%d.png"])
def test_the_name_does_not_matter(tmp_path, name):
    assert_corners(read_picture(save(tmp_path / name, media.corners(), format="PNG")).rgb)


@pytest.mark.parametrize("size", [(64, 64), (65, 127), (101, 99)])
def test_odd_sizes_are_kept(tmp_path, size):
    assert read_picture(save(tmp_path / "a.png", media.corners(*size))).rgb.shape == (size[1], size[0], 3)


@pytest.mark.parametrize("mark", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_a_turned_photo_is_set_upright(tmp_path, mark, suffix):
    turns = [None, None, 0, 3, 1, 5, 2, 6, 4]  # Pillow's transpositions that make the stored picture of mark 1..8
    stored = media.corners() if mark == 1 else media.corners().transpose(Image.Transpose(turns[mark]))
    exif = Image.Exif()
    exif[0x0112] = mark
    picture = read_picture(save(tmp_path / f"a.{suffix}", stored, exif=exif), longest_side=100)
    assert picture.original_size == (120, 90) and picture.rgb.shape == (75, 100, 3)
    assert picture.notes == ("scaled from 120x90 to 100x75",)
    assert_corners(picture.rgb)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_orientation_mark_is_left_out(tmp_path):
    picture = read_picture(save(tmp_path / "a.jpg", media.corners(), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))
    assert_corners(picture.rgb)


def test_transparency_shows_white(tmp_path):
    image = media.corners().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 60, 45))
    expected = [(255, 255, 255), *PLAIN[1:]]
    assert_corners(read_picture(save(tmp_path / "a.png", image)).rgb, expected)
    assert_corners(read_picture(save(tmp_path / "a.webp", image, lossless=True)).rgb, expected)


def test_half_transparent_pixels_are_mixed_with_white_at_any_scale(tmp_path):
    image = Image.new("RGBA", (200, 200), (0, 0, 0, 128))
    for side in (2048, 100):
        assert read_picture(save(tmp_path / "a.png", image), side).rgb.mean() == pytest.approx(127, abs=1)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16", "I"])
def test_grey_pictures(tmp_path, mode):
    ramp = np.tile(np.linspace(0, 255, 128), (96, 1))
    if mode in ("I;16", "I"):
        image = Image.fromarray((ramp * 257).astype(np.uint16 if mode == "I;16" else np.int32))
    else:
        image = Image.fromarray(ramp.astype(np.uint8)).convert(mode)
    rgb = read_picture(save(tmp_path / ("a.tiff" if mode == "I" else "a.png"), image)).rgb
    assert rgb.shape == (96, 128, 3) and (rgb[..., 0] == rgb[..., 2]).all()
    for half, level in ((rgb[:, :64], 64), (rgb[:, 64:], 191)):
        assert half.mean() == pytest.approx(level, abs=3)


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_floating_point_grey(tmp_path, white):
    ramp = np.tile(np.linspace(0, white, 128, dtype=np.float32), (96, 1))
    assert read_picture(save(tmp_path / "a.tiff", Image.fromarray(ramp))).rgb.mean() == pytest.approx(127.5, abs=1)


def test_palette_with_a_transparent_color(tmp_path):
    image = media.corners().quantize(8)
    image.info["transparency"] = image.getpixel((5, 5))
    for suffix in ("png", "gif"):
        path = save(tmp_path / f"a.{suffix}", image, transparency=image.getpixel((5, 5)))
        assert_corners(read_picture(path).rgb, [(255, 255, 255), *PLAIN[1:]])


def png16(path, pixels):
    """A 16-bit PNG of (H, W, channels) uint16; Pillow writes none with colour."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    write_png(path, head, zlib.compress(rows))
    return path


def write_png(path, head, data, *more):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    chunks = [chunk(b"IHDR", head), *(chunk(*extra) for extra in more), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bits_per_color(tmp_path, channels):
    pixels = np.full((90, 120, channels), 65535, np.uint16)
    pixels[..., :3] = np.asarray(media.corners()).astype(np.uint16) * 257
    assert_corners(read_picture(png16(tmp_path / "a.png", pixels)).rgb, tolerance=1)


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk(tmp_path, suffix):
    assert_corners(read_picture(save(tmp_path / f"a.{suffix}", media.corners().convert("CMYK"))).rgb)


def test_lab(tmp_path):
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    path = save(tmp_path / "a.tiff", ImageCms.applyTransform(media.corners(), to_lab))
    assert_corners(read_picture(path).rgb)


def test_a_color_profile_is_obeyed(tmp_path):
    linear = linear_rgb_profile()
    grey = Image.new("RGB", (80, 80), (55, 55, 55))  # 55 / 255 in linear light is mid grey in sRGB
    assert read_picture(save(tmp_path / "a.png", grey, icc_profile=linear)).rgb.mean() == pytest.approx(128, abs=3)


def test_a_profile_that_does_not_fit_is_left_out_and_said(tmp_path):
    picture = read_picture(save(tmp_path / "a.png", media.corners(), icc_profile=b"no profile"))
    assert_corners(picture.rgb)
    assert any("colour profile" in note for note in picture.notes)


def linear_rgb_profile():
    """A matrix profile with sRGB's primaries and no gamma, built from Pillow's sRGB by replacing its curves."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for index in range(struct.unpack(">I", data[128:132])[0]):
        at = 132 + 12 * index
        if data[at : at + 4] in (b"rTRC", b"gTRC", b"bTRC"):
            (offset,) = struct.unpack(">I", data[at + 4 : at + 8])
            data[offset : offset + 12] = b"curv" + bytes(8)
    return bytes(data)


def test_an_animation_gives_its_first_frame(tmp_path):
    second = Image.new("RGB", (120, 90), "black")
    for suffix in ("gif", "webp"):
        path = save(tmp_path / f"a.{suffix}", media.corners(), save_all=True, append_images=[second])
        assert_corners(read_picture(path).rgb)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", ["-pix_fmt", "yuv420p"]),
        ("a.mov", ["-pix_fmt", "yuv420p"]),
        ("a.webm", ["-c:v", "libvpx", "-pix_fmt", "yuv420p"]),
        ("a.avi", ["-c:v", "mjpeg", "-pix_fmt", "yuvj420p"]),
        ("video called 照片.png", ["-pix_fmt", "yuv420p", "-f", "mp4"]),
    ],
)
def test_a_video_gives_its_first_frame(tmp_path, name, options):
    picture = read_picture(media.write_video(tmp_path / name, media.corners(), *options), longest_side=100)
    assert picture.rgb.shape == (75, 100, 3) and picture.original_size == (120, 90)
    assert picture.notes == ("scaled from 120x90 to 100x75", "the first frame of the video was taken")
    assert_corners(picture.rgb, tolerance=40)


def test_a_large_picture_is_scaled_and_said(tmp_path):
    picture = read_picture(save(tmp_path / "a.png", media.corners(4000, 3000)))
    assert picture.rgb.shape == (1536, 2048, 3) and picture.original_size == (4000, 3000)
    assert picture.notes == ("scaled from 4000x3000 to 2048x1536",)
    assert_corners(picture.rgb)


def test_a_phones_108_megapixels_are_quick(tmp_path):
    path = save(tmp_path / "a.jpg", media.corners(12000, 9000), quality=90)
    started = time.perf_counter()
    picture = read_picture(path)
    assert time.perf_counter() - started < 2.0
    assert picture.rgb.shape == (1536, 2048, 3) and picture.original_size == (12000, 9000)
    assert_corners(picture.rgb)


# --- what is refused


def refused(path, *words):
    with pytest.raises(MediaError) as caught:
        read_picture(path)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert message.endswith(".") and "Errno" not in message
    return message


def test_missing_file(tmp_path):
    refused(tmp_path / "none.png", "no file", "none.png")


def test_folder(tmp_path):
    refused(tmp_path, "folder")


def test_empty_file(tmp_path):
    (tmp_path / "a.png").touch()
    refused(tmp_path / "a.png", "empty")


def test_unreadable_file(tmp_path):
    path = save(tmp_path / "a.png", media.corners())
    with media.unreadable(path):
        refused(path, "cannot be read", "permissions")


def test_a_device_error_is_no_traceback(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", broken)
    refused(tmp_path / "a.png", "cannot be read", "Permission denied")


@pytest.mark.parametrize("size", [(1, 1), (20, 20), (63, 400), (400, 63)])
def test_too_small(tmp_path, size):
    refused(save(tmp_path / "a.png", Image.new("RGB", size)), f"{size[0]}x{size[1]}", "64x64")


def test_a_video_too_small(tmp_path):
    refused(media.write_video(tmp_path / "a.mp4", media.corners(32, 32), "-pix_fmt", "yuv420p"), "32x32")


def bomb(path, side):
    """A tiny file that claims a huge picture."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(side // 8 + 1)) for _ in range(100)) + rows.flush()
    return write_png(path, struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0), data)


@pytest.mark.parametrize("side", [14_200, 19_000, 60_000])
def test_more_than_200_megapixels_are_refused_from_the_header(tmp_path, side):
    assert side * side > MAX_PIXELS
    started = time.perf_counter()
    refused(bomb(tmp_path / "a.png", side), "megapixels", "200")
    assert time.perf_counter() - started < 0.5


def test_199_megapixels_are_read(tmp_path):
    path = save(tmp_path / "a.jpg", Image.new("L", (14_100, 14_100), 90), quality=50)
    assert read_picture(path).rgb.mean() == pytest.approx(90, abs=1)


def test_a_png_with_text_that_unpacks_without_end(tmp_path):
    text = b"Comment\0\0" + zlib.compress(bytes(80_000_000), 9)
    head = struct.pack(">IIBBBBB", 100, 100, 8, 0, 0, 0, 0)
    refused(write_png(tmp_path / "a.png", head, zlib.compress(bytes(101 * 100)), (b"zTXt", text)), "damaged")


def test_ordinary_text_in_a_png_is_fine(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a portrait, steps: 20")
    assert_corners(read_picture(save(tmp_path / "a.png", media.corners(), pnginfo=info)).rgb)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "avif", "heic", "tiff", "bmp", "gif"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated(tmp_path, suffix, share):
    pillow_heif.register_heif_opener()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8))
    whole = save(tmp_path / f"whole.{suffix}", noise)
    message = refused(media.cut(whole, tmp_path / f"cut.{suffix}", share), f"cut.{suffix}")
    assert "damaged" in message or "not a picture" in message


def test_a_truncated_video(tmp_path):
    whole = media.write_video(tmp_path / "a.mp4", media.corners(), "-pix_fmt", "yuv420p")
    refused(media.cut(whole, tmp_path / "cut.mp4"), "cut.mp4", "damaged")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"This is not a picture at all, just words.", "holds text"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "drawing"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "PDF"),
        (bytes(range(256)), "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", "holds text"),
    ],
)
def test_what_is_no_picture(tmp_path, content, word):
    path = tmp_path / "portrait.png"
    path.write_bytes(content)
    refused(path, "portrait.png", "not a picture", word)


def test_a_sound_is_no_picture(tmp_path):
    wav = media.write_wav(tmp_path / "voice.wav", 0.2)
    refused(wav, "sound")
    refused(media.convert(wav, tmp_path / "voice.m4a"), "sound only")


def test_a_playlist_does_not_open_another_file(tmp_path):
    media.write_video(tmp_path / "secret.mp4", media.corners(), "-pix_fmt", "yuv420p")
    (tmp_path / "a.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    refused(tmp_path / "a.mp4", "not a picture")


def test_broken_bytes_never_escape_as_another_error(tmp_path):
    """One byte changed here and there: either a picture or a MediaError."""
    rng = np.random.default_rng(7)
    pillow_heif.register_heif_opener()
    for suffix in ("png", "jpg", "webp", "tiff", "gif", "bmp", "avif", "heic"):
        data = bytearray(save(tmp_path / f"a.{suffix}", media.corners()).read_bytes())
        for _ in range(25):
            broken = bytearray(data)
            for at in rng.integers(8, min(len(data), 400), 3):
                broken[at] = rng.integers(0, 256)
            (tmp_path / "broken").write_bytes(broken)
            try:
                assert read_picture(tmp_path / "broken").rgb.ndim == 3
            except MediaError as e:
                assert str(e).endswith(".")
