"""What the mouth does for each phone: the teacher of the speech model. Written from phonetics, not from data.

A vowel has a shape of its own. A consonant fixes only what it needs (p b m shut the lips, f v tuck the lower lip,
l n t d raise the tongue tip, s z sh bring the teeth together) and takes the rest from the vowels around it: this is
coarticulation by dominance, after Cohen and Massaro (1993), done here as a normalised convolution.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np

RATE = 100
"""Label rows per second."""

CHANNELS = ("jaw", "rounding", "spreading", "upper_lip", "lower_lip", "tongue", "press", "speech")
"""Columns of the labels. The first six are shapes; press is the lips' closure; speech is 0 in pauses."""

SIGMA = np.array([0.034, 0.048, 0.042, 0.036, 0.026, 0.024])
"""Seconds over which a shape spreads into its neighbours. The lips round early and slowly, the tongue is quick."""

LEAD = np.array([0.010, 0.025, 0.015, 0.010, 0.005, 0.0])
"""Seconds by which a shape precedes its sound."""


@dataclass(frozen=True)
class Phone:
    """Targets 0..1 and how strongly each is held (dominance 0..1; 0 leaves it to the neighbours)."""

    jaw: float = 0.0
    rounding: float = 0.0
    spreading: float = 0.0
    upper_lip: float = 0.0
    lower_lip: float = 0.0
    tongue: float = 0.0
    hold: tuple[float, float, float] = (0.1, 0.05, 0.05)  # of jaw, rounding, spreading
    bilabial: bool = False
    silent: bool = False


def _vowel(jaw: float, rounding: float = 0.0, spreading: float = 0.0) -> Phone:
    upper = 0.35 * jaw + 0.25 * spreading
    return Phone(jaw, rounding, spreading, upper, 0.0, 0.0, hold=(1.0, 1.0, 1.0))


BILABIAL = Phone(jaw=0.08, hold=(0.35, 0.05, 0.05), bilabial=True)
LABIODENTAL = Phone(jaw=0.12, upper_lip=0.3, lower_lip=1.0, hold=(0.6, 0.15, 0.05))
DENTAL = Phone(jaw=0.2, tongue=0.7, hold=(0.4, 0.05, 0.05))
ALVEOLAR = Phone(jaw=0.2, tongue=0.7, hold=(0.25, 0.05, 0.05))
LATERAL = Phone(jaw=0.3, tongue=1.0, hold=(0.3, 0.05, 0.05))
SIBILANT = Phone(jaw=0.1, spreading=0.35, upper_lip=0.25, tongue=0.2, hold=(0.7, 0.1, 0.35))
POSTALVEOLAR = Phone(jaw=0.12, rounding=0.55, upper_lip=0.35, tongue=0.2, hold=(0.7, 0.6, 0.3))
RHOTIC = Phone(jaw=0.22, rounding=0.4, tongue=0.3, hold=(0.3, 0.4, 0.1))
TRILL = Phone(jaw=0.25, tongue=0.8, hold=(0.3, 0.1, 0.05))
VELAR = Phone(jaw=0.25, hold=(0.15, 0.05, 0.05))
PALATAL = Phone(jaw=0.2, spreading=0.6, upper_lip=0.2, hold=(0.4, 0.3, 0.6))
LABIOVELAR = Phone(jaw=0.12, rounding=1.0, hold=(0.6, 1.0, 0.5))
GLOTTAL = Phone(jaw=0.3, hold=(0.03, 0.03, 0.03))
PAUSE = Phone(hold=(0.9, 0.7, 0.7), silent=True)

VOWELS = {
    "i": _vowel(0.22, 0.0, 0.9), "ɪ": _vowel(0.30, 0.0, 0.55), "e": _vowel(0.42, 0.0, 0.65),
    "ɛ": _vowel(0.58, 0.0, 0.45), "æ": _vowel(0.80, 0.0, 0.45), "a": _vowel(0.90, 0.0, 0.2),
    "ɑ": _vowel(0.95, 0.05, 0.0), "ɒ": _vowel(0.75, 0.35, 0.0), "ɔ": _vowel(0.68, 0.55, 0.0),
    "o": _vowel(0.45, 0.80, 0.0), "ʊ": _vowel(0.30, 0.60, 0.0), "u": _vowel(0.18, 1.0, 0.0),
    "ʌ": _vowel(0.60, 0.05, 0.1), "ə": _vowel(0.38, 0.1, 0.1), "ɜ": _vowel(0.38, 0.35, 0.0),
    "y": _vowel(0.20, 0.95, 0.0), "ø": _vowel(0.38, 0.80, 0.0), "œ": _vowel(0.55, 0.60, 0.0),
    "ɨ": _vowel(0.25, 0.0, 0.4), "ɯ": _vowel(0.25, 0.0, 0.35), "ɤ": _vowel(0.42, 0.0, 0.15),
}  # fmt: skip
"""IPA vowels by height (jaw), rounding and frontness (spreading)."""

CONSONANTS = {
    **dict.fromkeys("pbm", BILABIAL), **dict.fromkeys("fvɱʋ", LABIODENTAL), **dict.fromkeys("θð", DENTAL),
    **dict.fromkeys("tdnʈɖɳȶ", ALVEOLAR), **dict.fromkeys("lɫɭʎ", LATERAL), **dict.fromkeys("szɕʑ", SIBILANT),
    **dict.fromkeys("ʃʒʂʐ", POSTALVEOLAR), "ɹ": RHOTIC, "ɻ": RHOTIC, **dict.fromkeys("rɾ", TRILL),
    **dict.fromkeys("kgɡŋxɣcqχʁ", VELAR), **dict.fromkeys("jɲçʝ", PALATAL), "w": LABIOVELAR, "ɥ": LABIOVELAR,
    **dict.fromkeys("hɦʔ", GLOTTAL), "β": LABIODENTAL,
}  # fmt: skip

_ALIASES = {
    "ɐ": "ʌ", "ɚ": "ə", "ɝ": "ɜ", "ᵻ": "ɪ", "ɘ": "ə", "ɵ": "ø", "ɞ": "œ", "ʉ": "u", "ʏ": "y", "ɶ": "œ", "ä": "a",
    "ɟ": "c", "β": "v", "ɬ": "l", "ʀ": "ʁ", "ħ": "h", "ʕ": "ʔ", "ʦ": "s", "ʨ": "ɕ", "ʧ": "ʃ", "ʤ": "ʒ", "I": "ɪ",
}  # fmt: skip

ARPABET = {
    "aa": "ɑ", "ae": "æ", "ah": "ʌ", "ao": "ɔ", "aw": "aʊ", "ax": "ə", "axr": "ɜ", "ay": "aɪ", "eh": "ɛ", "er": "ɜ",
    "ey": "eɪ", "ih": "ɪ", "ix": "ɪ", "iy": "i", "ow": "oʊ", "oy": "ɔɪ", "uh": "ʊ", "uw": "u", "b": "b", "ch": "tʃ",
    "d": "d", "dh": "ð", "dx": "ɾ", "el": "l", "em": "m", "en": "n", "f": "f", "g": "g", "hh": "h", "hv": "h",
    "jh": "dʒ", "k": "k", "l": "l", "m": "m", "n": "n", "nx": "n", "ng": "ŋ", "p": "p", "r": "ɹ", "s": "s", "sh": "ʃ",
    "t": "t", "th": "θ", "v": "v", "w": "w", "y": "j", "z": "z", "zh": "ʒ", "pau": "", "brth": "", "h#": "",
}  # fmt: skip
"""Flite's phones in IPA."""


def phones_of(ipa: str) -> list[Phone]:
    """The table's phones for one IPA symbol (a diphthong or affricate gives two). Empty or unknown marks: a pause."""
    if ipa.startswith("("):  # espeak's language switch
        return []
    plain = (c for c in unicodedata.normalize("NFD", ipa) if not unicodedata.combining(c))
    letters = (_ALIASES.get(c, c) for c in plain)
    return [VOWELS.get(c) or CONSONANTS[c] for c in letters if c in VOWELS or c in CONSONANTS]


@dataclass(frozen=True)
class Segment:
    """A phone in time: IPA symbol ("" for a pause), start and end in seconds."""

    ipa: str
    start: float
    end: float


def _spread(segments: list[Segment]) -> list[tuple[Phone, float, float]]:
    out = []
    for s in segments:
        found = phones_of(s.ipa) if s.ipa else [PAUSE]
        edges = np.linspace(s.start, s.end, len(found) + 1)
        out += [(p, a, b) for p, a, b in zip(found, edges[:-1], edges[1:], strict=True)]
    return out


def _gauss(x: np.ndarray, sigma: float) -> np.ndarray:
    reach = int(np.ceil(3 * sigma * RATE))
    k = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (sigma * RATE)) ** 2)
    return np.convolve(np.pad(x, reach, mode="edge"), k / k.sum(), mode="valid")


def closure(t: np.ndarray, start: float, end: float) -> np.ndarray:
    """The lips' closure for a bilabial from start to end: 1 in its middle half, gone 35 ms outside the phone."""
    middle, flat = 0.5 * (start + end), max(0.010, 0.25 * (end - start))
    reach = max(0.5 * (end - start), 0.03) + 0.035
    return 0.5 + 0.5 * np.cos(np.pi * np.clip((np.abs(t - middle) - flat) / (reach - flat), 0, 1))


def labels(segments: list[Segment], rows: int) -> np.ndarray:
    """(rows, len(CHANNELS)) float32 in 0..1, at RATE rows per second."""
    t = np.arange(rows) / RATE
    target = np.zeros((6, rows))
    weight = np.full((6, rows), 1e-3)
    press, speech = np.zeros(rows), np.zeros(rows)
    for phone, start, end in _spread(segments):
        span = slice(round(start * RATE), max(round(end * RATE), round(start * RATE) + 1))
        jaw, rounding, spreading = phone.hold
        own = (phone.jaw, phone.rounding, phone.spreading, phone.upper_lip, phone.lower_lip, phone.tongue)
        hold = (jaw, rounding, spreading, max(jaw, 0.15), 1.0, 1.0)
        for c in range(6):
            target[c, span], weight[c, span] = own[c], hold[c]
        if phone.bilabial:
            press = np.maximum(press, closure(t, start, end))
        if not phone.silent:
            speech[span] = 1.0
    out = np.empty((rows, len(CHANNELS)), np.float32)
    for c in range(6):
        blend = _gauss(target[c] * weight[c], SIGMA[c]) / _gauss(weight[c], SIGMA[c])
        out[:, c] = np.interp(t + LEAD[c], t, blend)
    out[:, 6], out[:, 7] = press, _gauss(speech, 0.012)
    return out
