"""``ridgeline bench report``: a run as one HTML file, or as tables in Markdown."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from ..._files import replace_file
from . import charts, tables
from .data import (
    MEMORY_BYTES,
    is_doubtful,
    is_usual,
    layout_text,
    machine_line,
    most_threads,
    selected,
    speedup,
    summary,
    threads_text,
)
from .markdown import markdown, markdown_table, roof_table
from .results import OURS, Row, Run, bytes_text, load
from .svg import SHAPES

__all__ = ["add_arguments", "html", "markdown", "markdown_table", "roof_table", "run"]

DESCRIPTION = "Show a result: a page in HTML, or tables in Markdown."
_GLYPHS = {
    "circle": "●",
    "square": "■",
    "triangle": "▲",
    "diamond": "◆",
    "plus": "✚",
    "cross": "✖",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "result", type=Path, metavar="RESULT", help="JSON of `ridgeline bench` or ridgeline_bench"
    )
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="FILE",
        help="where to write; by default HTML goes next to the result, Markdown is printed",
    )
    parser.add_argument("--format", choices=("html", "md"), help="html, unless FILE ends in .md")
    parser.add_argument(
        "--rows",
        nargs="+",
        metavar="FILTER",
        help="only rows whose names hold all words of one FILTER, such as 'clip 64MiB'",
    )
    parser.add_argument("--roof", action="store_true", help="in Markdown, also the memory roof")


def run(args: argparse.Namespace) -> int:
    """Write the report, and return the exit status."""
    output: Path | None = args.output
    kind = args.format or ("md" if output and output.suffix == ".md" else "html")
    if output is None and kind == "html":
        output = args.result.with_suffix(".html")
    try:
        result = load(args.result)
    except (OSError, ValueError) as error:
        return _refuse(str(error))
    chosen = selected(result.rows, args.rows)
    if not chosen:
        return _refuse(
            f"--rows {' '.join(map(repr, args.rows))}: no row has a name with all these words"
        )
    result = dataclasses.replace(result, rows=tuple(chosen))
    try:
        text = html(result) if kind == "html" else markdown(result, roof=args.roof)
    except ValueError as error:
        return _refuse(f"{args.result}: {error}")
    if output is None:
        print(text, end="")
        return 0
    if output.is_dir() or not output.parent.is_dir():
        what = "is a directory" if output.is_dir() else f"no directory {output.parent}"
        return _refuse(f"-o {output}: {what}")
    if output.exists() and args.result.samefile(output):
        return _refuse(f"-o {output}: is the result itself")
    replace_file(output, lambda part: part.write_text(text, encoding="utf-8"))
    print(output)
    return 0


def html(run: Run) -> str:
    """Make the page.

    Parameters
    ----------
    run : Run
        As `results.load` returns it.

    Returns
    -------
    str
        One file that needs nothing else, the same for the same run.

    Raises
    ------
    ValueError
        If a row has no implementation with the role ``"ours"``.
    """
    sections = [
        ("roofline", "Bandwidth and the roof", _roofline(run)),
        ("sweeps", "By size", _sweeps(run)),
        ("peers", "Beside the others", _peers(run)),
        ("scaling", "Threads", _dot_sections(*charts.scaling(run), _SCALING)),
        ("targets", "Targets", _dot_sections(*charts.targets(run), _TARGETS)),
        ("roof", "The memory roof", tables.roof(run.roof) if run.roof else ""),
        ("memory", "Extra memory", _extra(run)),
        ("errors", "Errors", _errors(run)),
        ("rows", "All rows", _rows(run)),
        ("method", "How to read this", _method(run)),
        ("environment", "Environment", _environment(run)),
    ]
    shown = [each for each in sections if each[2]]
    links = "".join(f'<li><a href="#{slug}">{title}</a></li>' for slug, title, _ in shown)
    body = "\n".join(
        f'<section id="{slug}"><h2>{title}</h2>\n{content}</section>'
        for slug, title, content in shown
    )
    title = f"ridgeline bench: {run.machine.get('cpu') or 'unknown processor'}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{_file("report.css")}</style>
</head>
<body>
<header>
<h1>ridgeline bench</h1>
<p class="machine">{escape(machine_line(run))}</p>
{_warnings(run)}{_summary(run)}<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{body}
</main>
<script>
{_file("report.js")}</script>
</body>
</html>
"""


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_SCALING = (
    "How many times as fast with more threads as with one. Dashed lines: no gain, and as many times"
    " as there are threads. What memory bounds gains what memory gains. Whiskers: 95 % intervals."
)
_TARGETS = (
    "The same call with the code for other instruction sets, in turn with the first. The dashed"
    " line is the fastest of them. A target's part leaves out operations in which it is always the"
    " fastest. Whiskers: 95 % intervals."
)
_ROUNDS = """<li>A time is the <b>median of rounds</b>. Each round runs the roof, ridgeline and each
of the others once, in turn, in one process on the same arrays, so that a change of the machine's
speed meets all of them. Min - max is the range over the rounds.</li>"""
_REPETITIONS = """<li>A time is the <b>median of the repetitions</b> of google-benchmark; min - max
is their range. The roof is measured right before and after each.</li>"""
_METHOD = f"""<li>An <b>interval</b> is a 95 % confidence interval: of a median from order
statistics, whatever the distribution; of a speedup from resampling rounds. The interval of GB/s or
of a fraction of the roof comes from the ends of the intervals of its times, so it is rather too
wide.</li>
<li>The <b>roof</b> of a row is the time in which the same bytes move with trivial arithmetic, in
the same rounds. <b>GB/s</b> counts only the bytes that the operation can't do without. A fraction
above 1 means that a cache kept something. In small caches no arithmetic reaches the roof.</li>
<li><b>From memory</b> means arrays of {bytes_text(MEMORY_BYTES)} or more together.</li>
<li><b>⚠</b> and hollow points: the row has a doubt, which says why. Trust it less than its interval
suggests.</li>
<li>Compare fractions and ratios from one run, not times from two machines.</li>"""
_PEERS = """<li><b>Speedup</b> is the time of the best peer over ours. Faster and slower: the whole
interval is above or below 1; as fast: 1 is in it. A reference or another target of ridgeline is no
peer.</li>
<li>Each implementation was checked to give the same result before it was timed; those that did not
are under the row's name as left out, with the reason.</li>"""


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _refuse(reason: str) -> int:
    print(f"ridgeline bench report: {reason}", file=sys.stderr)
    return 2


def _warnings(run: Run) -> str:
    if not run.warnings:
        return ""
    items = "".join(f"<li>⚠ {escape(each)}</li>" for each in run.warnings)
    return f'<div class="warnings" role="note" aria-label="Warnings"><ul>{items}</ul></div>\n'


def _summary(run: Run) -> str:
    found = summary(run)
    tiles = [(str(found.rows), "rows" if found.rows > 1 else "row")]
    if found.fractions:
        value, _, spread = found.fraction_text.partition(" ")
        count = len(found.fractions)
        rows_text = f"median of {count} rows" if count > 1 else "the row"
        text = f"of the roof, {rows_text} from memory {spread}"
        tiles.append((value, text))
    for rows, text in (
        (found.faster, "faster than the best peer"),
        (found.as_fast, "as fast as the best peer"),
        (found.slower, "slower than the best peer"),
    ):
        doubts = sum(is_doubtful(row) for row in rows)
        text += f" ({doubts} with doubts)" if doubts else ""
        if found.faster or found.as_fast or found.slower:
            tiles.append((str(len(rows)), text))
    tiles.append((str(len(found.doubtful)), "with doubts ⚠"))
    items = "".join(f"<li><b>{value}</b> {escape(text)}</li>" for value, text in tiles)
    listed = ""
    if found.slower:
        slowest = sorted(found.slower, key=lambda row: (row.speedup or 0, row.name))
        lines = [
            f"<li><code>{escape(row.name)}</code> {escape(str(speedup(row)))} of "
            f"{escape(row.best_peer or '')}'s speed{' ⚠' if is_doubtful(row) else ''}</li>"
            for row in slowest
        ]
        listed = f'<h3>Slower than the best peer</h3><ul class="rows">{"".join(lines[:12])}</ul>\n'
        if more := lines[12:]:
            listed += (
                f"<details><summary>{len(more)} more</summary>"
                f'<ul class="rows">{"".join(more)}</ul></details>\n'
            )
    return f'<ul class="tiles">{items}</ul>\n{listed}'


def _figure(svg: str, look: str = "", caption: str = "") -> str:
    text = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure class="{look}">{text}{svg}</figure>'


def _key(names: Iterable[str], more: Iterable[str] = ()) -> str:
    """Explain the shapes and colours of series."""
    items = [
        f'<li><span class="swatch c{i % charts.COLOURS}" aria-hidden="true">'
        f"{_GLYPHS[SHAPES[i % len(SHAPES)]]}</span> {escape(name)}</li>"
        for i, name in enumerate(names)
    ]
    items += [f"<li>{escape(each)}</li>" for each in more]
    return f'<ul class="key">{"".join(items)}</ul>'


def _usual_text(run: Run) -> str:
    return f"{run.rows[0].target}, {threads_text(most_threads(run.rows))}"


def _hollow(rows: Iterable[Row]) -> list[str]:
    return ["○ hollow: has doubts"] if any(is_doubtful(row) for row in rows) else []


def _roofline(run: Run) -> str:
    broad = charts.roofline(run)
    if not broad:
        return ""
    moving = [row for row in run.rows if row.traffic_bytes is not None]
    families = charts.families(run)
    picks = [
        '<label><input type="radio" name="family" id="family-all" checked> all</label>',
        *(
            f'<label><input type="radio" name="family" id="family-{i}"><span class="swatch '
            f'c{i % charts.COLOURS}" aria-hidden="true">●</span> {escape(family)}</label>'
            for i, family in enumerate(families)
        ),
    ]
    pick = f'<fieldset class="key"><legend>family</legend>{"".join(picks)}</fieldset>'
    rules = "".join(
        f".roofline:has(#family-{i}:checked) .m:not(.f{i}){{opacity:.07}}"
        for i in range(len(families))
    )
    dtypes = dict.fromkeys(row.dtype for row in moving)
    shapes = [f"{_GLYPHS[charts.dtype_shape(dtype)]} {dtype}" for dtype in dtypes]
    shapes += _hollow(moving)
    listed = "".join(f"<li>{escape(each)}</li>" for each in shapes)
    lines = (
        " Dashed lines: the roof of memory for each pattern of access, with the most threads;"
        " bands: min - max. Rows above them run from caches."
        if charts.top_roofs(run)
        else ""
    )
    caption = (
        "GB/s against the bytes that a call moves: every row with traffic, all targets, dtypes and"
        f" threads.{lines} Points that would cover each other are moved sideways."
    )
    roofline = (
        f'<figure class="wide roofline"><figcaption>{caption}</figcaption>'
        f'<div class="broad">{broad}</div>'
        f'<div class="narrow">{charts.roofline(run, narrow=True)}</div>'
        f'{pick if len(families) > 1 else ""}<ul class="key">{listed}</ul></figure>'
    )
    panels, layouts = charts.fractions(run)
    figures = [_figure(panel) for panel in panels]
    if figures:
        key = _key((layout_text(each) for each in layouts), _hollow(moving))
        text = (
            f"Fraction of the roof, rows from memory, {escape(_usual_text(run))}, best first;"
            f" whiskers: 95 % intervals.{key}"
        )
        figures[0] = _figure(panels[0], "", text)
    return f'<style>{rules}</style><div class="grid first">{roofline}{"".join(figures)}</div>'


def _sweeps(run: Run) -> str:
    drawn = charts.sweeps(run)
    if not drawn:
        return ""
    figures = "".join(_figure(each, "card", _title(each)) for each in drawn)
    return (
        f"<p>GB/s of one float32 array by its size, {escape(_usual_text(run))}: {OURS}, up to three"
        " of the fastest peers, and the roof (dashed). All have the same axes.</p>"
        f'<div class="grid">{figures}</div>'
    )


def _title(svg: str) -> str:
    name = svg.partition("<title id=")[2].partition(">")[2].partition(":")[0]
    return f"<code>{name}</code>"


def _peers(run: Run) -> str:
    groups = charts.barred(run)
    if not groups:
        return ""
    parts = [
        f"<p>Time of a call, {escape(_usual_text(run))}, fastest first. Whiskers: min - max. Where"
        " the slowest takes more than 12 times as long as the fastest, the axis is logarithmic, and"
        " there are points in place of bars. Pale: the reference, and other ways"
        " of ridgeline.</p>"
    ]
    for k, group in enumerate(groups):
        figures = "".join(
            _figure(charts.bars(f"bars-{k}-{i}", row), "card", charts.bar_caption(row))
            for i, row in enumerate(group)
        )
        parts.append(
            f'<h3>{escape(layout_text(group[0].layout))}</h3><div class="grid">{figures}</div>'
        )
    return "".join(parts)


def _dot_sections(made: Sequence[tuple[str, list[str]]], layouts: Sequence[str], text: str) -> str:
    if not made:
        return ""
    parts = [f"<p>{text}</p>", _key(map(layout_text, layouts), ["○ hollow: has doubts"])]
    if all(len(panels) == 1 for _, panels in made):
        figures = "".join(_figure(panels[0], "", f"<b>{escape(name)}</b>") for name, panels in made)
        return f'{"".join(parts)}<div class="grid">{figures}</div>'
    for heading, panels in made:
        figures = "".join(_figure(panel) for panel in panels)
        parts.append(f'<h3>{escape(heading)}</h3><div class="grid">{figures}</div>')
    return "".join(parts)


def _extra(run: Run) -> str:
    rows = [
        row
        for row in run.rows
        if is_usual(run, row)
        and any(each.extra_bytes is not None for each in row.implementations.values())
    ]
    if not rows:
        return ""
    note = (
        "<p>By how much the peak memory of a separate process rose during one call,"
        " results and states included. One call each: pages don't vary as times do.</p>"
    )
    return note + tables.extra(rows)


def _errors(run: Run) -> str:
    rows = [
        row
        for row in run.rows
        if any(each.relative_error is not None for each in row.implementations.values())
    ]
    return tables.errors(rows) if rows else ""


def _rows(run: Run) -> str:
    box = (
        '<div class="filter" data-table="all-rows" hidden><label for="filter-rows">only rows with'
        ' all these words</label><input id="filter-rows" type="search" autocomplete="off"'
        ' placeholder="clip 64MiB"><output aria-live="polite"></output></div>'
    )
    note = (
        "<p>Open a row for the others in it. A name is operation/dtype/target/arrays/threads.</p>"
    )
    return note + box + tables.results(run.rows)


def _method(run: Run) -> str:
    beside = any(len(row.implementations) > 1 for row in run.rows)
    in_rounds = run.settings.get("suite") != "ridgeline_bench"
    items = [_ROUNDS if in_rounds else _REPETITIONS, _METHOD, _PEERS if beside else ""]
    return f"<ul>{''.join(items)}</ul>"


def _environment(run: Run) -> str:
    versions = {name: each or "not installed" for name, each in run.versions.items()}
    lists = [
        tables.facts("Machine", run.machine),
        tables.facts("Versions", versions),
        tables.facts("Settings", run.settings),
        tables.facts("Environment variables", run.environment),
        tables.facts("Left out", run.left_out),
    ]
    return f'<p>Measured {escape(run.date)}.</p><div class="facts">{"".join(lists)}</div>'
