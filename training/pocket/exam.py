"""Examines the pocket model: does it draw what it is asked for? The studio makes its pictures, the judge reads them.

    python -m training.pocket.exam [--models models] [--count 300] [--sheet FILE.png]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from training.pocket import judge, portraits
from training.pocket.captions import asked, describe
from webui.faces import face_finder
from webui.imaging.generate import txt2img
from webui.imaging.load import Model, load
from webui.imaging.preview import sheet
from webui.imaging.requests import Txt2Img
from webui.weights.catalog import POCKET, Catalog


@dataclass(frozen=True)
class Answer:
    """wanted, found: attribute -> value, of those that the prompt names. face: whether the face finder finds one."""

    prompt: str
    picture: np.ndarray
    wanted: dict[str, str]
    found: dict[str, str]
    face: bool

    @property
    def wrong(self) -> list[str]:
        return [name for name, value in self.wanted.items() if self.found[name] != value]


class Unwatched:
    """passes.Watch of nobody."""

    cancelled = False

    def progress(self, fraction: float, stage: str) -> None: ...
    def preview(self, image: np.ndarray) -> None: ...
    def warn(self, message: str) -> None: ...


def pocket(models: Path) -> Model:
    """The model in the folder pocket/ of a folder of models."""
    return load(Catalog(models).find(POCKET), precision="fp32", device="cpu")


def draw(model: Model, prompt: str, seed: int, **chosen: object) -> np.ndarray:
    """(128, 128, 3) uint8 RGB, with the studio's own settings but for those chosen."""
    (picture,) = txt2img(model, Txt2Img.model_validate({"prompt": prompt, **chosen}), Unwatched(), seed)
    return picture.rgb


def answers(model: Model, count: int) -> Iterator[Answer]:
    """Of captions of people whom the model has never seen."""
    known = judge.load()
    for number in range(count):
        person = portraits.person(judge.UNSEEN + number)
        said = describe(person, np.random.default_rng(number))
        picture = draw(model, said.text, number)
        (found,) = judge.read(known, [picture])
        wanted = asked(person, said.mentioned)
        yield Answer(said.text, picture, wanted, found, bool(face_finder().find(picture)))


def summary(given: list[Answer]) -> str:
    """The shares that are right, in all and attribute by attribute, and of the faces."""
    rows = [(name, name not in answer.wrong) for answer in given for name in answer.wanted]
    lines = [f"attributes right: {np.mean([right for _, right in rows]):.3f} of {len(rows)}"]
    for name in sorted({name for name, _ in rows}):
        rights = [right for each, right in rows if each == name]
        lines.append(f"  {name:<17}{np.mean(rights):.3f} of {len(rights)}")
    return "\n".join([*lines, f"faces found: {np.mean([answer.face for answer in given]):.3f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"), help="the folder that pocket/ is in")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--sheet", type=Path, help="where to put a sheet of the first 64 pictures")
    arguments = parser.parse_args()
    given = list(answers(pocket(arguments.models), arguments.count))
    print(summary(given))
    if arguments.sheet:
        Image.fromarray(sheet(np.stack([answer.picture for answer in given[:64]]))).save(arguments.sheet)


if __name__ == "__main__":
    main()
