"""What the System tab says of the machine and its models: rows of facts in a visitor's words. Makes no widgets, imports no torch.

What the device is, its worker says, who alone has PyTorch loaded and may have a card of its own. What it could run follows from
that by the rules that the worker itself goes by (imaging/plans.py), models are looked up in models/, and how fast it is was
measured by the jobs in the history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from statistics import median
from typing import TYPE_CHECKING, Any

from webui.devices import GIB, Device
from webui.errors import InvalidRequest
from webui.imaging import plans
from webui.jobs.types import Job, JobState, Query
from webui.weights import detect
from webui.weights.catalog import Catalog, Entry

if TYPE_CHECKING:
    from webui.devices import Loaded
    from webui.settings import Settings

LATELY = 200
"""Jobs that are looked at for the speed."""

Rows = dict[str, str]
Words = Mapping[str, str]
Told = Callable[[str], str]
"""Puts what a job or an error says in the visitor's words."""


@dataclass(frozen=True)
class Machine:
    """A worker's device. where: PyTorch's name for it."""

    device: Device
    where: str

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Machine | None:
        """From what a worker says (webui.devices.machine); None when it does not know."""
        names = [field.name for field in fields(Device)]
        return cls(Device(**{name: said[name] for name in names}), said["where"]) if "where" in said else None


def devices(settings: Settings, workers: tuple[Mapping[str, Any], ...], words: Words, told: Told) -> Rows:
    """The workers' devices, and what the settings say of how they are used."""
    rows: Rows = {}
    for said, wanted in zip(workers, settings.device.split(","), strict=False):
        machine = Machine.read(said)
        name = f"{words['device']} ({machine.where if machine else wanted})"
        if machine:
            fast = " + ".join(name for name in ("fp16", "bf16") if getattr(machine.device, name))
            facts = [machine.device.name, words["system_machine_memory"].format(memory=gigabytes(machine.device.memory))]
            rows[name] = ", ".join(facts + ([words["system_machine_precisions"].format(precisions=fast)] if fast else []))
        else:
            unknown = words["system_machine_lite" if settings.lite else "system_machine_unknown"]
            rows[name] = told(said["problem"]) if "problem" in said else unknown
    chosen = [f"{name} = {_written(value)}" for name, value in settings.plan_overrides.items()]
    return rows | {words["system_machine_overrides"]: ", ".join(chosen) or words["system_machine_auto"]}


def _written(value: Any) -> str:
    return {True: "on", False: "off"}.get(value, str(value))


def runs(settings: Settings, machine: Machine, words: Words) -> tuple[Rows, tuple[str, ...]]:
    """What each known kind of model would take on this device; and what is to be said of the settings."""
    rows: Rows = {}
    notes: dict[str, None] = {}
    for kind in plans.KINDS:
        title = f"{kind.name}, {kind.side} × {kind.side}"
        try:
            plan = plans.plan(machine.device, kind.parameters, kind.largest, **settings.plan_overrides)
        except InvalidRequest as error:
            rows[title] = "–"
            notes[str(error)] = None
            continue
        notes |= dict.fromkeys(plans.doubts(machine.device, plan))
        fits = plans.fits(machine.device, plan, kind.parameters, kind.largest)
        how = {"none": "fits", "model": "model", "sequential": "sequential"}[plan.offload] if fits else "not"
        needs = gigabytes(plans.needs(plan, kind.parameters, kind.largest))
        rows[title] = words[f"system_runs_{how}"].format(precision=plan.precision, needs=needs)
    return rows, tuple(notes)


def speeds(finished: Callable[[Query], tuple[list[Job], int]], words: Words) -> Rows:
    """Steps a second by model and size, of the jobs that say them, the newest first: the median of each group."""
    jobs, _ = finished(Query(state=JobState.DONE, limit=LATELY))
    groups: dict[tuple[str, ...], list[float]] = {}
    for job in jobs:
        data = job.result.data if job.result else {}
        if data.get("steps_per_second"):
            side = " × ".join(str(number) for number in data["size"])
            group = f"{data['model']}, {side}", data["precision"], data["device"]
            groups.setdefault(group, []).append(data["steps_per_second"])
    rows: Rows = {}
    for (title, precision, device), found in groups.items():
        said = {"speed": f"{median(found):.3g}", "precision": precision, "device": device, "jobs": len(found)}
        line = words["system_speed_line"].format(**said)
        rows[title] = f"{rows[title]}; {line}" if title in rows else line
    return rows or {words["system_speed"]: words["system_speed_none"]}


def weights(catalog: Catalog, words: Words, told: Told) -> dict[str, Rows]:
    """The files in models/, what each is, or why it cannot be used, by their heading."""
    listed = {
        "checkpoint": (words["system_checkpoints"], catalog.checkpoints()),
        "vae": (words["system_vaes"], catalog.vaes()),
        "upscaler": (words["system_upscalers"], catalog.upscalers()),
        "restorer": (words["system_restorers"], catalog.restorers()),
    }
    return {
        heading: {entry.name: _described(entry, words, told) for entry in entries}
        or {"–": words["system_weights_none"].format(folder=detect.FOLDERS[kind])}
        for kind, (heading, entries) in listed.items()
    }


def _described(entry: Entry, words: Words, told: Told) -> str:
    if entry.problem:
        return told(entry.problem)
    found = entry.found
    name = detect.NAMES.get(found.architecture) or (f"{found.scale}×" if found.scale else "")
    size = gigabytes(found.bytes)
    line = words["system_weights_inpaint" if found.inpaint else "system_weights_line"]
    return line.format(architecture=name, size=size) if name else size


def held(loaded: tuple[Loaded, ...], words: Words) -> Rows:
    """The models that workers have in memory."""
    rows = {f"{one.name} ({one.device})": gigabytes(one.bytes) for one in loaded}
    return rows or {words["system_memory"]: words["system_memory_none"]}


def gigabytes(size: int) -> str:
    """Of memory or of a file, as people say it: 24 GB is 24 · 2**30."""
    return f"{size / GIB:.1f} GB" if size >= GIB // 10 else f"{size / 2**20:.0f} MB"
