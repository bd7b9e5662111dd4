"""The tables of the report, as HTML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .data import (
    Ratio,
    doubts,
    extra_text,
    layout_text,
    of_roof,
    ours,
    roof_speed_text,
    speed,
    speedup,
    threads_text,
    what,
)
from .results import Roof, Row, bytes_text, digits_text, interval_text, range_text, time_text


@dataclass(frozen=True)
class Cell:
    """A text, and the number it is sorted by if not by the text itself."""

    text: str
    key: float | None = None

    def __str__(self) -> str:
        key = "" if self.key is None else f' data-v="{self.key:.5g}"'
        return f"<td{key}>{escape(self.text)}</td>"


def table(
    slug: str,
    caption: str,
    headings: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Cell]]],
    *,
    look: str = "",
) -> str:
    """Make a table in a box that scrolls; rows have a header, which is HTML, and cells."""
    heads = "".join(f'<th scope="col">{escape(each)}</th>' for each in headings)
    body = "\n".join(
        f'<tr><th scope="row">{header}</th>{"".join(map(str, cells))}</tr>'
        for header, cells in rows
    )
    return (
        f'<div class="scroll {look}" role="region" tabindex="0" aria-labelledby="{slug}-caption">'
        f'<table id="{slug}"><caption id="{slug}-caption">{escape(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def results(rows: Sequence[Row]) -> str:
    """Make the table of all rows, with what others did in each."""
    headings = (
        "row",
        "time (95 % interval)",
        "min - max",
        "GB/s (interval)",
        "of roof (interval)",
        "speedup (interval)",
        "best peer",
    )
    return table(
        "all-rows",
        "Ridgeline in every row, and its speedup over the best peer",
        headings,
        [(_row_header(row), _row_cells(row)) for row in rows],
        look="tall sortable",
    )


def _row_header(row: Row) -> str:
    name = f"<code>{escape(row.name).replace('/', '/<wbr>')}</code>"
    why = "; ".join(doubts(row))
    marked = f'<p class="doubt">⚠ {escape(why)}</p>' if why else ""
    lines = [
        (
            title,
            f"{time_text(each.median)} ({range_text(each)})",
            f"{fraction} of roof" if (fraction := of_roof(row, each)) else "",
            "" if each.trusted else "⚠ not trusted",
        )
        for title, each in row.implementations.items()
        if each.role != "ours"
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    text += [f"without {peer}: {why}" for peer, why in row.left_out.items()]
    if not text:
        return name + marked
    inner = escape("\n".join(text))
    return f"<details><summary>{name}</summary><pre>{inner}</pre></details>{marked}"


def _row_cells(row: Row) -> list[Cell]:
    own, reached = ours(row), speed(row, ours(row))
    interval = "no interval"
    if own.low is not None and own.high is not None:
        interval = range_text(dataclasses.replace(own, min=own.low, max=own.high))
    return [
        Cell(f"{time_text(own.median)} ({interval})", own.median),
        Cell(range_text(own), own.min),
        Cell("") if reached is None else Cell(_speed_text(reached), reached.value),
        _ratio_cell(of_roof(row, own)),
        _ratio_cell(speedup(row)),
        Cell(row.best_peer or ""),
    ]


def _ratio_cell(ratio: Ratio | None) -> Cell:
    return Cell("") if ratio is None else Cell(str(ratio), ratio.value)


def _speed_text(speed: Ratio) -> str:
    if speed.low is None or speed.high is None:
        return f"{digits_text(speed.value)} (no interval)"
    return f"{digits_text(speed.value)} ({digits_text(speed.low)} - {digits_text(speed.high)})"


def roof(roofs: Sequence[Roof]) -> str:
    """Make the table of the memory roof."""
    counts = sorted({each.threads for each in roofs})
    pages = sorted({each.pages for each in roofs})
    sizes = sorted({each.bytes for each in roofs})
    found = {(each.pattern, each.bytes, each.threads, each.pages): each for each in roofs}
    both = {"huge", "normal"} <= set(pages)
    headings = ["pattern"]
    for n in counts:
        headings += [f"{threads_text(n)}, {page} pages" for page in pages]
        headings += [f"{threads_text(n)}, huge / normal"] if both else []
    rows = []
    for pattern, size in dict.fromkeys((each.pattern, each.bytes) for each in roofs):
        cells = []
        for n in counts:
            for page in pages:
                each = found.get((pattern, size, n, page))
                cells.append(Cell("" if each is None else roof_speed_text(each)))
            if both:
                huge, normal = (found.get((pattern, size, n, page)) for page in ("huge", "normal"))
                cells.append(Cell(_gain_text(huge, normal)))
        header = f"<code>{escape(pattern)}</code>"
        rows.append((header if len(sizes) == 1 else f"{header}, {bytes_text(size)}", cells))
    on = f" on {bytes_text(sizes[0])}" if len(sizes) == 1 else ""
    runs = min(each.runs for each in roofs)
    caption = f"GB/s{on}: median (min - max) of {runs} runs or more"
    return table("roof-table", caption, headings, rows, look="tall")


def _gain_text(huge: Roof | None, normal: Roof | None) -> str:
    if huge is None or normal is None or normal.gb_per_s_min <= 0:
        return ""
    low = huge.gb_per_s_min / normal.gb_per_s_max
    high = huge.gb_per_s_max / normal.gb_per_s_min
    return interval_text(huge.gb_per_s / normal.gb_per_s, low, high)


def extra(rows: Sequence[Row]) -> str:
    """Make the table of peak extra memory."""
    names = dict.fromkeys(
        name
        for row in rows
        for name, each in row.implementations.items()
        if each.extra_bytes is not None and each.role != "target"
    )
    body = []
    for row in rows:
        cells = []
        for name in names:
            each = row.implementations.get(name)
            cells.append(Cell("" if each is None else extra_text(row, each)))
        label = f"<code>{escape(what(row))}</code>, {escape(layout_text(row.layout))}"
        body.append((label, cells))
    return table(
        "extra-table",
        "Peak extra memory of one call, and how much that is of one set of the arrays",
        ["row", *names],
        body,
        look="tall",
    )


def errors(rows: Sequence[Row]) -> str:
    """Make the table of relative errors."""
    names = dict.fromkeys(
        name
        for row in rows
        for name, each in row.implementations.items()
        if each.relative_error is not None
    )
    body = []
    for row in rows:
        cells = []
        for name in names:
            each = row.implementations.get(name)
            error = None if each is None else each.relative_error
            cells.append(Cell("" if error is None else f"{error:.1e}"))
        body.append((f"<code>{escape(row.name)}</code>", cells))
    return table(
        "error-table", "Relative error of the result, against float64", ["row", *names], body
    )


def facts(title: str, values: Mapping[str, Any]) -> str:
    """List what was recorded."""
    if not values:
        return ""
    entries = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(_fact(value))}</dd>" for name, value in values.items()
    )
    return f"<section><h3>{escape(title)}</h3><dl>{entries}</dl></section>"


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_fact(each) for each in value)
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) or "(empty)"
