"""Stages from sound and photo to coefficients."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from bench.parity.report import COEFFICIENTS, EXACT, GEOMETRY, LEVELS, Compared, Goldens, Nets, Stage, compare
from extensions.sadtalker.engines.neural import coefficients, geometry, mel, motion
from extensions.sadtalker.engines.neural.coefficients import EXPRESSION, POSE

ENDS = "upstream ends the face's rectangle at the picture's width, to the right and below alike; ours ends where the cut does"
SHRUNK = "upstream leaves the rectangle of a picture that was shrunk in shrunk pixels; ours is in the picture's own"


def hear(goldens: Goldens) -> motion.Hear:
    """The golden windows, so that a stage is judged by itself."""
    windows = goldens["mel/output/windows"]
    return lambda start, stop: windows[start:stop]


def mel_rows(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    """Heard in pieces, as the product does."""
    ear = mel.MelRows()
    for piece in np.array_split(goldens["mel/input/wav16k"], 7):
        ear.push(piece)
    rows = ear.finish()
    yield compare("mel/output/melspectrogram", rows, goldens["mel/output/melspectrogram"], COEFFICIENTS)
    yield compare("mel/output/windows", mel.windows(rows, 0, ear.frames), goldens["mel/output/windows"], COEFFICIENTS)


def audio2exp(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    given = {name: goldens[f"audio2exp/input/{name}"] for name in goldens.cases("audio2exp/input")}
    reference, ratio = given["ref"], given["ratio"].reshape(-1, 1)
    clip = motion.tiled(given["ref_eyeblink_coeff"], len(reference))
    made = {
        "exp": (reference[:, EXPRESSION], ratio),
        "exp_no_blink": (reference[:, EXPRESSION], 0 * ratio),
        "exp_ref_eyeblink": (clip, 0 * ratio),
    }
    for name, (start, lids) in made.items():
        array = f"audio2exp/output/{name}"
        found = motion.expressions(hear(goldens), start, lids, nets.expression)
        yield compare(array, found, goldens[array], COEFFICIENTS)
    array = "audio2exp/output/ref_with_eyeblink"
    yield compare(array, np.concatenate([clip, reference[:, POSE]], axis=1), goldens[array], COEFFICIENTS)


def _poses(goldens: Goldens, nets: Nets, case: str, frames: int) -> np.ndarray:
    given = f"audio2pose/input/{case}"
    start = goldens["audio2exp/input/ref"][:1, POSE]
    style = int(goldens[f"{given}/class"][0])
    return motion.head_poses(hear(goldens), frames, start, nets.pose, style=style, noise=goldens[f"{given}/z"])


def audio2pose(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    clips = {"with_ref_pose": "ref_pose", "with_ref_pose_long": "ref_pose_long"}
    for case in goldens.cases("audio2pose/output"):
        under = f"audio2pose/output/{case}"
        raw = _poses(goldens, nets, case, len(goldens[f"{under}/raw"]))
        found = {"raw": raw, "smoothed": motion.smoothed(raw)}
        for name, clip in clips.items():
            if f"{under}/{name}" in goldens:
                found[name] = motion.following(found["smoothed"], goldens[f"audio2pose/input/{clip}"])
        for name, values in found.items():
            yield compare(f"{under}/{name}", values, goldens[f"{under}/{name}"], COEFFICIENTS)


def audio2coeff(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    """Of the first pose case that is as long as the sound."""
    array = "audio2coeff/output/coeff_3dmm"
    golden = goldens[array]
    cases = goldens.cases("audio2pose/output")
    case = next(one for one in cases if len(goldens[f"audio2pose/output/{one}/raw"]) == len(golden))
    found = motion.speak(
        hear(goldens),
        len(golden),
        goldens["audio2exp/input/source_coeff"],
        nets,
        style=int(goldens[f"audio2pose/input/{case}/class"][0]),
        noise=goldens[f"audio2pose/input/{case}/z"],
        ratio=goldens["audio2exp/input/ratio"].reshape(-1, 1),
    )
    yield compare(array, found, golden, COEFFICIENTS)


def lm3d(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    yield compare("lm3d/output/matrix", geometry.STANDARD_POINTS, goldens["lm3d/output/matrix"], GEOMETRY)


def crop(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    """Ours may be another only where upstream's rule, given our numbers, leads to what upstream has."""
    for case in goldens.cases("crop/input"):
        width, height = map(int, goldens[f"crop/input/{case}/size_wh"])
        cut = geometry.crop_of(goldens[f"crop/input/{case}/lm68"], (width, height))
        ours = _arrays(cut, cut.quad, (width / cut.rsize[0], height / cut.rsize[1]))
        theirs = _arrays(cut, _as_upstream(cut), (1, 1))
        for name in goldens.cases(f"crop/output/{case}"):
            array = f"crop/output/{case}/{name}"
            bound = GEOMETRY if name == "quad" else EXACT
            understood = compare(array, theirs[name], goldens[array], bound).within
            placed = name.startswith(("paste", "clone")) and cut.rsize != cut.size
            yield compare(array, ours[name], goldens[array], bound, deviates=(SHRUNK if placed else ENDS) if understood else "")


def _arrays(cut: geometry.Crop, quad: geometry.Rectangle, scale: tuple[float, float]) -> dict[str, np.ndarray]:
    """What the golden file has of a crop, by name. scale: from the resized picture's pixels to those in which it is pasted."""
    picture = np.zeros((cut.rsize[1], cut.rsize[0], 3), np.uint8)
    inner = geometry.truncated(quad)
    left, top = cut.crop[:2]
    places = {"full": (left + inner[0], top + inner[1], left + inner[2], top + inner[3]), "extfull": cut.crop}
    found = {
        "rsize": cut.rsize,
        "crop": cut.crop,
        "quad": quad,
        "crop_info_size_wh": (inner[2] - inner[0], inner[3] - inner[1]),
        "image_hw": geometry.cut_out(picture, cut.rsize, cut.crop, quad).shape[:2],
        "image_hw_ext": geometry.cut_out(picture, cut.rsize, cut.crop, None).shape[:2],
    }
    for mode, place in places.items():
        x1, y1, x2, y2 = (round(side * by) for side, by in zip(place, scale * 2, strict=True))
        found[f"paste_{mode}_y1y2x1x2"] = y1, y2, x1, x2
        found[f"clone_center_xy_{mode}"] = (x1 + x2) // 2, (y1 + y2) // 2
    return {name: np.array(values) for name, values in found.items()}


def _as_upstream(cut: geometry.Crop) -> geometry.Rectangle:
    """The face's rectangle where upstream ends it: at the width of the picture, to the right and below."""
    return geometry.within(cut.face, cut.rsize[0], cut.rsize[0])


def preprocess(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    """With upstream's rectangle, which is compared in `crop`, so that the rest is judged by itself."""
    picture = cv2.imdecode(goldens["preprocess/input/image_file_bytes"], cv2.IMREAD_COLOR_RGB)
    assert picture is not None
    size = picture.shape[1], picture.shape[0]
    cut = geometry.crop_of(goldens["preprocess/input/lm68_full"], size)
    left, top, right, bottom = geometry.truncated(_as_upstream(cut))
    for mode in goldens.cases("preprocess/output"):
        side = int(goldens[f"preprocess/input/{mode}/pic_size"][0])
        inner = None if mode.startswith("ext") else _as_upstream(cut)
        image = picture if mode == "resize" else geometry.cut_out(picture, cut.rsize, cut.crop, inner)
        image = geometry.resized(image, side)
        landmarks = goldens[f"preprocess/input/{mode}/lm68_resized"]
        found = {
            "image": (image, LEVELS),
            "coeff_3dmm": (coefficients.fit(image, landmarks, nets.fit), COEFFICIENTS),
            "full_3dmm": (coefficients.regressed([coefficients.aligned_face(image, landmarks).image], nets.fit), COEFFICIENTS),
            "crop_info_size_wh": (np.array(size if mode == "resize" else (right - left, bottom - top)), EXACT),
        }
        for name in goldens.cases(f"preprocess/output/{mode}"):
            values, bound = found[name]
            array = f"preprocess/output/{mode}/{name}"
            yield compare(array, values, goldens[array], bound)


def align(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    pictures = [goldens[f"align/input/{case}/image"] for case in goldens.cases("align/input")]
    for case in goldens.cases("align/output"):
        given = f"align/input/{case}/"
        image = goldens.get(f"{given}image", pictures[0])
        landmarks = goldens.get(f"{given}lm_y_down")
        face = coefficients.aligned_face(image, landmarks)
        height, width = image.shape[:2]
        found = {
            "trans_params": (np.array([width, height, face.scale, face.x, face.y]), GEOMETRY),
            "image": (face.image, LEVELS),
            "lm_new": (face.landmarks, COEFFICIENTS),
            "lm_y_up_used": (geometry.standard(height), COEFFICIENTS),
        }
        for name in goldens.cases(f"align/output/{case}"):
            values, bound = found[name]
            array = f"align/output/{case}/{name}"
            yield compare(array, values, goldens[array], bound)


def recon(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
    for case in goldens.cases("recon/input"):
        values = coefficients.regressed([goldens[f"recon/input/{case}"]], nets.fit)
        found = {"full257": values, **coefficients.parts(values)}
        for name in goldens.cases(f"recon/output/{case}"):
            array = f"recon/output/{case}/{name}"
            yield compare(array, found[name], goldens[array], COEFFICIENTS)


STAGES: dict[str, Stage] = {
    "mel": mel_rows,
    "audio2exp": audio2exp,
    "audio2pose": audio2pose,
    "audio2coeff": audio2coeff,
    "lm3d": lm3d,
    "crop": crop,
    "preprocess": preprocess,
    "align": align,
    "recon": recon,
}
