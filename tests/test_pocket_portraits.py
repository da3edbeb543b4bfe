"""The portraits that the pocket model learns from show what their captions say, at every size, and have faces."""

from __future__ import annotations

import colorsys
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context

import cv2
import numpy as np
import pytest

from training.pocket.attributes import ATTRIBUTES, UNDER_HATS, Person, sample, values
from training.pocket.captions import Caption, asked, describe
from training.pocket.portraits import dataset, draw, example
from webui.faces import face_finder

PLAIN = Person(skin="tan", hair_style="short", eye_color="grey", background="plain", background_color="grey", clothes="t-shirt")

# Words that say one value of an attribute, whatever stands around them. Written by hand, apart from the generator's own lists.
WORDS = {
    "gender": {
        "man": r"\b(man|boy|guy|male|grandfather|he)\b",
        "woman": r"\b(woman|girl|lady|female|grandmother|she)\b",
    },
    "age": {
        "child": r"\b(boy|girl|kid|child)\b",
        "adult": r"\byoung (wo)?man\b",
        "old": r"\b(old|elderly|grandfather|grandmother)\b",
    },
    "skin": {
        "pale": r"\b(pale|fair|light)(-skinned| skin)",
        "tan": r"\b(tan|tanned|olive)(-skinned| skin)",
        "brown": r"\bbrown(-skinned| skin)",
        "dark": r"\bdark(-skinned| skin)",
    },
    "hair_style": {
        "short": r"\bshort\b",
        "long": r"\blong straight|hair that is long",
        "bob": r"\bbob\b|chin-length",
        "fringe": r"fringe|bangs",
        "curly": r"curly|curls",
        "afro": r"afro",
        "ponytail": r"ponytail",
        "bun": r"\bbun\b|top knot",
        "bald": r"bald|no hair|shaved head",
    },
    "hair_color": {
        "black": r"raven|black-haired|(jet-)?black( curly)? (hair|curls|afro|bob|bun|ponytail|beard|mus|mous|bangs)",
        "brown": r"brunette|chestnut|brown-haired",
        "blond": r"\bblonde?\b|golden hair",
        "red": r"ginger|copper|red-haired|\bred (hair|curls|afro|bob|bun|ponytail|beard)",
        "grey": r"silver|(grey|gray)-haired|gr[ea]y hair",
        "white": r"snow-white|white-haired|white hair",
        "blue": r"blue-haired|blue hair",
        "pink": r"pink-haired|pink hair",
        "green": r"green-haired|green hair",
    },
    "eye_color": {
        "brown": r"brown(-eyed| eyes)",
        "blue": r"blue(-eyed| eyes)",
        "green": r"green(-eyed| eyes)",
        "grey": r"gr[ea]y(-eyed| eyes)",
    },
    "glasses": {
        "none": r"no glasses|without glasses",
        "glasses": r"(?<!no )(?<!without )\bglasses|eyeglasses|spectacle",
        "sunglasses": r"sun ?glasses|shades",
    },
    "facial_hair": {
        "none": r"clean-shaven|no beard|without a beard",
        "moustache": r"mou?stache",
        "beard": r"(?<!no )(?<!without a )\bbeard",
    },
    "hat": {
        "none": r"no hat|without a hat|bareheaded",
        "cap": r"\bcap\b",
        "beanie": r"beanie|knitted hat|woolly hat",
        "sun hat": r"sun hat|wide[^,.]* hat\b",
    },
    "hat_color": {
        colour: rf"\b{colour.replace('grey', 'gr[ea]y')} (baseball cap|cap|beanie|knitted|woolly|sun hat|wide)"
        for colour in values("hat_color")
    },
    "clothes": {
        "t-shirt": r"\bt-?shirt|\btee\b",
        "shirt": r"(?<!t-)\bshirt",
        "suit": r"\bsuit|jacket",
        "hoodie": r"hood",
        "sweater": r"sweater|turtleneck|jumper",
        "dress": r"dress",
    },
    "clothes_color": {
        colour: rf"\b{colour.replace('grey', 'gr[ea]y')} "
        r"(t-?shirt|tee|shirt|collared|button|suit|jacket|hood|sweater|turtle|jumper|dress|summer)"
        for colour in values("clothes_color")
    },
    "background": {
        "plain": r"(plain|simple|studio) |wall\b(?<!brick wall)|"
        r"(?<!forest )(?<!beach )(?<!sky )(?<!wall )(?<!sunset )(?<!night )(?<!the )background",
        "sky": r"cloud|(?<!sunset )(?<!night )\bsky background",
        "forest": r"forest|woods|trees",
        "beach": r"beach|\bsea\b",
        "night": r"star",
        "room": r"room|home|bookshelf|indoors",
        "bricks": r"brick",
        "sunset": r"sunset",
    },
    "background_color": {
        colour: rf"\b{colour.replace('grey', 'gr[ea]y')} (background|wall)" for colour in values("background_color")
    },
    "expression": {
        "neutral": r"neutral|calm|serious",
        "smile": r"smil",
        "laughing": r"laugh",
        "sad": r"\bsad\b|unhappy",
        "surprised": r"surpris|astonish",
        "angry": r"angry|furious|scowl",
    },
    "light": {
        "day": r"daylight|natural light|soft light",
        "warm": r"warm|golden (light|hour)",
        "cool": r"\bcool\b|cold|moonlight",
        "left": r"from the left",
        "right": r"from the right",
    },
}


def spoken(attribute: str, value: str, text: str) -> bool:
    text = text.lower()
    if attribute == "glasses" and value == "glasses":
        text = re.sub(r"sun ?glasses", "", text)
    return re.search(WORDS[attribute][value], text) is not None


@pytest.fixture(scope="module")
def captioned() -> list[tuple[Person, Caption]]:
    rng = np.random.default_rng(7)
    people = [sample(rng) for _ in range(1200)]
    return [(person, describe(person, rng)) for person in people for _ in range(3)]


def hue(rgb: np.ndarray) -> float:
    """Degrees."""
    return 360 * colorsys.rgb_to_hsv(*(np.asarray(rgb, float) / 255))[0]


def region(picture: np.ndarray, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Median colour of a box given in parts of the picture."""
    size = len(picture)
    cut = picture[round(top * size) : round(bottom * size), round(left * size) : round(right * size)]
    return np.median(cut.reshape(-1, 3), axis=0)


def crown(picture: np.ndarray, above: float = 0.52) -> np.ndarray:
    """Median colour of the head's top, so many face widths above the middle of the brows as the face finder sees them."""
    (face, *_) = face_finder().find(picture)
    x, y = face.landmarks[17:27].mean(0)
    wide = face.width
    cut = picture[int(y - (above + 0.14) * wide) : int(y - above * wide), int(x - 0.15 * wide) : int(x + 0.15 * wide)]
    return np.median(cut.reshape(-1, 3), axis=0)


def eyes(picture: np.ndarray) -> np.ndarray:
    """(n, 3) pixels between the lids of both eyes."""
    (face, *_) = face_finder().find(picture)
    covered = np.zeros(picture.shape[:2], np.uint8)
    for eye in (face.landmarks[36:42], face.landmarks[42:48]):
        cv2.fillPoly(covered, [np.rint(eye).astype(np.int32)], 1)
    return picture[covered > 0]


def test_the_same_seed_draws_the_same_picture_and_another_seed_another():
    first, second = draw(PLAIN, 128, 3), draw(PLAIN, 128, 3)
    assert first.shape == (128, 128, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    assert np.abs(first.astype(int) - draw(PLAIN, 128, 4)).mean() > 4


def test_a_picture_does_not_depend_on_its_size():
    rng = np.random.default_rng(0)
    for seed in range(12):
        person = sample(rng)
        small, large = draw(person, 128, seed), draw(person, 256, seed)
        shrunk = cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA)
        assert np.abs(small.astype(int) - shrunk).mean() < 2.5, person


def test_an_example_is_decided_by_its_index_alone_in_any_process():
    here = [example(index, 64) for index in (5, 6)]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(example, 6, 64).result(60)
    for one, other in ((list(dataset(5, 2, 64)), here), ([there], here[1:])):
        for a, b in zip(one, other, strict=True):
            assert a.person == b.person
            np.testing.assert_array_equal(a.picture, b.picture)
    assert here[0].person != here[1].person


def test_every_value_is_sampled_and_pairs_are_free():
    rng = np.random.default_rng(1)
    people = [sample(rng) for _ in range(4000)]
    for name in ATTRIBUTES:
        assert {getattr(p, name) for p in people} == set(values(name)), name
    beards = {(p.hair_color, p.skin) for p in people if p.facial_hair == "beard"}
    assert beards == {(colour, skin) for colour in values("hair_color") for skin in values("skin")}
    assert all(p.hair_style in UNDER_HATS for p in people if p.hat != "none")
    assert {(p.gender, p.age) for p in people if p.facial_hair != "none"} == {("man", "adult"), ("man", "old")}


@pytest.mark.parametrize(
    ("colour", "low", "high"),
    [("red", 10, 21), ("blond", 35, 50), ("blue", 205, 235), ("pink", 310, 345), ("green", 120, 160), ("brown", 22, 30)],
)
def test_hair_has_its_colour(colour, low, high):
    for seed in range(3):
        assert low < hue(crown(draw(replace(PLAIN, hair_color=colour), 128, seed))) < high


def test_hair_without_a_hue_is_told_by_its_brightness():
    for seed in range(3):
        black, grey, white = (crown(draw(replace(PLAIN, hair_color=c), 128, seed)) for c in ("black", "grey", "white"))
        assert black.max() < 90 < grey.min() <= grey.max() < 185 < white.min()
        assert np.ptp(grey) < 20 and np.ptp(white) < 20


def test_no_hair_shows_the_skin():
    skin = crown(draw(replace(PLAIN, hair_style="bald"), 128, 0), above=0.36)
    assert 10 < hue(skin) < 35 and skin.min() > 100


def test_eyes_have_their_colour_at_256_pixels():
    """The iris is the most colourful part of an eye; a grey one has little colour."""
    found = {}
    for colour in values("eye_color"):
        man = replace(PLAIN, gender="man", eye_color=colour)
        pixels = np.concatenate([eyes(draw(man, 256, seed)) for seed in range(3)]).astype(float)
        spread = np.ptp(pixels, axis=1)
        found[colour] = pixels[spread >= np.quantile(spread, 0.8)].mean(0)
    assert 195 < hue(found["blue"]) < 225 and 100 < hue(found["green"]) < 150 and hue(found["brown"]) < 40
    assert np.ptp(found["grey"]) < 0.5 * min(np.ptp(found[c]) for c in ("blue", "green", "brown"))


@pytest.mark.parametrize("hat", [hat for hat in values("hat") if hat != "none"])
def test_a_hat_covers_the_top_of_the_hair(hat):
    for seed in range(3):
        blue = draw(replace(PLAIN, hair_color="red", hat=hat, hat_color="blue"), 128, seed)
        top = region(blue, 0.36, 0.12, 0.64, 0.2)
        assert 205 < hue(top) < 235, (hat, seed, top)


def test_sunglasses_are_dark_over_the_eyes_and_glasses_are_not():
    for seed in range(4):
        dark = eyes(draw(replace(PLAIN, glasses="sunglasses"), 128, seed)).mean()
        assert dark < 75 < 100 < eyes(draw(replace(PLAIN, glasses="glasses"), 128, seed)).mean()


def test_skins_differ_in_brightness():
    light = []
    for skin in values("skin"):
        picture = draw(replace(PLAIN, skin=skin), 128, 1)
        landmarks = face_finder().find(picture)[0].landmarks
        x, y = (landmarks[2] + landmarks[33]) / 256
        light.append(region(picture, x - 0.02, y - 0.02, x + 0.02, y + 0.02).mean())
    assert all(lighter > darker + 20 for lighter, darker in pairwise(light)), light


@pytest.mark.parametrize("expression", values("expression"))
def test_lips_are_closed_unless_laughing_or_surprised(expression):
    """Portraits are sent to the talking-head maker, which opens the mouth itself."""
    for seed in range(3):
        face = face_finder().find(draw(replace(PLAIN, expression=expression), 128, seed))[0]
        gap = (face.landmarks[[65, 66, 67], 1] - face.landmarks[[63, 62, 61], 1]).mean() / face.width
        assert (gap > 0.06) == (expression in ("laughing", "surprised")) and (gap > 0.06 or gap < 0.04)


def test_a_beard_covers_the_chin_and_a_moustache_does_not():
    for seed in range(3):
        man = replace(PLAIN, gender="man", hair_color="blue")
        for facial_hair, blue in (("beard", True), ("moustache", False), ("none", False)):
            picture = draw(replace(man, facial_hair=facial_hair), 256, seed)
            x, y = face_finder().find(picture)[0].landmarks[[8, 57]].mean(0) / 256
            chin = region(picture, x - 0.03, y - 0.01, x + 0.03, y + 0.03)
            assert (chin[2] > chin[0]) == blue, (facial_hair, seed)


def test_backgrounds_are_what_they_are_called():
    def corners(**changed):
        picture = draw(replace(PLAIN, **changed), 128, 2)
        return region(picture, 0, 0, 0.12, 0.3), region(picture, 0.88, 0.4, 1, 0.6)

    assert all(abs(hue(c) - 215) < 20 for c in corners(background_color="blue"))
    assert all(200 < hue(c) < 225 or c.min() > 200 for c in corners(background="sky"))
    assert all(60 < hue(c) < 150 for c in corners(background="forest"))
    assert all(c.max() < 110 and c[2] > 1.4 * c[0] for c in corners(background="night"))
    assert all(c[0] > 1.2 * c[2] for c in corners(background="bricks"))


def test_light_has_its_side_and_colour():
    landmarks = face_finder().find(draw(PLAIN, 128, 5))[0].landmarks
    left, middle, right = (int(v) for v in landmarks[[2, 30, 14], 0])
    top, bottom = (int(v) for v in landmarks[[29, 33], 1])
    cheeks = {}
    for light in values("light"):
        band = draw(replace(PLAIN, light=light), 128, 5)[top:bottom].astype(float)
        cheeks[light] = band[:, left:middle].mean((0, 1)), band[:, middle:right].mean((0, 1))
    assert cheeks["left"][0].mean() > 1.3 * cheeks["left"][1].mean()
    assert cheeks["right"][1].mean() > 1.3 * cheeks["right"][0].mean()
    blueness = {light: sum(sides)[2] / sum(sides)[0] for light, sides in cheeks.items()}
    assert blueness["warm"] < 0.85 * blueness["day"] < 0.85 * 0.9 * blueness["cool"]


def test_captions_say_nothing_false(captioned):
    for person, caption in captioned:
        for name, words in WORDS.items():
            for value in words:
                if spoken(name, value, caption.text):
                    assert getattr(person, name) == value, (name, caption.text, person)
                    assert name in caption.mentioned, (name, caption.text)
        assert not caption.mentioned & person.hidden(), (caption, person)


def test_every_value_of_every_attribute_is_spoken(captioned):
    assert set(WORDS) == set(ATTRIBUTES)
    for name, words in WORDS.items():
        assert set(words) == set(values(name)) or name == "facial_hair"
        for value in words:
            said = [c.text for person, c in captioned if getattr(person, name) == value and spoken(name, value, c.text)]
            assert len(set(said)) >= 5, (name, value)


def test_what_is_seen_is_said_often_enough_to_be_learned(captioned):
    for name in ("gender", "skin", "hair_color", "hair_style", "eye_color", "clothes", "background", "expression", "light"):
        seen = [caption for person, caption in captioned if name not in person.hidden()]
        assert np.mean([name in caption.mentioned for caption in seen]) > 0.4, name
    for name in ("glasses", "facial_hair", "hat"):
        seen = [caption for person, caption in captioned if getattr(person, name) != "none"]
        assert np.mean([name in caption.mentioned for caption in seen]) > 0.5, name


def test_captions_vary_and_fit_the_text_encoder(captioned):
    texts = [caption.text for _, caption in captioned]
    assert len(set(texts)) > 0.95 * len(texts)
    # CLIP reads 75 tokens; a word or a comma is one, seldom two.
    assert max(len(re.findall(r"\w+|[^\w\s]", text)) for text in texts) < 75
    assert all("  " not in text and " ," not in text and "{" not in text for text in texts)


def test_what_was_asked_is_what_was_mentioned():
    person = Person(hair_color="red", glasses="glasses")
    assert asked(person, {"hair_color", "glasses"}) == {"glasses": "glasses", "hair_color": "red"}


def test_the_face_finder_finds_the_faces():
    found = [face_finder().find(one.picture) for one in dataset(0, 60, 128)]
    assert sum(bool(faces) for faces in found) >= 57
    assert np.median([faces[0].width for faces in found if faces]) > 50
