"""A run as tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .data import threads_text
from .results import Implementation, Row, Run, bytes_text, interval_text, range_text, time_text


def show(run: Run, all_peers: bool, console: Any) -> None:
    """Print a run: where it was made, its tables, its doubts."""
    for line in heading(run):
        console.print(line, markup=False, highlight=False)
    for warning in run.warnings:
        console.print(f"[bold]warning:[/bold] {warning}")
    for threads in dict.fromkeys(row.threads for row in run.rows):
        rows = [row for row in run.rows if row.threads == threads]
        memory_bound = [row for row in rows if row.traffic_bytes]
        text = f"{threads_text(threads)}, {rows[0].target}"
        if memory_bound:
            console.print(_throughput_table(text, memory_bound, all_peers))
        calls = [row for row in rows if row.layout == "256"]
        if calls:
            console.print(_call_table(f"One call on 256 elements: {text}", calls, all_peers))
    for row in run.rows:
        for name, reason in row.left_out.items():
            if name != "reference":
                console.print(f"{row.name} without {name}: {reason}", markup=False)
    for row in run.rows:
        for doubt in row.doubts:
            console.print(f"? {row.name}: {doubt}", markup=False)


def heading(run: Run) -> Iterator[str]:
    """Say where and how a run was made, line by line."""
    facts, settings = run.machine, run.settings
    libraries = ", ".join(f"{k} {v}" for k, v in run.versions.items() if v and k != "compiler")
    yield f"{facts['cpu']}, {facts['cores']} cores; {libraries}; {run.versions['compiler']}"
    yield (
        f"{run.date}, {settings['seconds']:.0f} s; target {', '.join(settings['targets'])}; "
        f"huge pages {facts['huge_pages']}; governor {facts['governor']}; load {facts['load']:.1f}"
    )
    best: dict[str, float] = {}
    for each in run.roof:
        if each.pages == "huge":
            best[each.pattern] = max(best.get(each.pattern, 0.0), each.gb_per_s)
    if best:
        yield "memory roof in GB/s: " + ", ".join(f"{k} {v:.0f}" for k, v in best.items())
    for name, reason in run.left_out.items():
        yield f"without {name}: {reason}"


def _throughput_table(title: str, rows: Sequence[Row], all_peers: bool) -> Any:
    table = _table(title, "case", "median", "min - max", "GB/s", "of roof")
    with_memory = any(each.extra_bytes is not None for r in rows for each in _all(r))
    if with_memory:
        table.add_column("extra memory", justify="right", no_wrap=True)
    table.add_column("speedup over the best peer", no_wrap=True)
    for row in rows:
        for name, each in _shown(row, all_peers):
            extra = "" if each.extra_bytes is None else bytes_text(each.extra_bytes)
            table.add_row(
                _case_text(row) if each.role == "ours" else f"  {name}",
                time_text(each.median) + _mark(each.trusted),
                range_text(each),
                f"{each.gb_per_s or 0:.1f}",
                "" if each.of_roof is None else f"{each.of_roof:.2f}",
                *([extra] if with_memory else []),
                _speedup_text(row) if each.role == "ours" else "",
            )
    return table


def _call_table(title: str, rows: Sequence[Row], all_peers: bool) -> Any:
    table = _table(title, "function", "median", "min - max", "over an empty call")
    table.add_column("speedup over the best peer", no_wrap=True)
    for row in rows:
        floor = next(each.median for each in _all(row) if each.role == "floor")
        for name, each in _shown(row, all_peers):
            table.add_row(
                row.operation if each.role == "ours" else f"  {name}",
                time_text(each.median) + _mark(each.trusted),
                range_text(each),
                time_text(each.median - floor),
                _speedup_text(row) if each.role == "ours" else "",
            )
    return table


def _table(title: str, first: str, *numbers: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _all(row: Row) -> list[Implementation]:
    return list(row.implementations.values())


def _shown(row: Row, all_peers: bool) -> Iterator[tuple[str, Implementation]]:
    for name, each in row.implementations.items():
        if all_peers or row.own or each.role in ("ours", "target"):
            yield name, each


def _case_text(row: Row) -> str:
    return f"{row.operation}/{row.dtype}/{row.layout}" + (" ?" if row.doubts else "")


def _mark(trusted: bool) -> str:
    return "" if trusted else " ~"


def _speedup_text(row: Row) -> str:
    if row.speedup is None:
        return ""
    interval = interval_text(row.speedup, row.speedup_low, row.speedup_high)
    return f"{interval} {row.best_peer}"
