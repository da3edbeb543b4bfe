"""How files of upscalers and restorers are laid out: names without wrappers, and what the shapes say. Opens no file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

_WRAPPERS = ("params_ema.", "params-ema.", "params.", "model_state_dict.", "state_dict.")
_PREFIXES = ("module.", "netG.", "net_g.", "net.")


def bare(names: Iterable[str]) -> dict[str, str]:
    """A network's own names for its tensors -> those in the file: without what trainers put in front of them.

    Of the two sets that some files have, the averaged one (params_ema) is taken.
    """
    names = list(names)
    wrapper = next((one for one in _WRAPPERS if any(name.startswith(one) for name in names)), "")
    inside = {name.removeprefix(wrapper): name for name in names if name.startswith(wrapper)}
    prefix = next((one for one in _PREFIXES if inside and all(name.startswith(one) for name in inside)), "")
    return {name.removeprefix(prefix): whole for name, whole in inside.items()}


def scale(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many times larger an upscaler makes a picture, by the bare names and shapes of its tensors; 0 where these do not tell.

    Known are ESRGAN in its old and new names, Real-ESRGAN's compact networks and SwinIR.
    """
    weights = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if name.endswith(".weight")}
    found = {name: shape for name, shape in weights.items() if len(shape) == 4}
    first, last = found.get("conv_first"), found.get("conv_last")
    row = {int(name.split(".")[1]): shape for name, shape in found.items() if re.fullmatch(r"(model|body)\.\d{1,3}", name)}
    doublings = sum(re.fullmatch(r"(upconv|conv_up)\d", name) is not None for name in found)
    shuffles = [shape for name, shape in found.items() if re.fullmatch(r"upsample\.\d{1,3}", name)]
    if "model.0" in found:  # ESRGAN's first names: a doubling is three places in the row
        return _less_unshuffled(2 ** max(0, (max(row) - 4) // 3), row[0], row[max(row)])
    if "body.0" in found:
        return _side(row[max(row)][0], row[0][1])
    if first and last and doublings:
        return _less_unshuffled(2**doublings, first, last)
    if first and shuffles:
        return math.prod(_side(shape[0], shape[1] if last else first[1]) for shape in shuffles)
    return 0


def _less_unshuffled(scale: int, first: tuple[int, ...], last: tuple[int, ...]) -> int:
    """Without the part that the network takes back: it begins by putting the pixels of a square into channels."""
    return scale // max(1, _side(first[1], last[0]))


def _side(after: int, before: int) -> int:
    """Of the square of pixels that is in the channels."""
    return math.isqrt(after // max(1, before))
