"""Our stages against golden arrays of upstream's, with the stand-in weights that these were made with.

    python -m bench.parity GOLDENS --weights DIR [--only STAGE ...]

A line for each array: the largest absolute difference, the same as a share of the array's largest value, and the bound of the
absolute one. Ends with one line, and with exit code 1 when any array lies past its bound, or was not compared.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.parity.report import HEADING, Compared, Goldens, Nets, Stage, row

THREADS = 2
"""Of PyTorch, with which golden arrays were computed: among how many a convolution is shared out changes its last digits."""

MODULES = ("bench.parity.motion", "bench.parity.render", "bench.parity.paste")


def stages() -> dict[str, Stage]:
    """By name, in the order in which they are run."""
    return {name: stage for module in MODULES for name, stage in importlib.import_module(module).STAGES.items()}


def compared(goldens: Goldens, nets: Nets, wanted: list[str]) -> Iterator[Compared]:
    """Every output array of these stages once."""
    known = stages()
    for name in wanted:
        outputs = {array for array in goldens.outputs if array.startswith(f"{name}/")}
        start = time.perf_counter()
        try:
            for one in known[name](goldens, nets) if name in known else ():
                outputs.discard(one.array)
                yield one
        except Exception as error:  # the other stages are still worth to be seen
            traceback.print_exc()
            yield Compared(f"{name}/output", float("inf"), float("inf"), 0.0, wrong=f"{type(error).__name__}: {error}")
        for array in sorted(outputs):
            yield Compared(array, float("inf"), float("inf"), 0.0, wrong="it was not compared")
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("goldens", type=Path)
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="a folder with SadTalker's files")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages alone")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    goldens = Goldens(arguments.goldens)
    there = goldens.stages
    if unknown := sorted(set(arguments.only or ()) - set(there)):
        parser.error(f"{arguments.goldens} has no stage {', '.join(unknown)}; it has {', '.join(there)}")
    print(HEADING)
    rows = []
    for one in compared(goldens, Nets(arguments.weights), arguments.only or there):
        print(row(one), flush=True)
        rows.append(one)
    deviations = [one for one in rows if one.deviates]
    for reason in dict.fromkeys(one.reason for one in deviations):
        arrays = [one.array for one in deviations if one.reason == reason]
        print(f"differs on purpose: {reason}:\n    " + "\n    ".join(arrays))
    failed = [one for one in rows if one.failed]
    print(
        f"{len(rows)} arrays: {len(rows) - len(failed) - len(deviations)} within their bounds, {len(deviations)} differ on "
        f"purpose, {len(failed)} past their bounds"
    )
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
