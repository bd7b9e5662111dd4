"""The charts of the report, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

from .data import (
    Ratio,
    array_bytes,
    doubts,
    grouped,
    is_doubtful,
    is_from_memory,
    is_usual,
    layout_text,
    of_roof,
    our_name,
    ours,
    ratio,
    roof_speed_text,
    speed,
    speedup,
    threads_text,
    what,
)
from .results import (
    OURS,
    Implementation,
    Roof,
    Row,
    Run,
    Stats,
    bytes_text,
    range_text,
    time_text,
)
from .svg import (
    SHAPES,
    Drawing,
    Scale,
    beside,
    bottom_axis,
    left_axis,
    spread,
)

COLOURS = 8  # in report.css
_DTYPES = {"float32": "circle", "float64": "square", "bfloat16": "triangle", "float16": "diamond"}
_LANE = 5.0  # between the dots of a line
_CHARACTER = 6.6  # width at most of most, at 11 px


def dtype_shape(dtype: str) -> str:
    """Return the shape of a point."""
    return _DTYPES.get(dtype, "plus")


def families(run: Run) -> list[str]:
    """Return the families in the order of their colours."""
    return list(dict.fromkeys(row.family for row in run.rows if row.traffic_bytes is not None))


def top_roofs(run: Run) -> list[Roof]:
    """Return the fastest of each pattern, with the most threads on the largest arrays."""
    most = max((each.threads for each in run.roof), default=0)
    best: dict[str, Roof] = {}
    for each in run.roof:
        if each.threads == most and each.gb_per_s > 0:
            best[each.pattern] = max(
                best.get(each.pattern, each), each, key=lambda roof: (roof.bytes, roof.gb_per_s)
            )
    return sorted(best.values(), key=lambda roof: -roof.gb_per_s)


def roofline(run: Run, *, narrow: bool = False) -> str:
    """Draw GB/s against the bytes that a call moves: a point for each row, a line for each roof.

    ``narrow``: for a phone, without tips.
    """
    rows = [row for row in run.rows if row.traffic_bytes is not None]
    roofs = top_roofs(run)
    if not rows:
        return ""
    speeds = {row.name: speed(row, ours(row)) or Ratio(0.0) for row in rows}
    width, height = (400.0, 470.0) if narrow else (820.0, 600.0)
    labels = [each.pattern if narrow else _roof_label(each) for each in roofs]
    right = 7.4 * max(map(len, labels)) + 20 if labels else 16.0
    left, top, bottom = 46.0, 22.0, height - 44
    traffic = [row.traffic_bytes or 1 for row in rows]
    values = [each.value for each in speeds.values()] + [roof.gb_per_s for roof in roofs]
    x = Scale(min(traffic) / 2.2, max(traffic) * 2.2, left, width - right, log=True)
    y = _log_scale(values, bottom, top)
    fractions = [f.value for row in rows if (f := of_roof(row, ours(row)))]
    drawing = Drawing(
        "roofline-narrow" if narrow else "roofline",
        width,
        height,
        "GB/s reached against the bytes that a call moves",
        f"{len(rows)} rows, from {min(values):.3g} to {max(values):.3g} GB/s."
        + (f" The median row reaches {median(fractions):.2f} of its roof." if fractions else "")
        + ("".join(f" Roof of {r.pattern}: {r.gb_per_s:.1f} GB/s." for r in roofs))
        + " The table of all rows has the same figures.",
    )
    bottom_axis(drawing, x, top, bottom, x.byte_ticks(5 if narrow else 9), _short_bytes)
    left_axis(drawing, y, left, width - right, y.ticks(9), _plain)
    drawing.text(left - 38, 12, "GB/s", "tick")
    drawing.text((left + width - right) / 2, height - 8, "bytes moved by a call", "tick middle")
    _draw_roofs(drawing, roofs, labels, y, left, width - right)
    colours = {family: i for i, family in enumerate(families(run))}
    order = sorted(rows, key=lambda row: (row.traffic_bytes or 0, speeds[row.name].value))
    radius = 3.2 if narrow else 4.2
    places = beside(
        [(x(row.traffic_bytes or 1), y(speeds[row.name].value)) for row in order],
        1.7 * radius,
        16 if narrow else 26,
    )
    for row, (px, py) in zip(order, places, strict=True):
        k = colours[row.family]
        look = f"m c{k % COLOURS} f{k}" + (" h" if is_doubtful(row) else "")
        tip = "" if narrow else point_text(row)
        drawing.mark(dtype_shape(row.dtype), px, py, look, tip, radius)
    return str(drawing)


def _log_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a scale with some room around the values, wide enough for two ticks."""
    room = max(1.3, math.sqrt(10 * min(values) / max(values)))
    return Scale(min(values) / room, max(values) * room, start, end, log=True)


def _draw_roofs(
    drawing: Drawing,
    roofs: Sequence[Roof],
    labels: Sequence[str],
    y: Scale,
    left: float,
    right: float,
) -> None:
    places = spread([y(each.gb_per_s) for each in roofs], 15, y.end + 6, y.start - 6)
    for each, label, place in zip(roofs, labels, places, strict=True):
        at = y(each.gb_per_s)
        low, high = y(each.gb_per_s_min), y(each.gb_per_s_max)
        tip = f"roof, {roof_text(each)}"
        drawing.rectangle(left, high, right - left, max(low - high, 0.5), "band", tip)
        drawing.line(left, at, right, at, "roof")
        drawing.path([(right, at), (right + 8, place), (right + 11, place)], "leader")
        drawing.text(right + 14, place + 4, label)


def _roof_label(roof: Roof) -> str:
    return f"{roof.pattern} {roof.gb_per_s:.3g} ({roof.gb_per_s_min:.3g} - {roof.gb_per_s_max:.3g})"


def roof_text(roof: Roof) -> str:
    """Return the speed of a pattern with its spread."""
    where = f"{roof.pattern}, {threads_text(roof.threads)}, {roof.pages} pages"
    return f"{where}: {roof_speed_text(roof)} GB/s"


def point_text(row: Row) -> str:
    """Return all that is known about ridgeline in a row, in lines."""
    own = ours(row)
    lines = [row.name, f"{time_text(own.median)}, {range_text(own)}"]
    if reached := speed(row, own):
        lines.append(f"{reached} GB/s")
    if fraction := of_roof(row, own):
        lines.append(f"{fraction} of its roof")
    lines += [f"doubt: {doubt}" for doubt in doubts(row)]
    return "\n".join(lines)


@dataclass(frozen=True)
class Dot:
    """A value of one series; ``tip`` is shown where the pointer rests."""

    series: int
    value: Ratio
    tip: str
    doubtful: bool = False


@dataclass(frozen=True)
class Line:
    """The dots of one label."""

    label: str
    dots: tuple[Dot, ...]

    @property
    def height(self) -> float:
        """The height it takes."""
        return max(19.0, _LANE * len(self.dots) + 9)

    @property
    def middle(self) -> float:
        """The median of the values."""
        return median(dot.value.value for dot in self.dots)


def dot_plots(
    slug: str,
    title: str,
    describe: str,
    lines: Sequence[Line],
    axis: str,
    *,
    log: bool = False,
    start: float | None = None,
    reference: Sequence[float] = (),
    first: float = 0.0,
) -> list[str]:
    """Draw a line of dots for each label, in up to three panels of the same scale.

    ``start``: where the scale begins at the latest; ``reference``: values with a line; ``first``:
    the height of a panel before the three, 0 for none.
    """
    values = [dot.value.value for line in lines for dot in line.dots]
    low, high = min([*values, *reference]), max([*values, *reference])
    if start is not None:
        low = min(start, low)
    if log:
        low, high = low / 1.12, high * 1.12
    else:
        low, high = (low if low == start == 0 else low - 0.04 * (high - low)), high * 1.06
    label_width = min(200.0, _CHARACTER * max(len(line.label) for line in lines) + 10)
    parts = _panels(lines, first)
    drawn = []
    for k, part in enumerate(parts):
        height = sum(line.height for line in part) + 46
        named = title if len(parts) == 1 else f"{title} ({k + 1} of {len(parts)})"
        figures = "; ".join(f"{line.label} {line.middle:.2f}" for line in part)
        drawing = Drawing(f"{slug}-{k + 1}", 400, height, named, f"{describe} Medians: {figures}.")
        scale = Scale(low, high, label_width, 390, log)
        top, bottom = 6.0, height - 36
        y = top
        for i, line in enumerate(part):
            if i % 2:
                drawing.rectangle(0, y, 400, line.height, "stripe")
            y += line.height
        bottom_axis(drawing, scale, top, bottom, scale.ticks(5 if label_width > 150 else 7), _plain)
        for value in reference:
            drawing.line(scale(value), top, scale(value), bottom, "reference")
        drawing.text((scale.start + scale.end) / 2, height - 4, axis, "tick middle")
        y = top
        for line in part:
            _dots(drawing, line, y + line.height / 2, scale, label_width)
            y += line.height
        drawn.append(str(drawing))
    return drawn


def _dots(drawing: Drawing, line: Line, y: float, scale: Scale, label_width: float) -> None:
    label = _cut(line.label, label_width - 10)
    drawing.text(label_width - 8, y + 4, label, "end")
    for j, dot in enumerate(line.dots):
        at = y + _LANE * (j - (len(line.dots) - 1) / 2)
        look = f"c{dot.series % COLOURS}"
        if dot.value.low is not None and dot.value.high is not None:
            ends = scale(dot.value.low), scale(dot.value.high)
            drawing.whiskers([(at, *ends)], f"w {look}")
        look = f"m {look}" + (" h" if dot.doubtful else "")
        shape = SHAPES[dot.series % len(SHAPES)]
        drawing.mark(shape, scale(dot.value.value), at, look, dot.tip, 3.6)


def _panels(lines: Sequence[Line], first: float) -> list[list[Line]]:
    """Divide lines among panels of about the same height."""
    rest = list(lines)
    parts: list[list[Line]] = []
    if first:
        parts.append([])
        while rest and sum(line.height for line in [*parts[0], rest[0]]) <= first:
            parts[0].append(rest.pop(0))
    total = sum(line.height for line in rest)
    count = min(3, math.ceil(total / 250))
    done = 0.0
    panels: list[list[Line]] = [[] for _ in range(count)]
    for line in rest:
        panels[min(count - 1, int(done / total * count))].append(line)
        done += line.height
    return [part for part in [*parts, *panels] if part]


def _by_layout(
    rows: Sequence[Row], layouts: Sequence[str], dot: Callable[[Row], Dot | None]
) -> list[Line]:
    """Make a line for each operation and dtype, of the dots of its rows in the order of layouts."""
    lines = []
    for group in grouped(rows, what):
        ordered = sorted(group, key=lambda row: layouts.index(row.layout))
        if dots := tuple(made for row in ordered if (made := dot(row))):
            lines.append(Line(what(group[0]), dots))
    return lines


def fractions(run: Run) -> tuple[list[str], list[str]]:
    """Draw the fraction of the roof of rows from memory; return the panels and the layouts."""
    rows = [row for row in run.rows if is_from_memory(row) and is_usual(run, row) and row.roof]
    layouts = list(dict.fromkeys(row.layout for row in rows))

    def dot(row: Row) -> Dot | None:
        fraction = of_roof(row, ours(row))
        if fraction is None:
            return None
        tip = "\n".join([row.name, f"{fraction} of its roof", *doubts(row)])
        return Dot(layouts.index(row.layout), fraction, tip, is_doubtful(row))

    lines = _by_layout(rows, layouts, dot)
    if not lines:
        return [], []
    panels = dot_plots(
        "fraction",
        "Fraction of the roof, rows from memory",
        "One line for each operation, best first.",
        sorted(lines, key=lambda line: (-line.middle, line.label)),
        "fraction of the roof",
        start=0,
        reference=(1,),
        first=560,
    )
    return panels, layouts


def scaling(run: Run) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """Draw the speedup of threads; return headings with panels, and the layouts."""
    rows = [
        row
        for row in run.rows
        if row.dtype == "float32" and row.traffic_bytes and row.target == run.rows[0].target
    ]
    counts = sorted({row.threads for row in rows})
    single = {(row.operation, row.layout): row for row in rows if row.threads == counts[0]}
    rows = [
        row for row in rows if row.threads > counts[0] and (row.operation, row.layout) in single
    ]
    layouts = list(dict.fromkeys(row.layout for row in rows))

    def dot(row: Row) -> Dot:
        base = single[row.operation, row.layout]
        value = ratio(ours(base), ours(row))
        tip = f"{row.name}\n{value} times as fast as with {threads_text(base.threads)}"
        doubtful = is_doubtful(row) or is_doubtful(base)
        return Dot(layouts.index(row.layout), value, tip, doubtful)

    made = []
    for count in counts[1:]:
        lines = _by_layout([row for row in rows if row.threads == count], layouts, dot)
        if not lines:
            continue
        panels = dot_plots(
            f"scaling-{count}",
            f"Speedup of {threads_text(count)} over {threads_text(counts[0])}",
            "One line for each operation.",
            sorted(lines, key=lambda line: (-line.middle, line.label)),
            f"times as fast as with {threads_text(counts[0])}",
            start=1,
            reference=(1, count / counts[0]),
            log=count > 8 * counts[0],
        )
        made.append((threads_text(count), panels))
    return made, layouts


def targets(run: Run) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """Draw times by target, over the fastest's; return headings with panels, and the layouts."""
    found: dict[tuple[str, str], dict[str, tuple[Row, Implementation]]] = {}
    most = max(row.threads for row in run.rows)
    for row in run.rows:
        if row.traffic_bytes is None or row.threads != most:
            continue
        by_target = found.setdefault((row.layout, what(row)), {})
        by_target.setdefault(row.target, (row, ours(row)))
        for name, each in row.implementations.items():
            if each.role == "target":
                by_target.setdefault(name.removeprefix(OURS).strip(), (row, each))
    found = {key: by_target for key, by_target in found.items() if len(by_target) > 1}
    layouts = list(dict.fromkeys(layout for layout, _ in found))
    made = []
    for name in dict.fromkeys(name for by_target in found.values() for name in by_target):

        def dot(row: Row, name: str = name) -> Dot | None:
            by_target = found[row.layout, what(row)]
            if name not in by_target:
                return None
            each = by_target[name][1]
            best = min((other for _, other in by_target.values()), key=lambda other: other.median)
            value = Ratio(1.0) if each is best else ratio(each, best)
            tip = f"{what(row)}, {layout_text(row.layout)}, {name}\n{value} of the fastest's time"
            doubtful = is_doubtful(by_target[name][0], each)
            return Dot(layouts.index(row.layout), value, tip, doubtful)

        rows = [next(iter(by_target.values()))[0] for by_target in found.values()]
        lines = [
            line
            for line in _by_layout(rows, layouts, dot)
            if any(each.value.value > 1 for each in line.dots)
        ]
        if not lines:
            continue
        worst = max(each.value.value for line in lines for each in line.dots)
        panels = dot_plots(
            f"target-{_slug(name)}",
            f"Time of {name} over that of the fastest target",
            "1 is the fastest. One line for each operation, slowest first.",
            sorted(lines, key=lambda line: (-line.middle, line.label)),
            "time / time of the fastest target",
            start=1,
            reference=(1,),
            log=worst > 4,
        )
        made.append((name, panels))
    return made, layouts


def sweeps(run: Run) -> list[str]:
    """Draw GB/s against the size of one array: ridgeline, the best peers and the roof."""
    rows = [
        row
        for row in run.rows
        if row.dtype == "float32"
        and is_usual(run, row)
        and not row.workload
        and speed(row, ours(row))
        and array_bytes(row)
    ]
    groups = [
        sorted(group, key=lambda row: array_bytes(row) or 0)
        for group in grouped(rows, lambda row: row.operation)
        if len({array_bytes(row) for row in group}) > 1
    ]
    if not groups:
        return []
    chosen = [_sweep_series(group) for group in groups]
    values = [v.value for series in chosen for points in series.values() for _, v in points]
    sizes = [array_bytes(row) or 1 for group in groups for row in group]
    x = Scale(min(sizes) / 1.6, max(sizes) * 1.6, 42, 290, log=True)
    y = _log_scale(values, 200, 22)
    return [_sweep(group, series, x, y) for group, series in zip(groups, chosen, strict=True)]


def _sweep_series(group: Sequence[Row]) -> dict[str, list[tuple[int, Ratio]]]:
    best = [row.best_peer for row in group if row.best_peer]
    totals: dict[str, float] = {}
    for name in {name for row in group for name in row.implementations}:
        everywhere = [row.implementations.get(name) for row in group]
        if all(each is not None and each.role == "peer" for each in everywhere):
            totals[name] = sum(math.log(each.median) for each in everywhere if each)
    names = list(dict.fromkeys([*best, *sorted(totals, key=lambda n: (totals[n], n))]))[:3]
    series: dict[str, list[tuple[int, Ratio]]] = {}
    for row in group:
        size = array_bytes(row) or 1
        stats: list[tuple[str, Stats | None]] = [("roof", row.roof)]
        stats += [(name, row.implementations.get(name)) for name in [*names, our_name(row)]]
        for name, each in stats:
            if each is not None and (value := speed(row, each)):
                series.setdefault(name, []).append((size, value))
    return series


def _sweep(
    group: Sequence[Row], series: Mapping[str, list[tuple[int, Ratio]]], x: Scale, y: Scale
) -> str:
    operation = group[0].operation
    figures = "; ".join(
        f"{name}: " + ", ".join(f"{_short_bytes(size)} {value.value:.3g}" for size, value in points)
        for name, points in series.items()
    )
    drawing = Drawing(
        f"sweep-{_slug(operation)}",
        400,
        236,
        f"{operation}: GB/s by size of the array",
        f"{figures} GB/s.",
    )
    bottom_axis(drawing, x, 22, 200, sorted({array_bytes(row) or 1 for row in group}), _short_bytes)
    left_axis(drawing, y, 42, 290, y.ticks(5), _plain)
    drawing.text(166, 232, "size of the array", "tick middle")
    drawing.text(4, 10, "GB/s", "tick")
    hollow = {array_bytes(row) for row in group if is_doubtful(row)}
    own = our_name(group[0])
    peers = [name for name in series if name not in ("roof", own)]
    ends = [y(points[-1][1].value) for points in series.values()]
    labels = dict(zip(series, spread(ends, 14, 22, 198), strict=True))
    for name, points in series.items():
        k = 0 if name == own else peers.index(name) + 1 if name in peers else 7
        look = f"c{k}"
        places = [(x(size), y(value.value)) for size, value in points]
        kind = "roof-line" if name == "roof" else "ours line" if name == own else "line"
        drawing.path(places, f"{kind} {look}")
        intervals = [
            (px, y(value.low), px, y(value.high))
            for (_, value), (px, _) in zip(points, places, strict=True)
            if value.low is not None and value.high is not None
        ]
        drawing.lines([ends for ends in intervals if ends[1] - ends[3] >= 1], f"w {look}")
        for (size, value), (px, py) in zip(points, places, strict=True):
            if name != "roof":
                empty = " h" if size in hollow else ""
                tip = f"{name}, {_short_bytes(size)}: {value} GB/s"
                drawing.mark(SHAPES[k], px, py, f"m {look}{empty}", tip, 3.8)
        last_x, last_y = places[-1]
        drawing.path([(last_x + 6, last_y), (300, labels[name])], "leader")
        strong = " strong" if name == own else ""
        drawing.text(304, labels[name] + 4, _cut(name, 96), strong.strip())
    return str(drawing)


def bars(slug: str, row: Row) -> str:
    """Draw the times of the implementations of a row, fastest first, with their ranges."""
    timed = sorted(
        (
            (name, each)
            for name, each in row.implementations.items()
            if each.role not in ("floor", "target")
        ),
        key=lambda pair: pair[1].median,
    )
    least = min(each.min for _, each in timed)
    most = max(each.max for _, each in timed)
    log = timed[-1][1].median > 12 * timed[0][1].median
    label_width = min(170.0, _CHARACTER * max(len(name) for name, _ in timed) + 10)
    step = 20.0
    bottom = step * len(timed) + 4
    drawing = Drawing(
        slug,
        400,
        bottom + 32,
        f"{row.name}: time of a call",
        "Fastest first: "
        + "; ".join(f"{name} {time_text(each.median)}" for name, each in timed)
        + ".",
    )
    if log:
        scale = Scale(least / 1.3, most * 1.1, label_width, 330, log=True)
    else:
        scale = Scale(0, most * 1.02, label_width, 330)
    bottom_axis(drawing, scale, 2, bottom, scale.ticks(int((330 - label_width) / 50)), _short_time)
    note = "time of a call" + (", logarithmic" if log else "")
    drawing.text((scale.start + scale.end) / 2, bottom + 29, note, "tick middle")
    whiskers = []
    for i, (title, each) in enumerate(timed):
        y = 2 + step * (i + 0.5)
        mine = each.role in ("ours", "variant")
        look = ("c0" if mine else "c7") + (" h" if is_doubtful(row, each) else "")
        faint = "" if each.role in ("ours", "peer") else " faint"
        strong = " strong" if each.role == "ours" else ""
        drawing.text(label_width - 8, y + 4, _cut(title, label_width - 10), f"end{strong}")
        end = scale(each.median)
        tip = f"{title}: {time_text(each.median)}, {range_text(each)}"
        if log:
            drawing.line(label_width, y, end, y, f"stem {look}{faint}")
            drawing.mark("circle", end, y, f"m {look}", tip, 4.5)
        else:
            drawing.rectangle(label_width, y - 6, end - label_width, 12, f"b {look}{faint}", tip)
        whiskers.append((y, scale(each.min), scale(each.max)))
        drawing.text(338, y + 4, time_text(each.median), strong.strip())
    drawing.whiskers(whiskers, "ink")
    return str(drawing)


def bar_caption(row: Row) -> str:
    """Return, as HTML, what the bars of a row say in short."""
    parts = [f"<code>{escape(what(row))}</code>"]
    if faster := speedup(row):
        parts.append(f"{escape(str(faster))} times as fast as {escape(row.best_peer or '')}")
    if fraction := of_roof(row, ours(row)):
        parts.append(f"{escape(str(fraction))} of the roof")
    if why := "; ".join(doubts(row)):
        parts.append(f'<span class="doubt">⚠ {escape(why)}</span>')
    return "<br>".join(parts[:1]) + "<span>" + "; ".join(parts[1:]) + "</span>"


def barred(run: Run) -> list[list[Row]]:
    """Return the rows that get bars, by layout: models, then one array from memory."""
    rows = [
        row
        for row in run.rows
        if is_usual(run, row)
        and row.dtype in ("float32", "bfloat16")
        and (row.workload or is_from_memory(row))
        and sum(each.role in ("peer", "reference") for each in row.implementations.values()) > 0
    ]
    groups = grouped(rows, lambda row: row.layout)
    return [g for g in groups if g[0].workload] + [g for g in groups if not g[0].workload]


def _short_time(seconds: float) -> str:
    number, _, unit = time_text(seconds).partition(" ")
    return f"{float(number):g} {unit}" if seconds else "0"


def _short_bytes(count: float) -> str:
    number, _, unit = bytes_text(round(count)).partition(" ")
    return f"{float(number):g} {unit}"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _cut(text: str, width: float) -> str:
    most = int(width / (_CHARACTER - 0.5))
    return text if len(text) <= most else text[: most - 1] + "…"


def _slug(name: str) -> str:
    """Return what can be part of an id, another for each name."""
    return "".join(
        c if c.isascii() and (c.isalnum() or c == "_") else f"-{ord(c):x}-" for c in name
    )
