"""Styles: pieces of prompts kept under a name, in the styles.csv that AUTOMATIC1111's web UI reads and writes, too.

A style with {prompt} in it is put around the prompt; one without is put behind it, after a comma. They are applied in the
order in which they are named.
"""

from __future__ import annotations

import csv
import difflib
import io
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from webui.errors import InvalidRequest, StorageError

LONGEST_PROMPT = 100_000
"""Characters that styles may make of a prompt: a style that says {prompt} twice doubles it each time."""

_COLUMNS = ("name", "prompt", "negative_prompt")


@dataclass(frozen=True)
class Style:
    """What a name stands for, in the prompt and in the negative one."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""


def read_styles(path: Path) -> dict[str, Style]:
    """The styles of a styles.csv by name, in the file's order; none when there is no such file.

    Rows without a name are left out; of two with the same name the last one counts. The old column `text` is the prompt.
    Raises InvalidRequest when the file is no UTF-8 CSV with a column `name`, StorageError when it cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as e:
        raise InvalidRequest(f"{path.name} is not in UTF-8. Save it as “CSV UTF-8” in your spreadsheet program.") from e
    except OSError as e:
        raise StorageError(f"The styles in {path.name} cannot be read: {e.strerror or type(e).__name__}. Check that file.") from e
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""))
        styles = [_style(row) for row in rows]
    except csv.Error as e:
        raise InvalidRequest(f"{path.name} is not a table of styles ({e}). Repair or remove it.") from e
    if "name" not in (rows.fieldnames or ["name"]):
        raise InvalidRequest(f"{path.name} has no column “name” in its first row. Its columns are: {', '.join(_COLUMNS)}.")
    return {style.name: style for style in styles if style.name}


def _style(row: Mapping[str, str | None]) -> Style:
    prompt = row["prompt"] if "prompt" in row else row.get("text")
    return Style(row.get("name") or "", prompt or "", row.get("negative_prompt") or "")


def save_styles(path: Path, styles: Iterable[Style]) -> None:
    """Write a styles.csv. The old file stays whole until the new one is. Raises StorageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        try:
            # With the mark at its beginning, spreadsheet programs know it for UTF-8.
            with open(part, "x", encoding="utf-8-sig", newline="") as file:
                table = csv.writer(file)
                table.writerow(_COLUMNS)
                table.writerows((style.name, style.prompt, style.negative_prompt) for style in styles)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as e:
        reason = e.strerror or type(e).__name__
        raise StorageError(f"The styles cannot be saved in {path.name}: {reason}. Free some space, or check its folder.") from e


def apply_styles(prompt: str, negative_prompt: str, names: Sequence[str], styles: Mapping[str, Style]) -> tuple[str, str]:
    """Both prompts with the named styles in them. Raises InvalidRequest for an unknown name, or when they grow too long."""
    for name in names:
        if name not in styles:
            near = difflib.get_close_matches(name, styles, n=1)
            raise InvalidRequest(f"There is no style “{name}”. " + (f"Is it “{near[0]}”?" if near else "Choose one of the list."))
        prompt = _merged(prompt, styles[name].prompt)
        negative_prompt = _merged(negative_prompt, styles[name].negative_prompt)
        if max(len(prompt), len(negative_prompt)) > LONGEST_PROMPT:
            raise InvalidRequest(f"With the style “{name}” the prompt has more than {LONGEST_PROMPT} characters. Leave some out.")
    return prompt, negative_prompt


def _merged(prompt: str, style: str) -> str:
    if "{prompt}" in style:
        return style.replace("{prompt}", prompt)
    return ", ".join(filter(None, (prompt.strip(), style.strip())))
