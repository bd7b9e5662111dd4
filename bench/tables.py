"""Write the tables of README.md and docs/benchmarks.md from the stored result of a run.

    python bench/tables.py            # writes them
    python bench/tables.py --check    # exit status 1 if they are not those of the result

The result is what ``ridgeline bench --json`` wrote; a table stands between two comments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ridgeline.bench.report import compare, results
from ridgeline.bench.report import data as report_data
from ridgeline.bench.report.markdown import markdown_table, roof_table
from ridgeline.bench.report.results import Implementation, Row, Run

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "docs" / "benchmarks" / "result.json.gz"
README = {  # rows of README.md, by case
    "add_gradient_elastic_net/float32/64MiB": "elastic net, value and gradient, 64 MiB",
    "add_gradient_elastic_net/float32/resnet50": "the same over ResNet-50's list",
    "prox_l1/float32/64MiB": "L1 proximal step, 64 MiB",
    "global_norm_2/float32/64MiB": "2-norm, 64 MiB",
    "clip_by_global_norm_clips/float32/resnet50": "clip by global norm, ResNet-50's list",
    "clip_by_global_norm_clips/float32/1000x256": "the same, 1,000 arrays of 256",
    "dropout_50/float32/64MiB": "dropout, p = 0.5, 64 MiB",
    "dropout_50_forward_backward/float32/64MiB": "its forward and backward pass",
    "alpha_dropout_10/float32/64MiB": "alpha dropout, p = 0.1, 64 MiB",
    "normal/float32/64MiB": "normal numbers, 64 MiB",
    "adamw_clip_l1/float32/resnet50": "clip + AdamW + L1 proximal step, ResNet-50's list",
    "adamw_clip_l1/float32/gpt2": "the same, GPT-2 small",
    "adamw_clip_l1/float32/1000x256": "the same, 1,000 arrays of 256",
    "momentum_clip_l1/float32/resnet50": "clip + SGD with momentum + L1, ResNet-50's list",
    "prune_50/float32/64MiB": "prune half of 16.8 M by magnitude, exactly",
    "prune_global_90/float32/resnet50": "prune 90 % of ResNet-50, globally",
    "prune_2_of_4/float32/64MiB": "2:4 mask, 64 MiB",
    "apply_mask_first/float32/64MiB": "apply a mask, 64 MiB",
    "global_norm_2/float32/256": "one call on 256 elements: 2-norm",
    "dropout_50/float32/256": "one call on 256 elements: dropout",
}


@dataclass(frozen=True)
class Goal:
    """What a case should reach: a part of the roof, so many times the best library, seconds."""

    case: str
    of_roof: float | None = None
    times: float | None = None
    seconds: float | None = None
    over: str = ""  # the implementation that `times` is about, if it is not the best library


GOALS = (
    Goal("dropout_50/float32/64MiB", of_roof=0.67, times=10),
    Goal("dropout_50_forward_backward/float32/64MiB", times=30),
    Goal("alpha_dropout_10/float32/64MiB", of_roof=0.5),
    Goal("prune_50/float32/64MiB", of_roof=0.4, times=15),
    Goal("prune_90/float32/64MiB", of_roof=0.4, times=15),
    Goal("prune_global_90/float32/resnet50", of_roof=0.4),
    Goal("prune_2_of_4/float32/64MiB", of_roof=0.67),
    Goal("prune_random_50/float32/64MiB", of_roof=0.3),
    Goal("adamw_clip_l1/float32/resnet50", of_roof=0.9, times=1.7),
    Goal("adamw_clip_l1/float32/gpt2", of_roof=0.9, times=1.8),
    Goal("adamw_clip/float32/resnet50", of_roof=0.9),
    Goal("momentum_clip_l1/float32/resnet50", of_roof=0.92),
    Goal("momentum_clip_l1/float32/gpt2", of_roof=0.92),
    Goal("adamw_clip_l1/float32/1000x256", seconds=0.25e-3),
    Goal("adamw_clip_l1_8bit_states/float32/resnet50", times=1.4, over="ridgeline float32 states"),
    Goal("adamw_clip_l1_bf16_states/float32/resnet50", times=1.0, over="ridgeline float32 states"),
    Goal("clip_by_global_norm_clips/float32/1000x256", seconds=0.13e-3),
    Goal("clip_by_global_norm_clips/float32/resnet50", of_roof=0.9),
    Goal("clip_by_global_norm_within/float32/resnet50", of_roof=0.9),
    Goal("add_gradient_elastic_net/float32/64MiB", of_roof=0.95),
    Goal("add_gradient_elastic_net/float32/resnet50", of_roof=0.95),
    Goal("clip_by_value_everything/float32/resnet50", of_roof=0.95),
    Goal("prox_l1/float32/64MiB", of_roof=0.9),
    Goal("global_norm_2/float32/64MiB", of_roof=0.9),
    Goal("adamw/float32/64MiB", of_roof=0.9),
    Goal("global_norm_2/float32/256", seconds=0.5e-6),
    Goal("prox_l1/float32/256", seconds=0.5e-6),
    Goal("clip_by_global_norm_clips/float32/256", seconds=0.5e-6),
    Goal("dropout_50/float32/256", seconds=0.5e-6),
)


def main() -> int:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say what is not up to date")
    check = parser.parse_args().check
    run = results.load(RESULT)
    stale = []
    for file, tables in files(run).items():
        text = (ROOT / file).read_text()
        new = filled(text, tables)
        if new == text:
            continue
        stale.append(file)
        if not check:
            (ROOT / file).write_text(new)
    for file in stale:
        print(f"{file}: {'not the tables of the stored result' if check else 'written'}")
    return 1 if check and stale else 0


def files(run: Run) -> dict[str, dict[str, str]]:
    """Return the tables of each file, by name."""
    return {
        "README.md": {"measured": measured(run)},
        "docs/benchmarks.md": {
            "machine": heading(run),
            "roof": roof_table(run.roof),
            "goals": goals(run),
            "rows": families(run),
        },
    }


def filled(text: str, tables: dict[str, str]) -> str:
    """Return the text with the tables between their comments."""
    for name, table in tables.items():
        begin, end = f"<!-- table: {name} -->\n", "<!-- end -->\n"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise SystemExit(f"no {begin.strip()} ... {end.strip()}")
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


def row_of(run: Run, case: str) -> Row | None:
    """Return the row of a case, of the most threads."""
    operation, dtype, layout = case.split("/")
    found = [
        row
        for row in run.rows
        if (row.operation, row.dtype, row.layout) == (operation, dtype, layout)
    ]
    return max(found, key=lambda row: row.threads, default=None)


def heading(run: Run) -> str:
    """Say where and how the result was made."""
    facts, settings = run.machine, run.settings
    libraries = ", ".join(f"{k} {v}" for k, v in run.versions.items() if v and k != "compiler")
    caches = ", ".join(f"{name} {size}" for name, size in facts["caches"].items())
    lines = [
        f"* {facts['cpu']}, {facts['cores']} cores"
        + (", virtual machine" if facts["virtual"] else "")
        + f"; {caches}; {facts['system']}",
        f"* {libraries}; {run.versions['compiler']}",
        f"* {', '.join(settings.get('parts', [run.date]))}: "
        f"{settings['seconds'] / 60:.0f} minutes, "
        f"{settings['budget']:g} s a row; "
        f"threads {', '.join(map(str, settings['threads']))}; "
        f"targets {', '.join(settings['targets'])}; huge pages {facts['huge_pages']}; governor "
        f"{facts['governor'] or 'not readable'}; load {facts['load']:.1f} at the start",
        *(f"* warning: {each}" for each in run.warnings),
        *(f"* without {name}: {reason}" for name, reason in run.left_out.items()),
    ]
    return "\n".join(lines) + "\n"


def measured(run: Run) -> str:
    """Return the table of README.md."""
    found = {name: row_of(run, name) for name in README}
    rows = {row.name: README[case] for case, row in found.items() if row is not None}
    chosen = [row for row in found.values() if row is not None]
    facts, threads = run.machine, max(run.settings["threads"])
    head = (
        f"{facts['cpu']}, {facts['cores']} cores"
        + (" of a virtual machine" if facts["virtual"] else "")
        + f", {threads} threads, float32, target `{run.settings['targets'][0]}`, {run.date[:10]}. "
        "All peers: [docs/benchmarks.md](docs/benchmarks.md).\n\n"
    )
    table = markdown_table(
        chosen, ("row", "time", "of_roof", "peer", "speedup"), names=rows, notes=False
    )
    return (
        f"{head}{table}\n† A median is not known to 10 %, or the machine changed meanwhile; "
        "[docs/benchmarks.md](docs/benchmarks.md) has the reasons.\n"
    )


def families(run: Run) -> str:
    """Return the tables of all rows."""
    parts = []
    for family in dict.fromkeys(row.family for row in run.rows):
        rows = [row for row in run.rows if row.family == family]
        columns = ["row", "time", "of_roof", "peer", "speedup"]
        if any(each.extra_bytes is not None for row in rows for each in _all(row)):
            columns.append("extra")
        parts.append(f"### {family}\n\n{markdown_table(rows, columns)}")
    return "\n".join(parts)


def goals(run: Run) -> str:
    """Return the table of goals, those that are missed first."""
    lines = []
    for goal in GOALS:
        row = row_of(run, goal.case)
        if row is None:
            lines.append((2, f"| `{goal.case}` | {', '.join(_wanted(goal))} | not measured | |"))
            continue
        reached = list(_reached(goal, row))
        missed = not all(fine for fine, _ in reached)
        mark = "**missed**" if missed else "reached"
        doubts = " †" if row.doubts else ""
        text = ", ".join(text for _, text in reached)
        lines.append(
            (
                0 if missed else 1,
                f"| `{row.name}`{doubts} | {', '.join(_wanted(goal))} | {text} | {mark} |",
            )
        )
    ordered = [line for _, line in sorted(lines, key=lambda each: each[0])]
    head = ["| row | goal | result (interval) | |", "|---|---|---|---|"]
    return "\n".join([*head, *ordered]) + "\n"


def _wanted(goal: Goal) -> Iterator[str]:
    if goal.of_roof is not None:
        yield f"{goal.of_roof:g} of the roof"
    if goal.times is not None:
        yield f"{goal.times:g} x {goal.over or 'the best library'}"
    if goal.seconds is not None:
        yield results.time_text(goal.seconds)


def _reached(goal: Goal, row: Row) -> Iterator[tuple[bool, str]]:
    """Say what was reached, and whether it is enough: the interval decides in our disfavour not."""
    ours = report_data.ours(row)
    if goal.of_roof is not None:
        ratio = report_data.of_roof(row, ours)
        yield ratio is not None and ratio.value >= goal.of_roof, f"{ratio} of the roof"
    if goal.times is not None:
        other = row.implementations.get(goal.over) if goal.over else _best_library(row)
        if other is None:
            yield False, "no such peer"
        else:
            times = other.median / ours.median
            low, high = compare.ratio_interval(ours.samples, other.samples)
            name = next(name for name, each in row.implementations.items() if each is other)
            yield times >= goal.times, f"{results.interval_text(times, low, high)} x {name}"
    if goal.seconds is not None:
        text = f"{results.time_text(ours.median)} ({results.range_text(ours)})"
        yield ours.median <= goal.seconds, text


def _best_library(row: Row) -> Implementation | None:
    """Return the fastest peer that is no loop by hand."""
    found = [
        each
        for name, each in row.implementations.items()
        if each.role == "peer" and not name.startswith("numba")
    ]
    return min(found, key=lambda each: each.median, default=None)


def _all(row: Row) -> list[Implementation]:
    return list(row.implementations.values())


if __name__ == "__main__":
    sys.exit(main())
