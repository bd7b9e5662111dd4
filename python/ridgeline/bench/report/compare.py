"""``ridgeline bench compare``: which rows became slower, and which only appear to.

A row that both files have is a regression if its samples differ by a two-sided Mann-Whitney U test
(exact up to 30 samples without ties; p after Holm's correction for the number of rows is at most
--alpha) and the ratio of the medians, NEW over OLD, is above 1 + --threshold. It is an improvement
if the ratio is below 1/(1 + --threshold). The test says that samples differ, not why: one run can
differ from the next as a whole, which is what the threshold is for.

The speed of memory wanders by itself. Where both rows have a roof, time over roof is judged in the
same way: each sample over the roof of its round, or over the median of the row's roof where rounds
can't be matched. If time and time over roof don't agree, the verdict is "machine": time rose or
fell with the roof, or stayed while the roof moved. Such rows are shown apart and don't fail.

A row is "unclear", with the reason, if either run does not trust it, if it is not the same work
in both, or if it has too few samples for p to reach alpha: for one row, or for this many
rows while the interval of the ratio reaches beyond the threshold. The rest is unchanged: no change
was found that is both significant and above the threshold.

Below each ratio stands its 95 % bootstrap interval (2000 resamples of each run, seeded), below each
median the least and the greatest sample. "of roof" is the roof's median over the row's.

Exit status: 0 without regressions, 1 with some, 2 if a file or an argument is wrong, if nothing is
in both files, or if not one row could be judged.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ..._files import replace_file
from . import results
from .results import OURS, Implementation, Row, Run, Stats, interval_text, range_text, time_text

DESCRIPTION = "Compare two runs of ridgeline bench, or of the C++ suite."
THRESHOLD, ALPHA = 0.05, 0.01
VERDICTS = ("regression", "machine", "improvement", "unclear", "unchanged")

_EXACT = 30  # samples in each run, at most, for the exact distribution of U
_RESAMPLES = 2000
_WIDE = 120  # characters that a table needs
_COMPARED: dict[str, tuple[str, ...]] = {  # of a run; empty: all it has
    "machine": (
        "cpu",
        "architecture",
        "cores",
        "caches",
        "flags",
        "governor",
        "boost",
        "virtual",
        "system",
        "huge_pages",
    ),
    "versions": (),
    "environment": (),
    "settings": ("threads", "targets", "quick", "budget", "precision"),
}


@dataclass(frozen=True)
class Change:
    """A ratio of medians, NEW over OLD, its 95 % interval, and the p value that Holm corrected."""

    ratio: float
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True)
class Judged:
    """One row of both runs. ``over_roof`` is how time over roof changed; None without roofs."""

    name: str
    verdict: str
    reason: str
    old: Stats
    new: Stats
    time: Change
    over_roof: Change | None
    old_of_roof: float | None
    new_of_roof: float | None


@dataclass(frozen=True)
class Comparison:
    """What `compare_runs` found: rows in order of NEW, and what makes them hard to compare."""

    implementation: str
    threshold: float
    alpha: float
    warnings: tuple[str, ...]
    rows: tuple[Judged, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]

    def of(self, verdict: str) -> list[Judged]:
        """Return the rows with a verdict: the greatest change first, the unchanged as they came."""
        rows = [row for row in self.rows if row.verdict == verdict]
        if verdict == "unchanged":
            return rows
        return sorted(rows, key=lambda row: row.time.ratio, reverse=verdict != "improvement")

    def counts(self) -> dict[str, int]:
        """Return how many rows have each verdict."""
        return {verdict: len(self.of(verdict)) for verdict in VERDICTS}

    def status(self) -> int:
        """Return the exit status."""
        if self.of("regression"):
            return 1
        return 2 if len(self.of("unclear")) == len(self.rows) else 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (__doc__ or "").partition("\n\n")[2]
    parser.add_argument("old", type=Path, metavar="OLD", help="JSON of a run")
    parser.add_argument("new", type=Path, metavar="NEW", help="JSON of another")
    parser.add_argument(
        "--threshold",
        type=_threshold,
        metavar="SHARE",
        default=THRESHOLD,
        help="changes up to this are none (default: %(default)s)",
    )
    parser.add_argument(
        "--alpha",
        type=_alpha,
        metavar="P",
        default=ALPHA,
        help="the highest p that counts as a change (default: %(default)s)",
    )
    parser.add_argument(
        "--implementation",
        metavar="NAME",
        default=OURS,
        help="whose times (default: %(default)s)",
    )
    parser.add_argument("--all", action="store_true", help="show the unchanged rows too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts")


def run(args: argparse.Namespace) -> int:
    """Compare, print, and return the exit status."""
    try:
        import scipy  # noqa: F401
        from rich.console import Console
    except ImportError as error:
        return _refuse(f"needs {error.name}: pip install 'ridgeline[bench]'")
    if args.json and not args.json.parent.is_dir():
        return _refuse(f"--json {args.json}: no directory {args.json.parent}")
    if args.json and args.json.resolve() in (args.old.resolve(), args.new.resolve()):
        return _refuse(f"--json {args.json}: is one of the runs")
    try:
        comparison = compare_runs(
            results.load(args.old),
            results.load(args.new),
            implementation=args.implementation,
            threshold=args.threshold,
            alpha=args.alpha,
        )
        if args.json:
            text = json.dumps(to_json(comparison), indent=2) + "\n"
            replace_file(args.json, lambda part: part.write_text(text))
    except (OSError, ValueError) as error:
        return _refuse(str(error))
    console = Console(width=None if sys.stdout.isatty() else 140)
    print_comparison(comparison, console, unchanged=args.all)
    if comparison.status() == 2:
        return _refuse("not one row could be judged: see the reasons above")
    return comparison.status()


def compare_runs(
    old: Run,
    new: Run,
    *,
    implementation: str = OURS,
    threshold: float = THRESHOLD,
    alpha: float = ALPHA,
) -> Comparison:
    """Judge each row that both runs have.

    Raises
    ------
    ValueError
        If no row with that implementation is in both.
    """
    before, after = _rows_with(implementation, old), _rows_with(implementation, new)
    pairs = [
        _Pair(before[name], row, implementation) for name, row in after.items() if name in before
    ]
    if not pairs:
        raise ValueError(_nothing_in_common(old, new, implementation))
    obstacles = [pair.obstacle(alpha) for pair in pairs]
    tested = [pair for pair, obstacle in zip(pairs, obstacles, strict=True) if not obstacle]
    times = iter(holm([mann_whitney(*pair.times()) for pair in tested]))
    shares = iter(holm([mann_whitney(*pair.over_roof()) for pair in tested if pair.has_roof]))
    rows = []
    for pair, obstacle in zip(pairs, obstacles, strict=True):
        time = _change(*pair.times(), None if obstacle else next(times))
        share = None
        if pair.has_roof:
            share = _change(*pair.over_roof(), None if obstacle else next(shares))
        verdict, reason = "unclear", obstacle
        if not obstacle:
            few = pair.too_few_samples(alpha, len(tested))
            verdict, reason = _verdict(time, share, few, threshold, alpha)
        rows.append(
            Judged(
                name=pair.new.name,
                verdict=verdict,
                reason=reason,
                old=before[pair.new.name].implementations[implementation],
                new=pair.new.implementations[implementation],
                time=time,
                over_roof=share,
                old_of_roof=_of_roof(pair.old, implementation),
                new_of_roof=_of_roof(pair.new, implementation),
            )
        )
    return Comparison(
        implementation=implementation,
        threshold=threshold,
        alpha=alpha,
        warnings=tuple(_differences(old, new)),
        rows=tuple(rows),
        only_old=tuple(name for name in before if name not in after),
        only_new=tuple(name for name in after if name not in before),
    )


def mann_whitney(old: Sequence[float], new: Sequence[float]) -> float:
    """Return the two-sided p value of the Mann-Whitney U test."""
    from scipy.stats import mannwhitneyu

    both = [*old, *new]
    exact = len(set(both)) == len(both) and max(len(old), len(new)) <= _EXACT
    p = float(mannwhitneyu(old, new, method="exact" if exact else "asymptotic").pvalue)
    # With few samples that tie, the normal distribution promises more than can be known.
    return max(p, 2 / math.comb(len(both), len(old)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values of a family of tests, corrected.

    The k-th smallest of n is multiplied by n - k + 1 and is no less than those before it [1]_.

    References
    ----------
    .. [1] S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal
       of Statistics 6 (1979).

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for k, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = corrected[i] = max(least, min(1.0, p_values[i] * (len(p_values) - k)))
    return corrected


def ratio_interval(
    old: Sequence[float], new: Sequence[float]
) -> tuple[float, float] | tuple[None, None]:
    """Return the 95 % interval of the ratio of medians, NEW over OLD, by the percentile bootstrap.

    One sample has no spread, so there is none then.
    """
    if min(len(old), len(new)) < 2:
        return None, None
    rng = np.random.default_rng(0)
    old_medians, new_medians = (
        np.median(rng.choice(np.asarray(samples), (_RESAMPLES, len(samples))), axis=1)
        for samples in (old, new)
    )
    low, high = np.quantile(new_medians / old_medians, (0.025, 0.975))
    return float(low), float(high)


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return the verdicts, with the spread of the samples in place of the samples."""
    data = asdict(comparison)
    for row in data["rows"]:
        for side in ("old", "new"):
            row[side] = {key: row[side][key] for key in ("median", "min", "max", "runs")}
    return {**data, "counts": comparison.counts(), "status": comparison.status()}


def print_comparison(comparison: Comparison, console: Any, *, unchanged: bool = False) -> None:
    """Print warnings, a table for each verdict, rows that only one run has, and the counts."""
    from rich.text import Text

    for warning in comparison.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
    for verdict in VERDICTS:
        rows = comparison.of(verdict)
        if rows and (unchanged or verdict != "unchanged"):
            title = _count(len(rows), verdict)
            if console.width < _WIDE:
                console.print(Text(f"{title}\n", style="bold"))
                console.print(Text("\n".join(_paragraph(row) for row in rows)))
            else:
                console.print(_table(title, rows))
    for side, names in (("OLD", comparison.only_old), ("NEW", comparison.only_new)):
        if names:
            console.print(Text(f"only in {side} ({len(names)}):"))
            for name in names:
                console.print(Text(f"  {name}"))
    counts = ", ".join(_count(n, verdict) for verdict, n in comparison.counts().items())
    console.print(
        Text(
            f"{counts} of {len(comparison.rows)} rows ({comparison.implementation}, threshold"
            f" {comparison.threshold:.3g}, alpha {comparison.alpha:.3g})"
        )
    )


@dataclass(frozen=True)
class _Pair:
    """The same row of both runs."""

    old: Row
    new: Row
    implementation: str

    @property
    def has_roof(self) -> bool:
        """Whether both have a roof, for the same traffic."""
        same = self.old.traffic_bytes == self.new.traffic_bytes
        return same and self.old.roof is not None and self.new.roof is not None

    def times(self) -> tuple[Sequence[float], Sequence[float]]:
        """Return the samples of both."""
        old, new = self._sides()
        return old.samples, new.samples

    def over_roof(self) -> tuple[Sequence[float], Sequence[float]]:
        """Return the samples of both over their roofs."""
        roofs = [row.roof for row in (self.old, self.new) if row.roof is not None]
        pairs = list(zip(self.times(), roofs, strict=True))
        in_rounds = all(len(samples) == len(roof.samples) for samples, roof in pairs)
        old, new = (
            [t / r for t, r in zip(samples, roof.samples, strict=True)]
            if in_rounds
            else [t / median(roof.samples) for t in samples]
            for samples, roof in pairs
        )
        return old, new

    def obstacle(self, alpha: float) -> str:
        """Return why the row can't be judged, whatever its times; empty if it can."""
        found = []
        for side, row, ours in zip(
            ("OLD", "NEW"), (self.old, self.new), self._sides(), strict=True
        ):
            if not ours.trusted:
                doubts = row.doubts or (f"{self.implementation} is not trusted",)
                found += [f"{side}: {doubt}" for doubt in doubts]
        for name in ("arrays", "elements"):
            old, new = getattr(self.old, name), getattr(self.new, name)
            if None not in (old, new) and old != new:
                found.append(f"not the same work: {name} {old:,} in OLD, {new:,} in NEW")
        return "; ".join(found) or self.too_few_samples(alpha, 1)

    def too_few_samples(self, alpha: float, family: int) -> str:
        """Return a remark if p can't reach alpha among this number of rows, else ""."""
        old, new = self.times()
        tied = len({*old, *new}) < len(old) + len(new)
        least = _least_p(len(old), len(new), tied)
        if least * family <= alpha:
            return ""
        enough = (n for n in itertools.count(2) if _least_p(n, n, tied) * family <= alpha)
        rows = "1 row" if family == 1 else f"{family} rows"
        return (
            f"too few samples: with {len(old)} and {len(new)}, p is at least"
            f" {min(1.0, least * family):.2g} among {rows}; wants {next(enough)} of each"
        )

    def _sides(self) -> tuple[Implementation, Implementation]:
        name = self.implementation
        return self.old.implementations[name], self.new.implementations[name]


@functools.cache
def _least_p(old: int, new: int, tied: bool) -> float:
    """Return the p value of samples that don't overlap."""
    samples = [float(i) for i in range(old + new)]
    if tied and old > 1:
        samples[1] = samples[0]
    return mann_whitney(samples[:old], samples[old:])


def _change(old: Sequence[float], new: Sequence[float], p: float | None) -> Change:
    low, high = ratio_interval(old, new)
    return Change(median(new) / median(old), low, high, p)


def _verdict(
    time: Change, share: Change | None, few: str, threshold: float, alpha: float
) -> tuple[str, str]:
    """Return the verdict on a row and, where it needs one, the reason."""
    moved = _direction(time, threshold, alpha)
    moved_over_roof = moved if share is None else _direction(share, threshold, alpha)
    if moved != moved_over_roof:
        if moved == 0:
            return "machine", "unchanged, though the roof moved"
        word = "slower" if moved > 0 else "faster"
        return "machine", f"{word}, but not over its roof"
    if moved:
        return "regression" if moved > 0 else "improvement", ""
    if few and time.p is not None and time.p > alpha and not _is_within(time, threshold):
        return "unclear", few
    return "unchanged", ""


def _is_within(change: Change, threshold: float) -> bool:
    """Whether the whole interval is too small a change to matter."""
    if change.low is None or change.high is None:
        return False
    return 1 / (1 + threshold) <= change.low and change.high <= 1 + threshold


def _direction(change: Change, threshold: float, alpha: float) -> int:
    """Return 1 for slower, -1 for faster, 0 for neither."""
    if change.p is None or change.p > alpha:
        return 0
    return (change.ratio > 1 + threshold) - (change.ratio < 1 / (1 + threshold))


def _rows_with(implementation: str, run: Run) -> dict[str, Row]:
    return {row.name: row for row in run.rows if implementation in row.implementations}


def _nothing_in_common(old: Run, new: Run, implementation: str) -> str:
    first = [next(iter(_rows_with(implementation, run)), None) for run in (old, new)]
    if None in first:
        rows = (*old.rows, *new.rows)
        known = dict.fromkeys(name for row in rows for name in row.implementations)
        side = " or ".join(s for s, name in zip(("OLD", "NEW"), first, strict=True) if not name)
        return (
            f"--implementation: got {implementation!r}, which is not in {side};"
            f" wants one that both have, of {', '.join(known)}"
        )
    return f"no row is in both files: OLD has {first[0]} and others, NEW {first[1]} and others"


def _of_roof(row: Row, implementation: str) -> float | None:
    if row.roof is None:
        return None
    return median(row.roof.samples) / median(row.implementations[implementation].samples)


def _differences(old: Run, new: Run) -> Iterator[str]:
    """Tell what else changed, and what each run says of itself."""
    for part, names in _COMPARED.items():
        before, after = getattr(old, part), getattr(new, part)
        for name in names or {**before, **after}:
            # What one file doesn't say is unknown; a variable that it doesn't have is not set.
            known = part == "environment" or (name in before and name in after)
            a, b = before.get(name), after.get(name)
            if known and a != b and name != OURS:
                yield f"{name}: {_only(a, b)} in OLD, {_only(b, a)} in NEW"
    if old.settings.get("suite") != new.settings.get("suite"):
        yield "one run is of ridgeline bench, the other of the C++ suite: other calls"
    for side, run in (("OLD", old), ("NEW", new)):
        for warning in run.warnings:
            yield f"{side}: {warning}"


def _only(value: Any, other: Any) -> str:
    """Return a value as text; of a list, what the other lacks."""
    if isinstance(value, list):
        known = other if isinstance(other, list) else []
        return ", ".join(str(each) for each in value if each not in known) or "no more"
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return "none" if value is None else str(value)


def _table(title: str, rows: list[Judged]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("row", overflow="fold")
    for heading in (
        "old\nmin - max",
        "new\nmin - max",
        "new / old\n(95 %)",
        "p",
        "of roof\ntime/roof, new / old",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        name = Text(row.name)
        if row.reason:
            name.append(f"\n  {row.reason}", style="dim")
        table.add_row(
            name,
            *(f"{time_text(each.median)}\n{range_text(each)}" for each in (row.old, row.new)),
            _ratio(row.time).replace(" ", "\n", 1),
            "" if row.time.p is None else f"{row.time.p:.2g}",
            "\n".join(_of_roof_text(row) or ()),
        )
    return table


def _paragraph(row: Judged) -> str:
    """Return what `_table` says of a row, for a narrow terminal."""
    figures = [f"new / old {_ratio(row.time)}"]
    if row.time.p is not None:
        figures.append(f"p {row.time.p:.2g}")
    if shares := _of_roof_text(row):
        figures.append("of roof {}, time/roof, new / old {}".format(*shares))
    lines = [row.name, *([row.reason] if row.reason else [])]
    for side, stats in (("old", row.old), ("new", row.new)):
        lines.append(f"{side} {time_text(stats.median)} ({range_text(stats)})")
    return "\n  ".join([*lines, *figures]) + "\n"


def _of_roof_text(row: Judged) -> tuple[str, str] | None:
    if row.old_of_roof is None or row.new_of_roof is None:
        return None
    change = "(other traffic)" if row.over_roof is None else _ratio(row.over_roof)
    return f"{row.old_of_roof:.2f} -> {row.new_of_roof:.2f}", change


def _ratio(change: Change) -> str:
    return interval_text(change.ratio, change.low, change.high)


def _count(count: int, verdict: str) -> str:
    plural = verdict + "s" if verdict in ("regression", "improvement") and count != 1 else verdict
    return f"{count} {plural}"


def _threshold(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text}, wants a share such as 0.05")
    return value


def _alpha(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"got {text}, wants a probability between 0 and 1")
    return value


def _refuse(reason: str) -> int:
    print(f"ridgeline bench compare: {reason}", file=sys.stderr)
    return 2
