"""The renderer of SadTalker's networks: fewer steps than upstream's, the same numbers; frames that do not depend on the start."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from bench.plain_renderer import PlainRenderer  # noqa: E402
from extensions.sadtalker import camera  # noqa: E402
from extensions.sadtalker.engines.neural import keypoints, layout, render, semantics  # noqa: E402
from extensions.sadtalker.engines.neural.networks import blocks, convolution  # noqa: E402
from extensions.sadtalker.engines.neural.networks.convolution import Builder, Convolution, Direct, framed, inside  # noqa: E402
from extensions.sadtalker.engines.neural.networks.generator import Generator, half  # noqa: E402
from extensions.sadtalker.engines.neural.networks.keypoints import KeypointDetector  # noqa: E402
from extensions.sadtalker.engines.neural.networks.mapping import MappingNet  # noqa: E402
from webui import devices  # noqa: E402

SIDE = 128
"""Of the pictures here: the networks take any multiple of 128, and real ones are 256 and 512."""


# -- convolutions


def with_margin(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) as the convolutions take it."""
    room = framed(len(x), *x.shape[2:], x.shape[1], x)
    inside(room)[:] = x.permute(0, 2, 3, 1)
    return room


def whole(conv: Convolution | Direct, x: torch.Tensor) -> torch.Tensor:
    return conv.whole(with_margin(x)).permute(0, 3, 1, 2)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("tiles", [1, 7, 1000])
def test_a_convolution_in_fewer_multiplications_is_the_same_convolution(tiles):
    x, weight, bias = random(2, 5, 16, 24), random(7, 5, 3, 3), random(7)
    expected = F.conv2d(x, weight, bias, padding=1)
    assert torch.allclose(whole(Convolution(weight, bias, convolution.PLAIN, tiles=tiles), x), expected, atol=1e-10)
    assert torch.allclose(whole(Direct(weight, bias), x), expected, atol=1e-10)


@pytest.mark.parametrize(("times", "scheme"), [(2, convolution.TWICE), (4, convolution.FOUR_TIMES)])
def test_an_enlarged_map_is_convolved_from_what_it_was_before(times, scheme):
    x, weight, bias = random(1, 5, 8, 12), random(7, 5, 3, 3), random(7)
    expected = F.conv2d(F.interpolate(x, scale_factor=times), weight, bias, padding=1)
    assert torch.allclose(whole(Convolution(weight, bias, scheme), x), expected, atol=1e-10)


def test_two_convolutions_of_a_map_enlarged_four_times_need_three_values_of_four():
    x, first, second = random(1, 5, 8, 8), random(6, 5, 3, 3), random(7, 6, 3, 3)
    between = F.conv2d(F.interpolate(x, scale_factor=4), first, padding=1)
    once = whole(Convolution(first, None, convolution.FOUR_TIMES_ONCE), x)
    assert once.shape[2:] == (24, 24)
    expected = F.conv2d(between, second, padding=1)
    assert torch.allclose(whole(Convolution(second, None, convolution.AFTER_ONCE), once), expected, atol=1e-10)


@pytest.mark.parametrize("volumes", [1, 2])
def test_volumes_are_convolved_across_their_maps_too(volumes):
    x, weight, bias = random(volumes, 5, 4, 8, 8), random(7, 5, 3, 3, 3), random(7)
    maps = x.transpose(1, 2).flatten(0, 1)
    expected = F.conv3d(x, weight, bias, padding=1).transpose(1, 2).flatten(0, 1)
    assert torch.allclose(whole(Convolution(weight, bias, convolution.PLAIN, depth=4), maps), expected, atol=1e-10)
    assert torch.allclose(whole(Direct(weight, bias, depth=4), maps), expected, atol=1e-10)
    expected = F.conv3d(F.interpolate(x, scale_factor=(1, 2, 2)), weight, bias, padding=1).transpose(1, 2).flatten(0, 1)
    assert torch.allclose(whole(Convolution(weight, bias, convolution.TWICE, depth=4), maps), expected, atol=1e-10)


# -- the network


def stand_in(plan: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Tensors of these names and shapes, such that a network of them neither dies away nor runs over."""
    noise = torch.Generator().manual_seed(seed)
    made: dict[str, torch.Tensor] = {}
    for name, shape in plan.items():
        values = torch.randn(shape, generator=noise)
        if name.endswith("running_var"):
            values = 0.5 + values.abs()
        elif name.endswith(("weight_u", "weight_v")):
            values = values / values.norm()
        elif len(shape) == 1:
            values = 0.1 * values + float(name.endswith("norm.weight") or ".norm1.weight" in name or ".norm2.weight" in name)
        else:
            values = values * (2 / np.prod(shape[1:])) ** 0.5
        made[name] = values
    for name in [name for name in made if name.endswith("weight_orig")]:
        # So that the stored vectors are about the singular ones, as in a trained network.
        u, v = made[name.replace("orig", "u")], made[name.replace("orig", "v")]
        made[name] += 2 * torch.outer(u, v).reshape(made[name].shape)
    return made


CHANNELS = {1024: 128, 512: 64, 256: 32, 128: 16, 64: 8, 32: 4, 112: 84, 112 * 16: 84 * 16, 7: 3}
"""An eighth of the channels, but for the 80 that come of 15 keypoints; and smaller kernels where they are large."""

FLAT = {512 * 9: 64 * 9, 256 * 9: 32 * 9, 64 * 9: 8 * 9}


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """A renderer with upstream's names and fewer channels."""
    sizes = CHANNELS | FLAT
    return stand_in({name: tuple(sizes.get(n, n) for n in shape) for name, shape in layout.of("generator").items()})


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    smooth = F.interpolate(torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)), SIDE, mode="bicubic")
    return smooth.clamp(0, 1)


@pytest.fixture(scope="module")
def places() -> tuple[torch.Tensor, torch.Tensor]:
    """Keypoints of the photo, and of two frames."""
    noise = torch.Generator().manual_seed(2)
    source = torch.rand(1, 15, 3, generator=noise) * 1.6 - 0.8
    return source, source + 0.1 * torch.randn(2, 15, 3, generator=noise)


@pytest.fixture(scope="module")
def plain(tensors, photo, places) -> torch.Tensor:
    """The frames as upstream computes them."""
    renderer = PlainRenderer(tensors)
    source, driving = places
    return torch.cat([renderer(photo, source, one[None]) for one in driving])


@pytest.mark.long
@pytest.mark.parametrize("products", [True, False], ids=["on a processor", "elsewhere"])
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "fast, but in full precision"])
def test_frames_are_those_of_the_plain_network(tensors, photo, places, plain, products, exact):
    net = Generator(tensors, Builder(products=products), Builder(products=products), exact=exact).eval()
    frames = net.frame(net.source(photo, places[0]), places[1])
    assert plain.std() > 0.05  # there is something to see
    assert (plain[0] - plain[1]).abs().mean() > 0.01  # and it moves
    assert (frames - plain).abs().max() < 5e-4
    assert (frames - plain).abs().mean() < 1e-5


def test_the_exact_motion_is_the_plain_network_s_to_the_bit(tensors, photo, places):
    net, plain, (source, driving) = Generator.of(tensors), PlainRenderer(tensors), places
    with torch.inference_mode():
        volume = net.encoder(photo)
        expected = plain.dense_motion(volume, source, driving[:1])
        deformation, seen = net.dense_motion(net.dense_motion.still(volume, source), driving[:1])
    assert torch.equal(deformation, expected[0])
    assert torch.equal(seen.permute(0, 3, 1, 2), expected[1])


@pytest.mark.long
def test_fast_frames_are_others_but_not_much(tensors, photo, places):
    """With an eighth of the channels rounding evens out less: at full size it is 44 dB (bench.talking_nets), and 40 the bound."""
    exact, fast = (Generator.of(tensors, precision) for precision in ("exact", "fast"))
    one, other = (net.frame(net.source(photo, places[0]), places[1][:1]) for net in (exact, fast))
    has_half = half(torch.device("cpu")) is not None  # without it, fast differs by last digits
    assert not torch.equal(one, other)
    assert -10 * (one - other).square().mean().log10() >= (34 if has_half else 80)  # dB
    assert ("bfloat16" in fast.numbers) == has_half and exact.numbers == "float32"


@pytest.mark.long
def test_compiled_blocks_draw_the_same(tensors, photo, places):
    """As on a card, but for the compiler's last stage: what it is given is whole, once for all blocks that are alike."""
    left_out = tuple(f"decoder.G_middle_{number}." for number in range(2, 6))  # as all are
    some = {name: tensor for name, tensor in tensors.items() if not name.startswith(left_out)}
    net = Generator(some, Builder(products=False), Builder(products=False), exact=False).eval()
    source = net.source(photo, places[0])
    expected = net.frame(source, places[1][:1])
    torch._dynamo.reset()
    net.compile_blocks(backend="eager")
    assert torch.equal(net.frame(source, places[1][:1]), expected)
    counted = torch._dynamo.utils.counters
    assert counted["stats"]["unique_graphs"] == 3 and not counted["graph_break"]


@pytest.mark.parametrize(
    ("abilities", "expected"),
    [({"fp16": True, "bf16": True}, torch.float16), ({"bf16": True}, torch.bfloat16), ({}, None)],
    ids=["usual", "no fp16", "neither"],
)
def test_a_card_that_computes_wrongly_in_fp16_is_not_asked_to(monkeypatch, abilities, expected):
    monkeypatch.setattr(devices, "find", lambda wanted: (devices.Device("cuda", "A card", 2**33, **abilities), wanted))
    assert half(torch.device("cuda:0")) is expected


@pytest.fixture
def tf32_allowed() -> Iterator[None]:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = True
    yield
    products.allow_tf32, convolutions.allow_tf32 = before


@pytest.mark.long
@pytest.mark.usefixtures("tf32_allowed")
def test_float32_is_whole_while_exact_frames_are_drawn_and_as_it_was_afterwards(tensors, photo, places):
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    for precision, allowed in (("exact", False), ("fast", True)):
        net, seen = Generator.of(tensors, precision), []
        for part in (net.encoder, net.decoder):
            part.register_forward_hook(lambda *_, seen=seen: seen.append((products.allow_tf32, convolutions.allow_tf32)))
        net.frame(net.source(photo, places[0]), places[1][:1])
        assert seen == [(allowed, allowed)] * 2
        assert products.allow_tf32 and convolutions.allow_tf32
    with pytest.raises(ZeroDivisionError), blocks.exactly():
        raise ZeroDivisionError
    assert products.allow_tf32 and convolutions.allow_tf32


@pytest.mark.long
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_what_depends_on_the_photo_alone_is_computed_once(tensors, photo, places, precision):
    net = Generator.of(tensors, precision)
    looks = []
    net.encoder.register_forward_hook(lambda *_: looks.append("photo"))
    net.dense_motion.compress.register_forward_hook(lambda *_: looks.append("features"))
    source = net.source(photo, places[0])
    for _ in range(3):
        net.frame(source, places[1][:1])
    assert looks == ["photo", "features"]


# -- coefficients to frames


@pytest.fixture(scope="module")
def nets(tensors) -> render.Nets:
    fewer = CHANNELS | {1024 * 16: 128 * 16}
    detector = {name: tuple(fewer.get(n, n) for n in shape) for name, shape in layout.of("kp_extractor").items()}
    mapping = {name: tuple({1024: 64}.get(n, n) for n in shape) for name, shape in layout.of("mapping").items()}
    small = MappingNet.of(stand_in(mapping)), KeypointDetector.of(stand_in(detector))
    generator = Generator.of(tensors)
    return render.Nets(*small, lambda: generator, generator.device)


@pytest.fixture(scope="module")
def face(nets, photo) -> render.Face:
    return render.prepare(nets, render.eight_bit(photo)[0], 0.1 * np.ones((1, 73), np.float32))


@pytest.fixture(scope="module")
def points(face) -> np.ndarray:
    moved = 0.1 * np.random.default_rng(3).normal(size=(5, 15, 3))
    return (face.canonical.numpy() + moved).astype(np.float32)


@pytest.mark.long
@pytest.mark.parametrize("batch", [1, 2])
def test_a_frame_is_the_same_to_the_bit_wherever_drawing_starts(nets, face, points, batch):
    clip = list(render.frames(nets, face, points, batch=batch))
    assert len(clip) == 5
    assert all(frame.shape == (SIDE, SIDE, 3) and frame.dtype == np.uint8 for frame in clip)
    assert not np.array_equal(clip[0], clip[3])
    for start in (1, 4):
        later = list(render.frames(nets, face, points, start, batch=batch))
        assert len(later) == 5 - start
        assert all(np.array_equal(a, b) for a, b in zip(clip[start:], later, strict=True))
    assert list(render.frames(nets, face, points, 5, batch=batch)) == []


# -- semantics


def windows(coefficients: np.ndarray, start: int = 0, stop: int | None = None, **options) -> np.ndarray:
    source = 100 + np.arange(73, dtype=np.float32)[None]
    options = {"full": False, "still": False, "expression_scale": 1.0} | options
    return semantics.windows(coefficients, source, start, len(coefficients) if stop is None else stop, **options)


def numbered(frames: int) -> np.ndarray:
    """Every coefficient of a frame is its number."""
    return np.repeat(np.arange(frames, dtype=np.float32)[:, None], 70, axis=1)


@pytest.mark.parametrize("frames", [1, 2, 21, 60])
def test_a_window_is_what_lies_round_a_frame_and_stays_at_the_ends(frames):
    seen = windows(numbered(frames))
    assert seen.shape == (frames, 70, 27)
    for i in range(frames):
        assert list(seen[i, 5]) == [min(max(i + k, 0), frames - 1) for k in range(-13, 14)]


def test_windows_of_a_part_are_those_of_the_whole():
    clip = np.random.default_rng(0).normal(size=(40, 70)).astype(np.float32)
    assert np.array_equal(windows(clip)[17:23], windows(clip, 17, 23))


def test_between_two_frames_a_window_lies_between_theirs():
    clip = numbered(40)
    seen = windows(clip, 0, 2, times=np.array([20.0, 20.5]))
    assert np.array_equal(seen[0], windows(clip)[20])
    assert np.array_equal(seen[1, 0], np.arange(20.5 - 13, 20.5 + 14, dtype=np.float32))


def test_scale_is_of_expressions_still_is_of_the_head_and_full_adds_where_the_face_lies():
    clip = numbered(3)
    assert np.array_equal(windows(clip, expression_scale=2.0)[:, :64], 2 * windows(clip)[:, :64])
    assert np.array_equal(windows(clip, expression_scale=2.0)[:, 64:], windows(clip)[:, 64:])
    still = windows(clip, still=True)
    assert np.array_equal(still[:, :64], windows(clip)[:, :64])
    assert (still[:, 64:] == (100 + np.arange(64, 70))[:, None]).all()
    full = windows(clip, full=True)
    assert full.shape == (3, 73, 27)
    assert np.array_equal(full[:, :70], windows(clip))
    assert (full[:, 70:] == (100 + np.arange(70, 73))[:, None]).all()
    assert clip.max() == 2  # what was given is as it was


# -- free view


@pytest.mark.parametrize("frames", [2, 3, 7, 50, 1001])
def test_free_view_begins_with_the_first_angle_and_ends_with_the_last(frames):
    for degrees in ([-30, 30], [0, 40, -40, 0], [20, 20, -10, -10], [5, 6]):
        angles = camera.sequence(degrees, frames)
        assert (angles[0], angles[-1]) == (degrees[0], degrees[-1])
        steps = np.abs(np.diff(angles.astype(np.float64)))
        assert steps.max() <= np.abs(np.diff(degrees)).sum() / (frames - 1) + 1e-4  # nowhere quicker than evenly


@pytest.mark.parametrize("degrees", [[12], [12, 12], [12, 12, 12]])
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_free_view_with_one_angle_stays_there(degrees, frames):
    with np.errstate(all="raise"):
        assert list(camera.sequence(degrees, frames)) == [12] * frames


def test_a_clip_of_one_frame_has_the_last_angle():
    assert list(camera.sequence([0, 20, -10], 1)) == [-10]


# -- keypoints


def heads(frames: int = 2, **changed: torch.Tensor) -> dict[str, torch.Tensor]:
    straight = torch.zeros(frames, 66)
    straight[:, 33] = 100.0  # step 33 of three degrees from -99 on is straight ahead
    nowhere = {"t": torch.zeros(frames, 3), "exp": torch.zeros(frames, 45)}
    return {"yaw": straight, "pitch": straight, "roll": straight} | nowhere | changed


def test_keypoints_of_a_straight_head_are_the_canonical_ones_lifted_and_with_its_expression():
    canonical = torch.rand(1, 15, 3)
    assert torch.allclose(keypoints.moved(canonical, heads()), canonical.expand(2, -1, -1), atol=1e-6)
    lifted = keypoints.moved(canonical, heads(t=torch.tensor([[0.5, 0.25, 0.125]] * 2)))
    assert torch.allclose(lifted - canonical, torch.tensor([0.0, 0.25, 0.0]).expand(2, 15, 3), atol=1e-6)
    expression = torch.rand(2, 45)
    smiling = keypoints.moved(canonical, heads(exp=expression))
    assert torch.allclose(smiling - canonical, expression.unflatten(1, (15, 3)), atol=1e-6)


def test_given_angles_take_the_place_of_the_head_s_own():
    canonical = torch.rand(1, 15, 3)
    turned = heads()
    turned["yaw"] = turned["yaw"].roll(10, 1)  # 30 degrees
    expected = keypoints.moved(canonical, heads(), yaw=torch.tensor([30.0, 30.0]))
    assert torch.allclose(keypoints.moved(canonical, turned), expected, atol=1e-5)
    assert torch.allclose(keypoints.moved(canonical, turned, yaw=torch.zeros(2)), canonical.expand(2, -1, -1), atol=1e-6)
    assert not torch.allclose(expected, canonical.expand(2, -1, -1), atol=1e-2)
