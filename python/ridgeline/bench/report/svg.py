"""Scales, ticks and shapes: what charts in SVG are made of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

SHAPES = ("circle", "square", "triangle", "diamond", "plus", "cross")
_PATHS = {  # around the origin, for a radius of 1
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "triangle": ((0, -1.15), (1.1, 0.85), (-1.1, 0.85)),
    "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    "plus": tuple(
        (a * sign, b * sign)
        for sign in (1, -1)
        for a, b in ((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4))
    ),
}
_PATHS["cross"] = tuple(((a - b) * 0.75, (a + b) * 0.75) for a, b in _PATHS["plus"])


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` on positions from ``start`` to ``end``.

    Values beyond the ends are put at the ends.

    Examples
    --------
    >>> from ridgeline.bench.report.svg import Scale
    >>> Scale(1, 100, 0, 50, log=True)(10)
    25.0
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value."""
        value = min(max(value, self.low), self.high)
        if self.log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self, most: int = 8) -> list[float]:
        """Return at most `most` round values that are well apart."""
        if not self.log:
            step = 10.0 ** math.floor(math.log10((self.high - self.low) / most))
            step *= next(f for f in (1, 2, 5, 10) if (self.high - self.low) / (step * f) <= most)
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            return [k * step for k in range(first, last + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        apart = 0.95 * abs(self.end - self.start) / most
        found: list[float] = []
        for factors in ((1, 2, 5), (1, 3), (1,)):
            found = [f * 10.0**k for k in decades for f in factors]
            found = [x for x in found if self.low * 0.999 <= x <= self.high * 1.001]
            places = [self(x) for x in found]
            if all(abs(b - a) >= apart for a, b in itertools.pairwise(places)):
                break
        return found[:: -(-len(found) // most) or 1]

    def byte_ticks(self, most: int = 8) -> list[int]:
        """Return powers of two."""
        powers = range(math.ceil(math.log2(self.low)), math.floor(math.log2(self.high)) + 1)
        step = next(s for s in (1, 2, 3, 4, 5, 6, 8, 10, 20, 60) if len(powers) / s <= most)
        return [2**k for k in powers if k % step == 0]


@dataclass
class Drawing:
    """An image with a title and a description for those who don't see it.

    ``slug`` is the start of its ids; classes are those of ``report.css``.
    """

    slug: str
    width: float
    height: float
    title: str
    description: str
    parts: list[str] = field(default_factory=list)

    def lines(self, ends: Iterable[tuple[float, float, float, float]], look: str) -> None:
        """Draw straight lines, each from (x1, y1) to (x2, y2)."""
        parts = []
        for x1, y1, x2, y2 in ends:
            to = f"V{_n(y2)}" if x1 == x2 else f"H{_n(x2)}" if y1 == y2 else f"L{_n(x2)} {_n(y2)}"
            parts.append(f"M{_n(x1)} {_n(y1)}{to}")
        if parts:
            self.parts.append(f'<path class="{look}" d="{"".join(parts)}"/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, look: str) -> None:
        """Draw a straight line."""
        self.lines([(x1, y1, x2, y2)], look)

    def path(self, points: Iterable[tuple[float, float]], look: str) -> None:
        """Draw a line through points."""
        path = "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        self.parts.append(f'<path class="{look}" d="M{path}"/>')

    def rectangle(
        self, x: float, y: float, width: float, height: float, look: str, tip: str = ""
    ) -> None:
        """Draw a bar or a band; ``tip`` is shown where the pointer rests."""
        place = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'
        self.parts.append(_shape("rect", place, look, tip))

    def text(self, x: float, y: float, text: str, look: str = "") -> None:
        """Write; ``look`` may hold ``end`` or ``middle``, which end or middle of it is at x."""
        kind = f' class="{look}"' if look else ""
        self.parts.append(f'<text{kind} x="{_n(x)}" y="{_n(y)}">{escape(text)}</text>')

    def mark(
        self, shape: str, x: float, y: float, look: str, tip: str = "", radius: float = 4
    ) -> None:
        """Draw a point."""
        if shape == "circle":
            self.parts.append(
                _shape("circle", f'cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"', look, tip)
            )
            return
        path = "L".join(f"{_n(x + radius * a)} {_n(y + radius * b)}" for a, b in _PATHS[shape])
        self.parts.append(_shape("path", f'd="M{path}Z"', look, tip))

    def whiskers(self, intervals: Iterable[tuple[float, float, float]], look: str) -> None:
        """Draw horizontal intervals (y, x1, x2), those that are wide enough to be seen."""
        parts: list[tuple[float, float, float, float]] = []
        for y, x1, x2 in intervals:
            if x2 - x1 >= 1:
                parts += [(x1, y, x2, y), (x1, y - 2.5, x1, y + 2.5), (x2, y - 2.5, x2, y + 2.5)]
        self.lines(parts, look)

    def __str__(self) -> str:
        ids = f"{self.slug}-title {self.slug}-desc"
        return (
            f'<svg role="img" aria-labelledby="{ids}" viewBox="0 0 {_n(self.width)} '
            f'{_n(self.height)}"><title id="{self.slug}-title">{escape(self.title)}</title>'
            f'<desc id="{self.slug}-desc">{escape(self.description)}</desc>'
            f"{''.join(self.parts)}</svg>"
        )


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart, as little as that takes, so that labels there don't overlap.

    Examples
    --------
    >>> from ridgeline.bench.report.svg import spread
    >>> spread([10, 12, 40], 10, 0, 50)
    [6.0, 16.0, 40.0]
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    groups: list[tuple[float, list[int]]] = []  # (middle, members)
    for i in order:
        middle, members = positions[i], [i]
        while True:
            half = gap * (len(members) - 1) / 2
            middle = max(low + half, min(high - half, middle))
            if not groups:
                break
            before, others = groups[-1]
            if before + gap * (len(others) - 1) / 2 + gap <= middle - half + 1e-9:
                break
            members = groups.pop()[1] + members
            middle = sum(positions[k] for k in members) / len(members)
        groups.append((middle, members))
    moved = [0.0] * len(positions)
    for middle, members in groups:
        for k, i in enumerate(members):
            moved[i] = middle + gap * (k - (len(members) - 1) / 2)
    return moved


def beside(
    points: Sequence[tuple[float, float]], distance: float, most: float
) -> list[tuple[float, float]]:
    """Move points sideways, by ``most`` at most, so that they don't cover each other.

    Where there is no room the point stays.
    """
    placed: list[tuple[float, float]] = []
    offsets = [0.0]
    for k in range(1, int(2 * most / distance) + 1):
        offsets += [k * distance / 2, -k * distance / 2]

    def is_free(x: float, y: float) -> bool:
        return all(math.hypot(x - a, y - b) >= distance - 1e-9 for a, b in placed)

    for x, y in points:
        placed.append((next((x + d for d in offsets if is_free(x + d, y)), x), y))
    return placed


def bottom_axis(
    drawing: Drawing,
    scale: Scale,
    top: float,
    bottom: float,
    ticks: Iterable[float],
    text: Callable[[float], str],
) -> None:
    """Draw a horizontal axis and its grid."""
    places = [(scale(tick), text(tick)) for tick in ticks]
    drawing.lines([(x, top, x, bottom) for x, _ in places], "grid")
    for x, label in places:
        drawing.text(x, bottom + 15, label, "tick middle")
    drawing.line(scale.start, bottom, scale.end, bottom, "axis")


def left_axis(
    drawing: Drawing,
    scale: Scale,
    left: float,
    right: float,
    ticks: Iterable[float],
    text: Callable[[float], str],
) -> None:
    """Draw a vertical axis and its grid."""
    places = [(scale(tick), text(tick)) for tick in ticks]
    drawing.lines([(left, y, right, y) for y, _ in places], "grid")
    for y, label in places:
        drawing.text(left - 6, y + 4, label, "tick end")
    drawing.line(left, scale.start, left, scale.end, "axis")


def _shape(kind: str, place: str, look: str, tip: str) -> str:
    if not tip:
        return f'<{kind} class="{look}" {place}/>'
    return f'<{kind} class="{look}" {place}><title>{escape(tip)}</title></{kind}>'


def _n(value: float) -> str:
    """A coordinate, to a tenth."""
    text = f"{value:.1f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
