"""The file of a run: its JSON, and rows of earlier runs that it keeps."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..._files import replace_file
from .data import threads_text
from .results import Run


def appended(earlier: Run, run: Run) -> Run:
    """Return both runs as one: a row that both have is that of the later."""
    rows = {row.name: row for row in (*earlier.rows, *run.rows)}
    measured = {f"{row.operation}/{row.dtype}/{row.layout}" for row in rows.values()}
    left_out = {**_left_out(earlier, run), **_left_out(run, earlier)}
    settings = dict(earlier.settings)
    for name in ("threads", "targets"):
        settings[name] = list(dict.fromkeys([*earlier.settings[name], *run.settings[name]]))
    settings["seconds"] = earlier.settings["seconds"] + run.settings["seconds"]
    settings["parts"] = [*earlier.settings.get("parts", [earlier.date]), run.date]
    roofs = {(each.pattern, each.pages, each.threads): each for each in (*earlier.roof, *run.roof)}
    return dataclasses.replace(
        run,
        settings=settings,
        left_out={name: why for name, why in left_out.items() if name not in measured},
        warnings=tuple(dict.fromkeys((*earlier.warnings, *run.warnings))),
        roof=tuple(roofs.values()),
        rows=tuple(rows.values()),
    )


def _left_out(run: Run, other: Run) -> dict[str, str]:
    """Return what a run left out, with its threads where the other did not."""
    threads = " and ".join(threads_text(n) for n in run.settings["threads"])
    return {
        name if name in other.left_out else f"{name}, {threads}": why
        for name, why in run.left_out.items()
    }


def as_json(run: Run) -> str:
    """Return the text of a result: a line for each row."""
    fields = {
        name: json.dumps(value) if name != "rows" else _lines(value)
        for name, value in dataclasses.asdict(run).items()
    }
    return "{\n" + ",\n".join(f' "{name}": {text}' for name, text in fields.items()) + "\n}\n"


def write(file: Path, text: str) -> None:
    """Replace the file at once: it may hold rows of earlier runs."""
    data = text.encode()
    if file.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    replace_file(file, lambda part: part.write_bytes(data))


def _lines(rows: Sequence[Any]) -> str:
    return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n ]"
