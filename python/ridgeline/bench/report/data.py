"""What the report derives from a run: ratios with intervals, which rows a chart takes, counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from .results import ITEMSIZES, Implementation, Roof, Row, Run, Stats, bytes_text, interval_text

MEMORY_BYTES = 2**25  # arrays that together take so much are read from memory


@dataclass(frozen=True)
class Ratio:
    """A value with the interval it is in, None where there are too few samples."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return interval_text(self.value, self.low, self.high)


def ratio(above: Stats, below: Stats) -> Ratio:
    """Divide medians; the interval has room for both ends of both."""
    value = above.median / below.median
    if above.low is None or above.high is None or below.low is None or below.high is None:
        return Ratio(value)
    return Ratio(value, above.low / below.high, above.high / below.low)


def our_name(row: Row) -> str:
    """Return the name of what the row is about: ridgeline, or a user's own kernel."""
    for name, each in row.implementations.items():
        if each.role == "ours":
            return name
    raise ValueError(f"{row.name}: implementations: got none with the role 'ours', wants one")


def ours(row: Row) -> Implementation:
    """Return the figures of what the row is about."""
    return row.implementations[our_name(row)]


def of_roof(row: Row, implementation: Implementation) -> Ratio | None:
    """Return the fraction of the row's roof."""
    return None if row.roof is None else ratio(row.roof, implementation)


def speed(row: Row, stats: Stats) -> Ratio | None:
    """Return GB/s."""
    if row.traffic_bytes is None:
        return None
    giga = row.traffic_bytes * 1e-9
    if stats.low is None or stats.high is None:
        return Ratio(giga / stats.median)
    return Ratio(giga / stats.median, giga / stats.high, giga / stats.low)


def speedup(row: Row) -> Ratio | None:
    """Return the time of the best peer over ours."""
    if row.speedup is None:
        return None
    return Ratio(row.speedup, row.speedup_low, row.speedup_high)


def verdict(row: Row) -> str:
    """Return faster, as fast or slower than the best peer; empty without one."""
    if row.speedup is None:
        return ""
    if row.speedup_low is not None and row.speedup_low > 1:
        return "faster"
    return "slower" if row.speedup_high is not None and row.speedup_high < 1 else "as fast"


def is_doubtful(row: Row, implementation: Implementation | None = None) -> bool:
    """Whether a row, or what one implementation did in it, can't be trusted."""
    return bool(doubts(row)) or not (implementation or ours(row)).trusted


def doubts(row: Row) -> list[str]:
    """Return why a row can't be trusted."""
    return list(row.doubts) or ([] if ours(row).trusted else ["not trusted"])


def array_bytes(row: Row) -> int | None:
    """Return the bytes of one set of its arrays."""
    itemsize = ITEMSIZES.get(row.dtype)
    return None if itemsize is None or row.elements is None else row.elements * itemsize


def is_from_memory(row: Row) -> bool:
    """Whether the arrays are too large for the usual cache."""
    size = array_bytes(row) or row.traffic_bytes or 0
    return row.traffic_bytes is not None and size >= MEMORY_BYTES


def is_usual(run: Run, row: Row) -> bool:
    """Whether it has the first target of the run and the most threads."""
    targets = [each.target for each in run.rows]
    return row.target == targets[0] and row.threads == most_threads(run.rows)


def most_threads(rows: Iterable[Row]) -> int:
    """Return the largest number of threads."""
    return max(row.threads for row in rows)


def threads_text(count: int) -> str:
    """Return ``1 thread`` or ``2 threads``."""
    return f"{count} thread{'s' * (count > 1)}"


def roof_speed_text(roof: Roof) -> str:
    """Return GB/s with the range."""
    return f"{roof.gb_per_s:.1f} ({roof.gb_per_s_min:.1f} - {roof.gb_per_s_max:.1f})"


def short_dtype(dtype: str) -> str:
    """Return bf16 for bfloat16."""
    return {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}.get(
        dtype, dtype
    )


def what(row: Row) -> str:
    """Return the operation, with its dtype if it is another than float32."""
    return row.operation if row.dtype == "float32" else f"{row.operation} {short_dtype(row.dtype)}"


def layout_text(layout: str) -> str:
    """Return the name of a set of arrays for people."""
    names = {
        "256": "256 elements",
        "16KiB": "16 KiB",
        "512KiB": "512 KiB",
        "64MiB": "64 MiB",
        "resnet50": "ResNet-50",
        "gpt2": "GPT-2 small",
        "1000x256": "1,000 arrays of 256",
        "embedding": "embedding, 1 M x 64",
        "resnet50-activations": "ResNet-50 activations",
        "gpt2-activations": "GPT-2 activations",
    }
    return names.get(layout, layout)


def selected(rows: Sequence[Row], filters: Sequence[str] | None) -> list[Row]:
    """Return the rows whose names hold all words of one of the filters."""
    if filters is None:
        return list(rows)
    return [row for row in rows if any(all(w in row.name for w in f.split()) for f in filters)]


def grouped(rows: Iterable[Row], key: Callable[[Row], object]) -> list[list[Row]]:
    """Return the rows in groups of the same key, in the order of first rows."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.values())


@dataclass(frozen=True)
class Summary:
    """The counts at the top of the page."""

    rows: int
    fractions: tuple[Ratio, ...]  # of the roof, of rows from memory, in order
    faster: tuple[Row, ...]
    as_fast: tuple[Row, ...]
    slower: tuple[Row, ...]
    doubtful: tuple[Row, ...]

    @property
    def fraction_text(self) -> str:
        """The median fraction of the roof, with the range of the middle half."""
        f = [each.value for each in self.fractions]
        if len(f) == 1:
            return str(self.fractions[0])
        if len(f) < 4:
            return f"{median(f):.2f} ({f[0]:.2f} - {f[-1]:.2f})"
        low, _, high = quantiles(f, n=4)
        return f"{median(f):.2f} (middle half {low:.2f} - {high:.2f})"


def summary(run: Run) -> Summary:
    """Count."""
    fractions = (of_roof(row, ours(row)) for row in run.rows if is_from_memory(row))

    def judged(word: str) -> tuple[Row, ...]:
        return tuple(row for row in run.rows if verdict(row) == word)

    return Summary(
        len(run.rows),
        tuple(sorted(filter(None, fractions), key=lambda each: each.value)),
        judged("faster"),
        judged("as fast"),
        judged("slower"),
        tuple(row for row in run.rows if is_doubtful(row)),
    )


def machine_line(run: Run) -> str:
    """Return the processor, the date and the versions that are installed."""
    machine = run.machine
    parts = [str(machine.get("cpu") or "unknown processor")]
    if machine.get("cores"):
        parts.append(f"{machine['cores']} cores")
    if run.date:
        parts.append(run.date[:10])
    parts += [f"{k} {v}" for k, v in run.versions.items() if v and k != "compiler"]
    return ", ".join(parts)


def extra_text(row: Row, implementation: Implementation) -> str:
    """Return peak extra memory, and how much that is of the arrays; empty if not measured."""
    extra, size = implementation.extra_bytes, array_bytes(row)
    if extra is None:
        return ""
    share = 100 * extra / size if size else 0.0
    return bytes_text(extra) + (f" ({share:,.{0 if share >= 10 else 1}f} %)" * (share >= 0.05))
