"""Voice to the whole face: the mouth of speech.py, and round it a head, eyes and brows that keep the speaker's rhythm.

Everything is a function of (voice, options): the same seed gives the same movement. All work grows linearly with
length. This module never sees the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from extensions.sadtalker.engines.geometric.posing import posed
from extensions.sadtalker.engines.geometric.speech import MOUTH, decibels, mouth, smooth, smoothstep
from extensions.sadtalker.engines.geometric.watching import lids
from extensions.sadtalker.types import COEFFICIENTS, HEAD, Motion, MotionOptions, Voice

STYLES = 46

RATE = 50
"""Rows per second of the grid on which the head moves; frames are read off it."""

POSE_LIMITS = np.array([7.0, 4.0, 4.0, 0.05, 0.05])
"""Degrees, degrees, degrees, and inter-ocular distances: the head never leaves the photo's pose by more."""

GAZE_LIMIT = 0.06
"""Radians."""

_EASE = 1.1  # seconds from the photo's pose into the movement, and back
_HEAD_FOLLOWS = 0.06  # seconds by which a nod comes after its syllable's loudest moment
_BLINK_CLOSE, _BLINK_HOLD, _BLINK_OPEN = 0.08, 0.05, 0.14  # seconds
_BLINK_GAP = (2.0, 5.0)  # seconds, least and most
_FIRST_BLINK = (1.0, 3.0)  # seconds
_BLINK_AT_PAUSE = 0.9  # seconds by which a blink may wait or hurry to meet a pause


# --- what the head hears ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rhythm:
    """accents: seconds of stressed syllables; strengths: 0..1 of each; pauses: seconds at which phrases end;
    phrases: seconds at which they begin."""

    accents: np.ndarray
    strengths: np.ndarray
    pauses: np.ndarray
    phrases: np.ndarray


def rhythm_of(voice: Voice) -> Rhythm:
    """Stress and phrasing by loudness alone, which is all a listener's nod goes by."""
    if voice.silent:
        return Rhythm(*(np.empty(0),) * 4)
    rows = len(voice.level)
    level = smooth(decibels(voice.level), 6.0)
    loud = np.percentile(level, 95)
    return Rhythm(*_accents(level, loud), *_phrases(level > loud - 24.0, rows))


def _accents(level: np.ndarray, loud: float) -> tuple[np.ndarray, np.ndarray]:
    around = smooth(level, 45.0)
    inner = level[1:-1]
    peaks = 1 + np.flatnonzero((inner > level[:-2]) & (inner >= level[2:]) & (inner > loud - 9.0))
    rise = level[peaks] - around[peaks]
    strength = smoothstep(rise, 0.0, 7.0) * smoothstep(level[peaks], loud - 9.0, loud - 1.0)
    kept: list[int] = []
    for i in np.flatnonzero(strength > 0.08):
        if not kept or peaks[i] - peaks[kept[-1]] >= 40:
            kept.append(int(i))
        elif strength[i] > strength[kept[-1]]:
            kept[-1] = int(i)
    return peaks[kept] / 100.0, strength[kept]


def _phrases(spoken: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    edges = np.flatnonzero(np.diff(np.r_[False, spoken, False].astype(np.int8)))
    begins, ends = edges[::2], edges[1::2]
    if not len(begins):
        return np.empty(0), np.empty(0)
    paused = begins[1:] - ends[:-1] >= 22
    begins, ends = begins[np.r_[True, paused]], ends[np.r_[paused, True]]
    return ends[ends < rows] / 100.0, begins / 100.0


def bumps(grid: np.ndarray, centres: np.ndarray, heights: np.ndarray, sigma: float) -> np.ndarray:
    """Sum of Gaussians on an even grid, each touching only its own neighbourhood."""
    out = np.zeros(len(grid))
    if len(grid) < 2 or not len(centres):
        return out
    step = grid[1] - grid[0]
    impulses = np.zeros(len(grid))
    at = np.round((centres - grid[0]) / step).astype(int)
    inside = (at >= 0) & (at < len(grid))
    np.add.at(impulses, at[inside], heights[inside])
    return smooth(impulses, sigma / step) * (sigma / step * np.sqrt(2 * np.pi))


# --- the head ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PoseStyle:
    """One way of moving the head. Amplitudes and leanings (where the head rests) in degrees, times in seconds."""

    yaw: float
    pitch: float
    roll: float
    yaw_leaning: float
    pitch_leaning: float
    roll_leaning: float
    interval: float  # between changes of pose
    slowness: float  # of a change
    nod: float  # on the strongest syllable
    sway: float  # slow swinging: its share of the amplitudes
    sway_hertz: float
    tilt_with_turn: float  # degrees of roll per degree of yaw
    brow: float  # raise on the strongest syllable, 0..1


_STYLE_RANGES = np.array([
    (3.5, 5.4), (3.2, 4.2), (1.4, 3.0), (-1.0, 1.0), (-0.6, 0.6), (-1.9, 1.9), (1.2, 2.6), (0.24, 0.40), (0.6, 1.8),
    (0.25, 0.6), (0.10, 0.26), (-0.25, 0.25), (0.2, 0.55),
])  # fmt: skip


def pose_style(number: int) -> PoseStyle:
    """Style 0..45, spread over the ranges by a Kronecker sequence (the R-sequence of Roberts, 2018)."""
    if not 0 <= number < STYLES:
        raise ValueError(f"pose_style must be 0..{STYLES - 1}, got {number}.")
    dimensions = len(_STYLE_RANGES)
    root = 2.0
    for _ in range(40):  # the root of x^(d+1) = x + 1
        root = (1.0 + root) ** (1.0 / (dimensions + 1))
    place = (0.5 + (number + 1) * root ** -np.arange(1, dimensions + 1)) % 1.0
    low, high = _STYLE_RANGES.T
    return PoseStyle(*(float(v) for v in low + place * (high - low)))


def _waypoints(style: PoseStyle, rhythm: Rhythm, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Seconds at which the head takes a new pose: its own beat, drawn to the beginnings of phrases."""
    times, now = [], 0.0
    while now < seconds:
        due = now + style.interval * rng.uniform(0.7, 1.3)
        near = rhythm.phrases[np.searchsorted(rhythm.phrases, due - 0.6) :][:1]
        if len(near) and near[0] < due + 0.6 and near[0] > now + 0.5:
            due = float(near[0])
        now = due
        times.append(now)
    return np.array(times)


def _held_poses(grid: np.ndarray, style: PoseStyle, rhythm: Rhythm, rng: np.random.Generator) -> np.ndarray:
    """(rows, 3) in -1..1: poses taken in turn, mostly on changing sides so that the head never parks at one end."""
    changes = _waypoints(style, rhythm, float(grid[-1]) + 1.0, rng)
    count = len(changes) + 1
    stays = rng.random((count, 3)) < [0.25, 0.35, 0.45]
    stays[1:] &= ~stays[:-1]
    sides = np.cumprod(np.where(stays, 1.0, -1.0), axis=0) * rng.choice([-1.0, 1.0], 3)
    poses = sides * rng.uniform(0.55, 1.0, (count, 3))
    return smooth(poses[np.searchsorted(changes, grid)], style.slowness * RATE)


def _swing(grid: np.ndarray, style: PoseStyle, rng: np.random.Generator) -> np.ndarray:
    """(rows, 3) in -1..1: slow waves that never repeat together."""
    hertz = style.sway_hertz * np.array([1.0, 1.37, 0.73]) * rng.uniform(0.9, 1.1, (2, 3)) * [[1.0], [1.618]]
    phases = rng.uniform(0, 2 * np.pi, (2, 3))
    waves = np.sin(2 * np.pi * grid[:, None, None] * hertz + phases)
    return 0.65 * waves[:, 0] + 0.35 * waves[:, 1]


def ease(grid: np.ndarray, seconds: float) -> np.ndarray:
    """0 at both ends of the clip (the photo's own pose), 1 between."""
    ramp = max(min(_EASE, 0.45 * seconds), 1e-6)
    return smoothstep(grid, 0.0, ramp) * smoothstep(seconds - grid, 0.0, ramp)


def head(grid: np.ndarray, seconds: float, rhythm: Rhythm, style: PoseStyle, rng: np.random.Generator) -> np.ndarray:
    """(rows, 5): the columns of HEAD."""
    own = (1.0 - style.sway) * _held_poses(grid, style, rhythm, rng) + style.sway * _swing(grid, style, rng)
    pose = np.zeros((len(grid), len(HEAD)))
    pose[:, :3] = own * (style.yaw, style.pitch, style.roll)
    pose[:, :3] += (style.yaw_leaning, style.pitch_leaning, style.roll_leaning)
    pose[:, 1] += bumps(grid, rhythm.accents + _HEAD_FOLLOWS, style.nod * rhythm.strengths, 0.17)
    pose[:, 2] += style.tilt_with_turn * pose[:, 0]
    drift = _swing(grid, style, rng)
    pose[:, 3] = 0.003 * pose[:, 0] + 0.008 * drift[:, 0]
    pose[:, 4] = 0.004 * pose[:, 1] + 0.006 * drift[:, 1]
    pose = POSE_LIMITS * np.tanh(pose / POSE_LIMITS)
    return pose * ease(grid, seconds)[:, None]


# --- eyes and brows ---------------------------------------------------------------------------------------------------


def blink_times(seconds: float, rhythm: Rhythm, rng: np.random.Generator) -> np.ndarray:
    """Seconds at which the lids meet: irregular, at pauses when one is near, now and then two in a row."""
    times: list[float] = []
    last, due = -10.0, rng.uniform(*_FIRST_BLINK)
    while True:
        due = _at_pause(due, last, rhythm.pauses)
        if due + _BLINK_HOLD + _BLINK_OPEN > seconds - 0.1:
            return np.array(times)
        times.append(due)
        last = due
        twice = rng.random() < 0.06
        if twice and due + 0.8 < seconds:
            last = due + 0.36
            times.append(last)
        least, most = _BLINK_GAP
        due = last + min(max(4.0 if twice else least, 2.2 + rng.gamma(2.0, 0.6)), most)


def _at_pause(due: float, last: float, pauses: np.ndarray) -> float:
    first, last_pause = np.searchsorted(pauses, [due - _BLINK_AT_PAUSE, due + _BLINK_AT_PAUSE])
    near = pauses[first:last_pause] + 0.08
    low, high = (last + _BLINK_GAP[0], last + _BLINK_GAP[1]) if last > 0 else _FIRST_BLINK
    near = near[(near >= low) & (near <= high)]
    return float(near[np.abs(near - due).argmin()]) if len(near) else due


def blinks(times: np.ndarray, fps: float, closed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(T,) 0..1: quick to close, slower to open; each is wholly shut on at least one frame."""
    out = np.zeros(len(times))
    span = int(np.ceil(0.35 * fps))
    for moment, pace in zip(closed, rng.uniform(0.92, 1.06, len(closed)), strict=True):
        frame = round(moment * fps)
        rows = slice(max(frame - span, 0), frame + span + 1)
        t = (times[rows] - frame / fps) / pace
        lid = smoothstep(t, -_BLINK_CLOSE, 0.0) * (1.0 - smoothstep(t, _BLINK_HOLD, _BLINK_HOLD + _BLINK_OPEN))
        out[rows] = np.maximum(out[rows], lid)
    return out


def gaze(times: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """(T, 2) radians: at the camera with small shifts, a short glance aside now and then; held between."""
    count = int(seconds / 0.5) + 2
    intervals = 0.5 + rng.gamma(2.0, 0.45, count)
    moments = np.cumsum(intervals)
    glance = rng.random(count) < 0.25
    glance[1:] &= ~glance[:-1]
    spread = np.where(glance[:, None], [0.030, 0.014], [0.006, 0.004])
    targets = np.r_[np.zeros((1, 2)), spread * np.clip(rng.standard_normal((count, 2)), -1.4, 1.4)]
    # A saccade takes about 40 ms.
    index = np.searchsorted(moments, times)
    before = targets[np.maximum(index - 1, 0)]
    since = times - np.r_[-1.0, moments][index]
    return before + (targets[index] - before) * np.clip(since / 0.04, 0.0, 1.0)[:, None]


def brows(grid: np.ndarray, rhythm: Rhythm, style: PoseStyle, rng: np.random.Generator) -> np.ndarray:
    """(rows,) -1..1: a raise with about every other stressed syllable, and slow drift."""
    raised = rhythm.strengths * (rng.random(len(rhythm.strengths)) < 0.55)
    drift = 0.07 * _swing(grid, style, rng)[:, 0]
    return np.clip(bumps(grid, rhythm.accents, style.brow * raised, 0.16), 0.0, 0.8) + drift


# --- all of it --------------------------------------------------------------------------------------------------------


def frame_times(voice: Voice, options: MotionOptions) -> np.ndarray:
    """Seconds of every frame: options.frames of them, or as many as the voice lasts; at least one."""
    count = round(voice.seconds * options.fps) if options.frames is None else options.frames
    return np.arange(max(1, count)) / options.fps


def _scaled_mouth(voice: Voice, times: np.ndarray, scale: float) -> np.ndarray:
    if scale == 0.0:
        return np.zeros((len(times), len(MOUTH)), np.float32)
    said = mouth(voice, times)
    gains = np.full(len(MOUTH), scale)
    # Lips that meet must still meet when the face moves less.
    gains[MOUTH.index("press")] = min(1.0, 2.0 * scale)
    return np.clip(said * gains, 0.0, 1.0)


def make_motion(voice: Voice, options: MotionOptions) -> Motion:
    """One row per frame at options.fps; the first frame has the photo's own pose.

    Raises ValueError for a pose style outside 0..45.
    """
    times = frame_times(voice, options)
    seconds = float(times[-1])
    grid = np.arange(int(np.ceil(seconds * RATE)) + 2) / RATE
    style, rhythm = pose_style(options.pose_style), rhythm_of(voice)
    lid_rng, gaze_rng, brow_rng = (np.random.default_rng([options.seed, part]) for part in range(3))
    head_rng = np.random.default_rng([options.seed, 3, options.pose_style])
    values = np.zeros((len(times), len(COEFFICIENTS)), np.float32)

    def put(name: str, column: np.ndarray) -> None:
        values[:, COEFFICIENTS.index(name)] = column

    for name, column in zip(MOUTH, _scaled_mouth(voice, times, options.expression_scale).T, strict=True):
        put(name, column)
    brow = brows(grid, rhythm, style, brow_rng) * ease(grid, seconds) * options.expression_scale
    put("brow", np.clip(np.interp(times, grid, brow), -1.0, 1.0))
    if options.blink_like is not None:
        put("blink", lids(options.blink_like, times))
    elif options.blink:
        put("blink", blinks(times, options.fps, blink_times(seconds, rhythm, lid_rng), lid_rng))
    look = gaze(times, seconds, gaze_rng)
    moved = posed(options, times, lambda: head(grid, seconds, rhythm, style, head_rng), grid)
    for name, column in zip(HEAD, moved.T, strict=True):
        put(name, column)
    # Eyes stay with the camera while the head turns, in part.
    look -= 0.35 * np.radians(values[:, [COEFFICIENTS.index("yaw"), COEFFICIENTS.index("pitch")]])
    put("gaze_x", np.clip(look[:, 0], -GAZE_LIMIT, GAZE_LIMIT))
    put("gaze_y", np.clip(look[:, 1], -GAZE_LIMIT, GAZE_LIMIT))
    return Motion(values, options.fps)
