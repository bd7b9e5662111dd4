"""Options and tables of ``ridgeline bench``."""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import Any

import ridgeline as rl

from .._files import replace_file
from . import checks, compare, machine, measure, memory, own, peers, report, results, roof
from .arguments import Memory, room
from .cases import Case, cases, select
from .layouts import TINY
from .measure import Effort

DESCRIPTION = (
    "Measure this machine: ridgeline against NumPy, the installed peers and the memory roof."
)
QUICK = 60.0  # seconds
_BUDGET = 2.0  # seconds for a row
_PRECISION = 0.02
_ROOF_BYTES = 2**28
_QUICK = (  # the last are left out, if time runs out
    "clip_by_global_norm_clips/float32/resnet50",
    "dropout_50/float32/64MiB",
    "prune_50/float32/64MiB",
    "add_gradient_elastic_net/float32/resnet50",
    "global_norm_2/float32/256",
    "prox_l1/float32/256",
    "prox_l1/float32/64MiB",
    "global_norm_2/float32/64MiB",
    "clip_by_global_norm_clips/float32/1000x256",
    "adamw_clip_l1/float32/resnet50",  # its peers compile for half a minute
)


class Refusal(Exception):
    """An option that can't be followed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options, and the commands that read results."""
    parser.add_argument(
        "--quick",
        action="store_true",
        help="about a minute: up to ten cases (without -k), less time each",
    )
    parser.add_argument(
        "-k",
        dest="filter",
        metavar="FILTER",
        default="",
        help="only cases whose name holds all these words, such as 'clip float32 64MiB'",
    )
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument(
        "--threads",
        type=_numbers,
        metavar="N[,N]",
        help="for ridgeline and peers; all cases run with each number",
    )
    parser.add_argument(
        "--target",
        type=_words,
        metavar="NAME[,NAME]",
        help="instruction sets as in `ridgeline info`, or 'all'; the first beside the peers",
    )
    parser.add_argument("--compile", action="store_true", help="with torch.compile: takes minutes")
    parser.add_argument(
        "--memory",
        action="store_true",
        help="also the peak extra memory of a call on models' shapes, ours and the best peer's",
    )
    parser.add_argument("--peers", action="store_true", help="show every peer, not only the best")
    parser.add_argument(
        "--budget", type=_seconds, metavar="SECONDS", help=f"for each row; {_BUDGET:g} by default"
    )
    parser.add_argument(
        "--precision",
        type=_fraction,
        default=_PRECISION,
        metavar="PART",
        help=f"of a median, at which a row is done sooner; {_PRECISION} by default",
    )
    parser.add_argument(
        "--load",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="run a Python file that registers kernels with @ridgeline.bench.case",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write all figures; compressed if FILE ends in .gz",
    )
    parser.add_argument(
        "--append",
        action="store_true",
        help="keep the other rows that the --json file has, of this machine and these versions",
    )
    parser.add_argument(
        "--doubtful",
        action="store_true",
        help="with --append, only cases that the file has doubts about",
    )
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="compare with an earlier --json; the exit status is 1 if something became slower",
    )
    commands = parser.add_subparsers(metavar="COMMAND", title="commands that read --json files")
    for name, module in (("compare", compare), ("report", report)):
        text = module.DESCRIPTION
        epilog = getattr(module, "EPILOG", None)
        command = commands.add_parser(name, help=text, description=text, epilog=epilog)
        module.add_arguments(command)
        command.set_defaults(run=module.run)


def run(args: argparse.Namespace) -> int:
    """Measure, print, and return the exit status."""
    try:
        from rich.console import Console
    except ImportError:
        return _refuse("needs rich: pip install 'ridgeline[bench]'")
    target, threads = rl.runtime.target(), rl.get_num_threads()
    try:
        chosen = _chosen(args)
        earlier = _earlier(args) if args.append else None
        if args.doubtful:
            chosen = _doubtful(chosen, earlier)
        if args.list:
            print("\n".join(case.name for case in chosen))
            return 0
        baseline = results.load(args.baseline) if args.baseline else None
        console = Console(width=None if sys.stdout.isatty() else 160)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peers' own
            run = _measure(args, chosen, earlier)
        _print(run, args.peers, console)
        if baseline is None:
            return 0
        comparison = compare.compare_runs(baseline, run)
    except (Refusal, ValueError, OSError, checks.WrongResult) as error:
        return _refuse(str(error))
    finally:
        rl.runtime.use_target(target)
        peers.set_threads(threads)
    compare.print_comparison(comparison, console)
    return comparison.status()


def _earlier(args: argparse.Namespace) -> results.Run | None:
    """Return what the file has that rows are appended to; refuse one of another machine."""
    if args.json is None:
        raise Refusal("--append: wants --json, the file to append to")
    if not args.json.exists():
        return None
    earlier, now = results.load(args.json), machine.describe()
    if (earlier.machine["cpu"], earlier.versions) != (now["machine"]["cpu"], now["versions"]):
        raise Refusal(f"--append: {args.json} is of another machine or other versions")
    return earlier


def _doubtful(chosen: list[Case], earlier: results.Run | None) -> list[Case]:
    """Return the cases that there are doubts about."""
    if earlier is None:
        raise Refusal("--doubtful: wants --append and a file that exists")
    names = {f"{row.operation}/{row.dtype}/{row.layout}" for row in earlier.rows if row.doubts}
    found = [case for case in chosen if case.name in names]
    if not found:
        raise Refusal("--doubtful: there are no doubts about these cases")
    return found


def appended(earlier: results.Run, run: results.Run) -> results.Run:
    """Return both runs as one: a row that both have is that of the later."""
    rows = {row.name: row for row in (*earlier.rows, *run.rows)}
    measured = {f"{row.operation}/{row.dtype}/{row.layout}" for row in rows.values()}
    left_out = {**_left_out(earlier, run), **_left_out(run, earlier)}
    settings = dict(earlier.settings)
    for name in ("threads", "targets"):
        settings[name] = list(dict.fromkeys([*earlier.settings[name], *run.settings[name]]))
    settings["seconds"] = earlier.settings["seconds"] + run.settings["seconds"]
    settings["parts"] = [*earlier.settings.get("parts", [earlier.date]), run.date]
    roofs = {(each.pattern, each.pages, each.threads): each for each in (*earlier.roof, *run.roof)}
    return dataclasses.replace(
        run,
        settings=settings,
        left_out={name: why for name, why in left_out.items() if name not in measured},
        warnings=tuple(dict.fromkeys((*earlier.warnings, *run.warnings))),
        roof=tuple(roofs.values()),
        rows=tuple(rows.values()),
    )


def _left_out(run: results.Run, other: results.Run) -> dict[str, str]:
    """Return what a run left out, with its threads where the other did not."""
    threads = " and ".join(_threads_text(n) for n in run.settings["threads"])
    return {
        name if name in other.left_out else f"{name}, {threads}": why
        for name, why in run.left_out.items()
    }


def as_json(run: results.Run) -> str:
    """Return the text of a result: a line for each row."""
    fields = {
        name: json.dumps(value) if name != "rows" else _lines(value)
        for name, value in dataclasses.asdict(run).items()
    }
    return "{\n" + ",\n".join(f' "{name}": {text}' for name, text in fields.items()) + "\n}\n"


def _write(file: Path, text: str) -> None:
    """Replace the file at once: it may hold rows of earlier runs."""
    data = text.encode()
    if file.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    replace_file(file, lambda part: part.write_bytes(data))


def _lines(rows: Sequence[Any]) -> str:
    return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n ]"


def _chosen(args: argparse.Namespace) -> list[Case]:
    """Return the cases asked for; refuse what can't be followed."""
    for file in args.load:
        own.load(file)
    chosen = select(args.filter)
    if not chosen:
        names = "\n  ".join(case.name for case in cases())
        raise Refusal(f"-k {args.filter!r}: no case has a name with all these words in\n  {names}")
    if args.quick and not args.filter:
        found = {case.name: case for case in chosen}
        chosen = [found[name] for name in _QUICK]
        chosen += [case for case in found.values() if case.operation.own]
    known = rl.runtime.targets()
    for name in _targets(args):
        if name not in known:
            raise Refusal(f"--target: got {name!r}, wants one of {', '.join(known)}, or all")
    if args.json and not args.json.parent.is_dir():
        raise Refusal(f"--json {args.json}: no directory {args.json.parent}")
    if args.memory and not memory.is_possible():
        raise Refusal("--memory: needs Linux's /proc/self/clear_refs")
    return chosen


def _targets(args: argparse.Namespace) -> list[str]:
    if args.target == ["all"]:
        return rl.runtime.targets()
    return args.target or [rl.runtime.target()]


def _measure(
    args: argparse.Namespace, chosen: list[Case], earlier: results.Run | None
) -> results.Run:
    """Measure row by row; what is known so far is in the file, should the program be stopped."""
    start = perf_counter()
    threads, targets = args.threads or [rl.get_num_threads()], _targets(args)
    described = machine.describe()
    watch = machine.Watch()
    described["machine"]["load"] = watch.load
    left_out: dict[str, str] = {}
    rows: list[results.Row] = []
    planned = [(case, n) for n in threads for case in chosen]
    deadline = start + QUICK if args.quick and not args.filter and args.budget is None else math.inf
    budget = args.budget if args.budget is not None else 0.3 if args.quick else _BUDGET

    def so_far() -> results.Run:
        run = results.Run(
            format=results.FORMAT,
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **described,
            settings={
                "threads": threads,
                "targets": targets,
                "quick": args.quick,
                "filter": args.filter,
                "budget": budget,
                "precision": args.precision,
                "seconds": round(perf_counter() - start, 1),
            },
            left_out=left_out,
            warnings=tuple(watch.warnings()),
            roof=tuple(roofs),
            rows=tuple(rows),
        )
        if args.json and rows:
            _write(args.json, as_json(run if earlier is None else appended(earlier, run)))
        return run

    with _progress() as progress:
        costs = [_cost(case, budget) for case, _ in planned]
        task = progress.add_task("the memory roof", total=sum(costs))
        rl.runtime.use_target(targets[0])
        data = Memory(max(map(room, chosen)))
        size, runs = (2**26, 5) if args.quick else (_ROOF_BYTES, 9)
        roofs = list(roof.survey(size, threads, runs))
        for (case, n), cost in zip(planned, costs, strict=True):
            without = peers.missing(args.compile, n)
            left_out.update(without)
            reason = measure.obstacle(case, without)
            if perf_counter() > deadline:
                reason = "no time left in a minute"
            if reason is None:
                progress.update(task, description=f"{case.name}, {_threads_text(n)}")
                with rl.threads(n):
                    peers.set_threads(n)
                    effort = Effort(min(budget, max(0, deadline - perf_counter())), args.precision)
                    row = measure.run_case(case, data, effort, targets, without)
                    if args.memory and case.workload:
                        row = memory.added(row, case, without, args.load)
                rows.append(row)
                so_far()
            else:
                left_out[case.name] = reason
            progress.advance(task, cost)
    if not rows:
        raise Refusal("; ".join(f"{name}: {why}" for name, why in left_out.items()))
    return so_far()


def _cost(case: Case, budget: float) -> float:
    """Guess the seconds of a row: its budget, the checks, and the least rounds of slow peers."""
    heavy = 3.0 if case.operation.recipe is not None or case.operation.fair is not None else 1.0
    return budget + 1.0 + 3e-8 * case.elements * measure.MIN_RUNS * heavy


def _progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _refuse(reason: str) -> int:
    print(f"ridgeline bench: {reason}", file=sys.stderr)
    return 2


def _numbers(text: str) -> list[int]:
    found = []
    for each in text.split(","):
        if not each.strip().isdecimal() or int(each) < 1:
            raise argparse.ArgumentTypeError(f"got {text!r}, wants numbers of 1 or more, as in 1,2")
        found.append(int(each))
    return list(dict.fromkeys(found))


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(each.strip() for each in text.split(",")))


def _seconds(text: str) -> float:
    return _real(text, "wants seconds, 0 or more", 0, math.inf)


def _fraction(text: str) -> float:
    return _real(text, "wants a part of the median, from 0 to 1", 0, 1)


def _real(text: str, wanted: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"got {text!r}, {wanted}")
    return value


def _threads_text(n: int) -> str:
    return "1 thread" if n == 1 else f"{n} threads"


def _print(run: results.Run, all_peers: bool, console: Any) -> None:
    for line in heading(run):
        console.print(line, markup=False, highlight=False)
    for warning in run.warnings:
        console.print(f"[bold]warning:[/bold] {warning}")
    for threads in dict.fromkeys(row.threads for row in run.rows):
        rows = [row for row in run.rows if row.threads == threads]
        memory_bound = [row for row in rows if row.traffic_bytes]
        text = f"{_threads_text(threads)}, {rows[0].target}"
        if memory_bound:
            console.print(_throughput_table(text, memory_bound, all_peers))
        calls = [row for row in rows if row.layout == TINY.name]
        if calls:
            console.print(_call_table(f"One call on 256 elements: {text}", calls, all_peers))
    for row in run.rows:
        for name, reason in row.left_out.items():
            if name != "reference":
                console.print(f"{row.name} without {name}: {reason}", markup=False)
    for row in run.rows:
        for doubt in row.doubts:
            console.print(f"? {row.name}: {doubt}", markup=False)


def heading(run: results.Run) -> Iterator[str]:
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


def _throughput_table(title: str, rows: Sequence[results.Row], all_peers: bool) -> Any:
    table = _table(title, "case", "median", "min - max", "GB/s", "of roof")
    with_memory = any(each.extra_bytes is not None for r in rows for each in _all(r))
    if with_memory:
        table.add_column("extra memory", justify="right", no_wrap=True)
    table.add_column("speedup over the best peer", no_wrap=True)
    for row in rows:
        for name, each in _shown(row, all_peers):
            extra = "" if each.extra_bytes is None else results.bytes_text(each.extra_bytes)
            table.add_row(
                _case_text(row) if each.role == "ours" else f"  {name}",
                results.time_text(each.median) + _mark(each.trusted),
                results.range_text(each),
                f"{each.gb_per_s or 0:.1f}",
                "" if each.of_roof is None else f"{each.of_roof:.2f}",
                *([extra] if with_memory else []),
                _speedup_text(row) if each.role == "ours" else "",
            )
    return table


def _call_table(title: str, rows: Sequence[results.Row], all_peers: bool) -> Any:
    table = _table(title, "function", "median", "min - max", "over an empty call")
    table.add_column("speedup over the best peer", no_wrap=True)
    for row in rows:
        floor = next(each.median for each in _all(row) if each.role == "floor")
        for name, each in _shown(row, all_peers):
            table.add_row(
                row.operation if each.role == "ours" else f"  {name}",
                results.time_text(each.median) + _mark(each.trusted),
                results.range_text(each),
                results.time_text(each.median - floor),
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


def _all(row: results.Row) -> list[results.Implementation]:
    return list(row.implementations.values())


def _shown(row: results.Row, all_peers: bool) -> Iterator[tuple[str, results.Implementation]]:
    for name, each in row.implementations.items():
        if all_peers or row.own or each.role in ("ours", "target"):
            yield name, each


def _case_text(row: results.Row) -> str:
    return f"{row.operation}/{row.dtype}/{row.layout}" + (" ?" if row.doubts else "")


def _mark(trusted: bool) -> str:
    return "" if trusted else " ~"


def _speedup_text(row: results.Row) -> str:
    if row.speedup is None:
        return ""
    interval = results.interval_text(row.speedup, row.speedup_low, row.speedup_high)
    return f"{interval} {row.best_peer}"
