"""Results of a run, read from JSON: of ``ridgeline bench``, or of ``ridgeline_bench`` in C++.

The second is google-benchmark's JSON. Each of its repetitions becomes one sample; its rows have one
implementation, ridgeline. What it doesn't say is empty or None.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import os
import re
import types
import typing
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

FORMAT = 2  # of the JSON of `ridgeline bench`
OURS = "ridgeline"
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Stats:
    """Seconds per call.

    ``low`` to ``high`` is the 95 % confidence interval of the median, None if there are too few
    samples for one; ``samples``, one for each round, are in order. A run is ``calls`` calls.
    """

    median: float
    min: float
    max: float
    low: float | None
    high: float | None
    runs: int
    calls: int
    samples: tuple[float, ...]


@dataclass(frozen=True)
class Implementation(Stats):
    """One way to do it; ``role`` is ours, target, peer, reference or floor."""

    role: str
    gb_per_s: float | None
    of_roof: float | None
    relative_error: float | None
    extra_bytes: int | None
    trusted: bool


@dataclass(frozen=True)
class Row:
    """One operation on one set of arrays, as each implementation does it."""

    name: str
    operation: str
    family: str
    dtype: str
    target: str
    layout: str
    threads: int
    arrays: int
    elements: int | None
    traffic_bytes: int | None
    workload: bool
    own: bool
    roof: Stats | None
    implementations: Mapping[str, Implementation]
    left_out: Mapping[str, str]
    best_peer: str | None
    speedup: float | None
    speedup_low: float | None
    speedup_high: float | None
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Roof:
    """The speed of memory with one pattern of access."""

    pattern: str
    pages: str
    threads: int
    bytes: int
    gb_per_s: float
    gb_per_s_min: float
    gb_per_s_max: float
    runs: int


@dataclass(frozen=True)
class Run:
    """All that one run found; `dataclasses.asdict` gives what its JSON holds."""

    format: int
    date: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str | None]
    environment: Mapping[str, str]
    settings: Mapping[str, Any]
    left_out: Mapping[str, str]
    warnings: tuple[str, ...]
    roof: tuple[Roof, ...]
    rows: tuple[Row, ...]


def load(path: str | os.PathLike[str]) -> Run:
    """Read a run, from a file that may be compressed with gzip.

    Raises
    ------
    OSError
        If the file can't be read.
    ValueError
        If it holds no run, or one with nothing in it.
    """
    try:
        data = Path(path).read_bytes()
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
        return from_json(data.decode())
    except (UnicodeDecodeError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: got bytes that are no text, wants JSON") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def from_json(text: str) -> Run:
    """Make a run of the text of its file."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"got something that is not JSON ({error})") from error
    if isinstance(data, dict) and "benchmarks" in data and "context" in data:
        run = _from_google_benchmark(data)
    elif isinstance(data, dict) and "format" in data:
        if data["format"] != FORMAT:
            raise ValueError(f"format: got {data['format']!r}, wants {FORMAT}: measure again")
        run = _build(Run, data, "")
    else:
        raise ValueError("got other JSON, wants that of `ridgeline bench` or google-benchmark")
    _check(run)
    return run


def median_interval(samples: Iterable[float]) -> tuple[float, float] | tuple[None, None]:
    """Return two samples that hold the median between them in 95 % of all cases.

    They are order statistics: whatever the distribution, the median is left of the k-th smallest
    of n with the probability that a fair coin gives fewer than k heads in n throws. Below 6 samples
    there is no such pair.

    Examples
    --------
    >>> median_interval([3, 1, 2, 6, 5, 4])
    (1, 6)
    >>> median_interval([1, 2, 3])
    (None, None)
    """
    ordered = sorted(samples)
    n, k, tail = len(ordered), 0, 0.0
    while (tail := tail + math.comb(n, k) / 2**n) <= 0.025:
        k += 1
    return (ordered[k - 1], ordered[n - k]) if k else (None, None)


def time_text(seconds: float) -> str:
    """Return a time with three digits.

    Examples
    --------
    >>> time_text(0.00233), time_text(0.9996e-3), time_text(42e-9)
    ('2.33 ms', '1.00 ms', '42.0 ns')
    """
    size, unit = _unit(seconds)
    return f"{digits_text(seconds / size)} {unit}"


def range_text(stats: Stats) -> str:
    """Return the least and the greatest time, such as ``2.30 - 2.41 ms``."""
    (_, unit), (_, last) = _unit(stats.min), _unit(stats.max)
    least = time_text(stats.min)
    return f"{least.split()[0] if unit == last else least} - {time_text(stats.max)}"


def interval_text(value: float, low: float | None, high: float | None) -> str:
    """Return a ratio with its interval.

    Examples
    --------
    >>> interval_text(1.314, 1.251, 1.36)
    '1.31 (1.25 - 1.36)'
    >>> interval_text(1.314, None, None)
    '1.31 (no interval)'
    """
    if low is None or high is None:
        return f"{value:.2f} (no interval)"
    return f"{value:.2f} ({low:.2f} - {high:.2f})"


def bytes_text(count: int) -> str:
    """Return a number of bytes with the unit that suits it.

    Examples
    --------
    >>> bytes_text(64 * 2**20), bytes_text(100)
    ('64.0 MiB', '100 B')
    """
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(count) >= 1024**power:
            return f"{digits_text(count / 1024**power)} {unit}"
    return f"{count} B"


def _unit(seconds: float) -> tuple[float, str]:
    rounded = abs(float(f"{seconds:.3g}"))
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if rounded >= size:
            return size, unit
    return 1e-9, "ns"


def digits_text(value: float) -> str:
    """Return a number with three digits.

    Examples
    --------
    >>> digits_text(2.3456), digits_text(99.96), digits_text(1234.5)
    ('2.35', '100', '1234')
    """
    rounded = abs(float(f"{value:.3g}"))
    return f"{value:.{2 if rounded < 10 else 1 if rounded < 100 else 0}f}"


def _build(kind: Any, value: Any, where: str) -> Any:
    """Return ``value``, of JSON, as ``kind``: a data class, or what its fields may be."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _build(next(each for each in arguments if each is not type(None)), value, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        data = _wants(isinstance(value, dict), value, "an object", where)
        hints = typing.get_type_hints(kind)
        inner = f"{where}." if where else ""
        for name in hints:
            if name not in data:
                raise ValueError(f"{inner}{name}: is missing")
        return kind(**{name: _build(hints[name], data[name], inner + name) for name in hints})
    if origin is tuple:
        items = _wants(isinstance(value, list), value, "a list", where)
        return tuple(_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    if origin is Mapping:
        items = _wants(isinstance(value, dict), value, "an object", where)
        return {key: _build(arguments[1], item, f"{where}[{key!r}]") for key, item in items.items()}
    if kind is float:
        number = type(value) in (int, float) and math.isfinite(value)
        return float(_wants(number, value, "a finite number", where))
    words = {int: "a whole number", str: "a text", bool: "true or false"}
    return _wants(type(value) is kind, value, words[kind], where)


def _wants(fine: bool, value: Any, wanted: str, where: str) -> Any:
    if not fine:
        raise ValueError(f"{where}: got {_short(value)}, wants {wanted}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _check(run: Run) -> None:
    if not run.rows:
        raise ValueError("rows: got none, wants at least one")
    names: set[str] = set()
    for row in run.rows:
        if row.name in names:
            raise ValueError(f"rows: got {row.name!r} twice, wants each once")
        names.add(row.name)
        every: dict[str, Stats] = dict(row.implementations)
        for name, stats in (every | {"roof": row.roof} if row.roof else every).items():
            if not stats.samples or min(stats.samples) <= 0:
                got = "none" if not stats.samples else repr(min(stats.samples))
                raise ValueError(f"{row.name}: {name}: samples: got {got}, wants times above 0")


_SUFFIX = re.compile(
    r"(/(real_time|process_time|manual_time|(iterations|repeats|min_time|min_warmup_time|threads)"
    r":[^/]*))+$"
)
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
ITEMSIZES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_FAMILIES = {  # by the first word of an operation
    **dict.fromkeys(("value", "add", "prox"), "penalties"),
    **dict.fromkeys(("global", "clip", "zero"), "clipping"),
    **dict.fromkeys(("dropout", "alpha", "gaussian", "spatial"), "dropout"),
    **dict.fromkeys(("prune", "apply"), "pruning"),
    **dict.fromkeys(("uniform", "normal"), "random"),
}


@dataclass(frozen=True)
class _Cache:
    type: str
    level: int
    size: int


def _from_google_benchmark(data: dict[str, Any]) -> Run:
    context = _build(Mapping[str, Any], data["context"], "context")
    groups: dict[str, list[dict[str, Any]]] = {}
    left_out = {}
    for i, entry in enumerate(_build(tuple[Any, ...], data["benchmarks"], "benchmarks")):
        where = f"benchmarks[{i}]"
        entry = _build(Mapping[str, Any], entry, where)
        full_name = entry.get("run_name", entry.get("name"))
        name = _SUFFIX.sub("", _build(str, full_name, f"{where}.name"))
        if entry.get("error_occurred"):
            left_out[name] = str(entry.get("error_message"))
        else:
            groups.setdefault(name, []).append(entry)
    roof, rows = [], []
    for name, entries in groups.items():
        if name.startswith("roof/"):
            roof.append(_google_roof(name, entries))
        else:
            rows.append(_google_row(name, entries))
    return Run(
        format=FORMAT,
        date=str(context.get("date", "")),
        machine=_google_machine(context),
        versions={},
        environment={},
        settings={
            "suite": "ridgeline_bench",
            "threads": sorted({row.threads for row in rows}),
            "targets": list(dict.fromkeys(row.target for row in rows)),
        },
        left_out=left_out,
        warnings=_google_warnings(context),
        roof=tuple(roof),
        rows=tuple(rows),
    )


def _google_machine(context: Mapping[str, Any]) -> dict[str, Any]:
    known = _build(tuple[_Cache, ...], context.get("caches", []), "context.caches")
    kinds = {"Data": "d", "Instruction": "i"}
    return {
        "cpu": context.get("cpu", "unknown"),
        "cores": context.get("num_cpus"),
        "caches": {
            f"L{cache.level}{kinds.get(cache.type, '')}": f"{cache.size // 1024}K"
            for cache in known
        },
        "huge_pages": context.get("huge pages"),
        "load": _google_load(context),
    }


def _google_load(context: Mapping[str, Any]) -> float | None:
    load: tuple[float, ...] = _build(
        tuple[float, ...], context.get("load_avg", []), "context.load_avg"
    )
    return load[0] if load else None


def _google_warnings(context: Mapping[str, Any]) -> tuple[str, ...]:
    warnings = []
    load = _google_load(context) or 0.0
    if load > 0.5 * _build(int, context.get("num_cpus", 1), "context.num_cpus"):
        warnings.append(f"load {load:.1f} at the start: other programs disturb these figures")
    if context.get("cpu_scaling_enabled"):
        warnings.append("the CPU's frequency scaling is on")
    return tuple(warnings)


def _google_roof(name: str, entries: list[dict[str, Any]]) -> Roof:
    _, pattern, size, threads = _parts(name, "roof/pattern/size/threads")
    speeds = [_counter(entry, "GB/s", name) for entry in _repetitions(entries)]
    return Roof(
        pattern=pattern,
        pages="huge",
        threads=_threads(threads, name),
        bytes=_bytes_of(size) or 0,
        gb_per_s=median(speeds),
        gb_per_s_min=min(speeds),
        gb_per_s_max=max(speeds),
        runs=len(speeds),
    )


def _google_row(name: str, entries: list[dict[str, Any]]) -> Row:
    operation, dtype, target, layout, threads = _parts(
        name, "operation/dtype/target/layout/threads"
    )
    repetitions = _repetitions(entries)
    seconds = [_counter(entry, "median_us", name) * 1e-6 for entry in repetitions]
    shares = [_counter(entry, "of_roof", name) for entry in repetitions]
    stats = stats_of(seconds)
    roof = stats_of([a * b for a, b in zip(seconds, shares, strict=True)])
    traffic = round(_counter(repetitions[0], "GB/s", name) * 1e9 * seconds[0])
    per_array = _counter(repetitions[0], "ns/array", name) if "ns/array" in repetitions[0] else None
    size = _bytes_of(layout)
    ours = Implementation(
        **vars(stats),
        role="ours",
        gb_per_s=traffic / stats.median * 1e-9,
        of_roof=roof.median / stats.median,
        relative_error=None,
        extra_bytes=None,
        trusted=not (doubts := _google_doubts(repetitions)),
    )
    return Row(
        name=name,
        operation=operation,
        family=_FAMILIES.get(operation.partition("_")[0], "optimizers"),
        dtype=dtype,
        target=target,
        layout=layout,
        threads=_threads(threads, name),
        arrays=1 if per_array is None else round(seconds[0] * 1e9 / per_array),
        elements=size // ITEMSIZES.get(dtype, 4) if size else None,
        traffic_bytes=traffic,
        workload=size is None,
        own=False,
        roof=roof,
        implementations={OURS: ours},
        left_out={},
        best_peer=None,
        speedup=None,
        speedup_low=None,
        speedup_high=None,
        doubts=doubts,
    )


def _google_doubts(repetitions: list[dict[str, Any]]) -> tuple[str, ...]:
    if repetitions[0].get("run_type") == "aggregate":
        return ("aggregates only: no spread; leave out --benchmark_report_aggregates_only",)
    if len(repetitions) < 3:
        few = "one repetition: no spread" if len(repetitions) == 1 else "two repetitions"
        return (f"{few}; use --benchmark_repetitions=7",)
    return ()


def _repetitions(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries that are repetitions or, if there are none, the median of them."""
    found = [entry for entry in entries if entry.get("run_type", "iteration") == "iteration"]
    return (
        found
        or [entry for entry in entries if entry.get("aggregate_name") == "median"]
        or entries[:1]
    )


def stats_of(samples: Sequence[float], calls: int = 1) -> Stats:
    """Summarize samples, each the mean seconds per call of a run of calls."""
    low, high = median_interval(samples)
    return Stats(
        median=median(samples),
        min=min(samples),
        max=max(samples),
        low=low,
        high=high,
        runs=len(samples),
        calls=calls,
        samples=tuple(samples),
    )


def _counter(entry: Mapping[str, Any], name: str, row: str) -> float:
    value: float = _build(float, entry.get(name), f"{row}: {name}")
    if value <= 0:
        raise ValueError(f"{row}: {name}: got {value}, wants a number above 0")
    return value


def _parts(name: str, wanted: str) -> list[str]:
    parts = name.split("/")
    if len(parts) != wanted.count("/") + 1:
        raise ValueError(f"benchmarks: got the name {name!r}, wants {wanted}")
    return parts


def _threads(text: str, name: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"benchmarks: got {text!r} threads in {name!r}, wants a number")
    return int(text)


def _bytes_of(layout: str) -> int | None:
    match = re.fullmatch(r"(\d+)(KiB|MiB|GiB)", layout)
    if match is None:
        return None
    return int(match[1]) << (10 + 10 * ("KiB", "MiB", "GiB").index(match[2]))
