"""Tables in Markdown, for READMEs and documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .data import (
    Ratio,
    doubts,
    extra_text,
    machine_line,
    of_roof,
    ours,
    roof_speed_text,
    selected,
    speed,
    speedup,
    threads_text,
)
from .results import Implementation, Roof, Row, Run, bytes_text, range_text, time_text


def _peer(row: Row) -> Implementation | None:
    return None if row.best_peer is None else row.implementations.get(row.best_peer)


def _timed(each: Implementation | None) -> str:
    return "" if each is None else f"{time_text(each.median)} ({range_text(each)})"


def _best_peer(row: Row) -> str:
    each = _peer(row)
    return "" if each is None else f"{row.best_peer} {_timed(each)}"


def _ratio(value: Ratio | None) -> str:
    return "" if value is None else str(value)


COLUMNS: Mapping[str, tuple[str, Callable[[Row], str]]] = {
    "row": ("row", lambda row: f"`{row.name}`"),
    "operation": ("operation", lambda row: f"`{row.operation}`"),
    "dtype": ("dtype", lambda row: row.dtype),
    "target": ("target", lambda row: row.target),
    "layout": ("arrays", lambda row: row.layout),
    "threads": ("threads", lambda row: str(row.threads)),
    "time": ("ridgeline, median (min - max)", lambda row: _timed(ours(row))),
    "gb_per_s": ("GB/s (interval)", lambda row: _ratio(speed(row, ours(row)))),
    "of_roof": ("of roof (interval)", lambda row: _ratio(of_roof(row, ours(row)))),
    "peer": ("best peer, median (min - max)", _best_peer),
    "speedup": ("speedup (interval)", lambda row: _ratio(speedup(row))),
    "extra": ("extra memory (of the arrays)", lambda row: extra_text(row, ours(row))),
}
_TEXTS = ("row", "operation", "dtype", "target", "layout")  # columns that are no figures
_USUAL = ("row", "time", "of_roof", "peer", "speedup")


def markdown_table(
    rows: Sequence[Row],
    columns: Sequence[str] = _USUAL,
    *,
    names: Mapping[str, str] | None = None,
    notes: bool = True,
) -> str:
    """Make a table of some rows.

    Parameters
    ----------
    rows : sequence of Row
        In the order of the table.
    columns : sequence of str
        Keys of `COLUMNS`, or names of implementations, whose times are shown.
    names : mapping, optional
        What to write in the column ``row``, in Markdown, by the row's name. The name itself by
        default.
    notes : bool
        Whether rows with doubts, which always have a †, are explained under the table.

    Returns
    -------
    str
        Lines of Markdown; the last ends with a line break.

    Raises
    ------
    ValueError
        If a column is neither a key nor an implementation of any row.
    """
    known = dict.fromkeys(name for row in rows for name in row.implementations)
    for column in columns:
        if column not in COLUMNS and column not in known:
            wanted = ", ".join([*COLUMNS, *known])
            raise ValueError(f"columns: got {column!r}, wants some of {wanted}")
    headings = [COLUMNS[c][0] if c in COLUMNS else f"{c}, median (min - max)" for c in columns]
    body = [[_cell(row, column, names or {}) for column in columns] for row in rows]
    lines = [
        _line(headings),
        "|" + "|".join("---" if c in _TEXTS else "--:" for c in columns) + "|",
    ]
    lines += [
        _line([_marked(row, cells[0]), *cells[1:]]) for row, cells in zip(rows, body, strict=True)
    ]
    noted: dict[str, list[Row]] = {}
    for row in rows:
        if reasons := doubts(row):
            noted.setdefault("; ".join(reasons), []).append(row)
    if noted and notes:
        lines += ["", "† can't be trusted:", ""]
        for why, found in noted.items():
            listed = ", ".join(_cell(row, "row", names or {}) for row in found)
            lines.append(_escaped(f"* {listed}: {why}"))
    return "\n".join(lines) + "\n"


def roof_table(roofs: Sequence[Roof]) -> str:
    """Make the table of the memory roof."""
    columns = sorted({(each.threads, each.pages) for each in roofs})
    found = {(each.pattern, each.bytes, each.threads, each.pages): each for each in roofs}
    headings = [f"{threads_text(n)}, {pages} pages" for n, pages in columns]
    lines = [_line(["GB/s, median (min - max)", *headings]), "|---|" + "--:|" * len(columns)]
    for pattern, size in dict.fromkeys((each.pattern, each.bytes) for each in roofs):
        cells = [found.get((pattern, size, *column)) for column in columns]
        texts = ["" if each is None else roof_speed_text(each) for each in cells]
        lines.append(_line([f"{pattern}, {bytes_text(size)}", *texts]))
    return "\n".join(lines) + "\n"


def markdown(
    run: Run,
    rows: Sequence[str] | None = None,
    *,
    columns: Sequence[str] = _USUAL,
    roof: bool = False,
) -> str:
    """Make a heading line and a table.

    Parameters
    ----------
    run : Run
    rows : sequence of str, optional
        Filters: rows are taken whose names hold all words of one of them. All by default.
    columns : sequence of str
        As of `markdown_table`.
    roof : bool
        Whether the table of the memory roof follows.
    """
    parts = [_escaped(machine_line(run)) + "\n"]
    if run.warnings:
        parts.append("".join(f"* ⚠ {_escaped(each)}\n" for each in run.warnings))
    parts.append(markdown_table(selected(run.rows, rows), columns))
    if roof and run.roof:
        parts.append(roof_table(run.roof))
    return "\n".join(parts)


def _cell(row: Row, column: str, names: Mapping[str, str]) -> str:
    if column == "row" and row.name in names:
        return names[row.name]
    if column in COLUMNS:
        return COLUMNS[column][1](row)
    return _timed(row.implementations.get(column))


def _marked(row: Row, text: str) -> str:
    return f"{text} †" if doubts(row) else text


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    """Keep what would end a cell or begin HTML from doing so."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
