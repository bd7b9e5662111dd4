"""Options, table and JSON of ``ridgeline bench``."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ridgeline as rl

from . import machine, measure, memory, peers
from .cases import CACHE_1, FLOOR, MEMORY, RESNET, Case, cases, select
from .measure import Result, Timing
from .roof import Roof

DESCRIPTION = (
    "Measure this machine: ridgeline against NumPy, the installed peers and the memory roof."
)
FORMAT = 1  # of the JSON


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--quick",
        action="store_true",
        help="about a minute: fewer cases (without -k), less time for each",
    )
    parser.add_argument(
        "-k",
        dest="filter",
        metavar="FILTER",
        default="",
        help="only cases whose name holds all these words, such as 'clip 64MiB'",
    )
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--threads", type=_positive, metavar="N", help="for ridgeline and peers")
    parser.add_argument("--target", metavar="NAME", help="instruction set, as in `ridgeline info`")
    parser.add_argument("--compile", action="store_true", help="with torch.compile: takes minutes")
    parser.add_argument(
        "--memory",
        action="store_true",
        help="the peak extra memory of a call instead; without -k, of two cases",
    )
    parser.add_argument("--peers", action="store_true", help="show every peer, not only the best")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="for each case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")


def run(args: argparse.Namespace) -> int:
    """Measure, print, and return the exit status."""
    try:
        from rich.console import Console
    except ImportError:
        return _refuse("needs rich: pip install 'ridgeline[bench]'")
    if args.memory and not memory.is_possible():
        return _refuse("--memory: needs Linux's /proc/self/clear_refs")
    chosen = memory.chosen(args.filter) if args.memory else select(args.filter)
    if not chosen:
        names = "\n  ".join(case.name for case in cases())
        return _refuse(f"-k {args.filter!r}: no case has a name with all these words in\n  {names}")
    if args.list:
        print("\n".join(case.name for case in chosen))
        return 0
    if args.quick and not args.filter and not args.memory:
        chosen = [case for case in chosen if _is_quick(case)]
    if args.target and args.target not in rl.runtime.targets():
        return _refuse(f"--target {args.target!r}: wants one of {', '.join(rl.runtime.targets())}")
    if args.json and not args.json.parent.is_dir():
        return _refuse(f"--json {args.json}: no directory {args.json.parent}")

    target, threads = rl.runtime.target(), rl.get_num_threads()
    try:
        rl.runtime.use_target(args.target or target)
        with warnings.catch_warnings(), rl.threads(args.threads or threads):
            warnings.simplefilter("ignore")  # peers' own
            console = Console(width=None if sys.stdout.isatty() else 120)
            report = _measure(args, chosen, console)
    except measure.WrongResult as error:
        return _refuse(str(error))
    finally:
        rl.runtime.use_target(target)
        peers.set_threads(threads)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _measure(args: argparse.Namespace, chosen: list[Case], console: Any) -> dict[str, Any]:
    threads = rl.get_num_threads()
    budget = args.budget if args.budget is not None else 0.2 if args.quick else 2.0
    left_out = peers.missing(args.compile, threads)
    cannot = {case.name: measure.obstacle(case, left_out) for case in chosen}
    chosen = [case for case in chosen if cannot[case.name] is None]
    peers.set_threads(threads)
    report: dict[str, Any] = {
        "format": FORMAT,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **machine.describe(),
        "settings": {
            "threads": threads,
            "target": rl.runtime.target(),
            "quick": args.quick,
            "filter": args.filter,
            "budget": budget,
        },
        "left_out": {**left_out, **{name: why for name, why in cannot.items() if why}},
    }
    if args.memory:
        with console.status(""):
            extra = [each for case in chosen for each in memory.extra(case, left_out)]
        report["memory"] = [asdict(each) for each in extra]
        _print_heading(report, console)
        console.print(_memory_table(extra))
        return report
    roof = Roof(threads)
    report["roof_source"] = roof.source
    data = measure.Memory(max((case.layout.elements for case in chosen), default=0))
    results = []
    with console.status("") as status:
        for i, case in enumerate(chosen):
            status.update(f"{i + 1}/{len(chosen)} {case.name}")
            results.append(measure.run_case(case, data, roof, budget, left_out))
    report["results"] = [_as_json(result) for result in results]
    _print(report, results, args.peers, console)
    return report


def _is_quick(case: Case) -> bool:
    name, layout = case.operation.full_name, case.layout
    if case.operation.recipe is not None and not case.overhead:
        return layout is RESNET and name == "step_adamw_clip_l1"
    if case.operation.prunes:
        return layout is MEMORY and name == "prune_magnitude/50"
    if case.operation.fair and not case.overhead:
        return layout is MEMORY and name in ("dropout/50", "random_normal")
    if layout is RESNET:
        return case.operation.name in ("penalty_gradient", "clip_by_global_norm")
    return layout is not CACHE_1


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, wants 1 or more")
    return value


def _refuse(reason: str) -> int:
    print(f"ridgeline bench: {reason}", file=sys.stderr)
    return 2


def _as_json(result: Result) -> dict[str, Any]:
    case = result.case
    return {
        "case": case.name,
        "operation": case.operation.full_name,
        "layout": case.layout.name,
        "dtype": case.operation.dtype,
        "arrays": len(case.layout.sizes),
        "elements": case.layout.elements,
        "traffic_bytes": result.traffic,
        "roof_seconds": result.roof,
        "implementations": {
            name: {
                "median": t.median,
                "min": t.min,
                "max": t.max,
                "runs": t.runs,
                "calls_per_run": t.calls,
                "gb_per_s": None if result.roof is None else result.traffic / t.median * 1e-9,
                "of_roof": None if result.roof is None else result.roof / t.median,
                "relative_error": result.errors.get(name),
            }
            for name, t in result.timings.items()
        },
        "left_out": result.left_out,
        "best_peer": result.best_peer,
        "speedup": result.speedup,
        "overhead_seconds": result.overhead,
    }


def _print_heading(report: dict[str, Any], console: Any) -> None:
    settings, versions = report["settings"], report["versions"]
    libraries = ", ".join(f"{k} {v}" for k, v in versions.items() if v and k != "compiler")
    console.print(f"{report['machine']['cpu']}, {report['machine']['cores']} cores; {libraries}")
    roof = "roof_source" in report
    console.print(
        f"target {settings['target']}, threads {settings['threads']}"
        + (f"; the memory roof is measured with {report['roof_source']}" if roof else "")
    )
    for name, reason in report["left_out"].items():
        console.print(f"without {name}: {reason}")


def _print(report: dict[str, Any], results: list[Result], all_peers: bool, console: Any) -> None:
    _print_heading(report, console)
    machine_facts = report["machine"]
    if machine_facts["load"] > 0.5 * machine_facts["cores"]:
        console.print(f"load {machine_facts['load']:.1f}: other programs disturb these figures")
    for result in results:
        for name, reason in result.left_out.items():
            console.print(f"{result.case.name} without {name}: {reason}", markup=False)

    throughput = [result for result in results if result.roof is not None]
    if throughput:
        console.print(_throughput_table(throughput, all_peers))
    errors = [result for result in results if result.errors]
    if errors:
        console.print(_error_table(errors))
    overheads = [result for result in results if result.case.overhead]
    if overheads:
        console.print(_overhead_table(overheads, all_peers))


def _throughput_table(results: list[Result], all_peers: bool) -> Any:
    table = _table("Medians", "case", "time", "min - max", "GB/s", "of roof")
    table.add_column("speedup over best peer", no_wrap=True)
    for result in results:
        for name in _shown(result, all_peers):
            timing = result.timings[name]
            table.add_row(
                result.case.name if name == "ridgeline" else f"  {name}",
                _time(timing.median),
                _range(timing),
                f"{result.traffic / timing.median * 1e-9:.1f}",
                f"{(result.roof or 0) / timing.median:.2f}",
                _speedup(result) if name == "ridgeline" else "",
            )
    return table


def _overhead_table(results: list[Result], all_peers: bool) -> Any:
    table = _table(
        "One call on 256 elements", "function", "time", "min - max", "over an empty call"
    )
    table.add_column("speedup over best peer", no_wrap=True)
    for result in results:
        floor = result.timings[FLOOR].median
        for name in _shown(result, all_peers):
            timing = result.timings[name]
            table.add_row(
                result.case.operation.full_name if name == "ridgeline" else f"  {name}",
                _time(timing.median),
                _range(timing),
                _time(timing.median - floor),
                _speedup(result) if name == "ridgeline" else "",
            )
    return table


def _memory_table(results: list[memory.Extra]) -> Any:
    table = _table("Peak extra memory of one call", "case", "bytes", "of the arrays given")
    last = ""
    for each in results:
        if each.case != last:
            table.add_row(last := each.case)
        known = each.extra is not None
        table.add_row(
            f"  {each.implementation}",
            f"{each.extra:,}" if known else "",
            f"{(each.extra or 0) / each.arrays:.1%}" if known else each.reason,
        )
    return table


def _error_table(results: list[Result]) -> Any:
    names = dict.fromkeys(name for result in results for name in result.errors)
    layouts = [result.case.layout.name for result in results]
    table = _table("Relative error of the norm against float64", "", *layouts)
    for name in names:
        errors = (result.errors.get(name) for result in results)
        table.add_row(name, *("" if e is None else f"{e:.1e}" for e in errors))
    return table


def _table(title: str, first: str, *numbers: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _shown(result: Result, all_peers: bool) -> list[str]:
    return list(result.timings) if all_peers else ["ridgeline"]


def _speedup(result: Result) -> str:
    return "" if result.speedup is None else f"{result.speedup:.2f} {result.best_peer}"


def _range(timing: Timing) -> str:
    return f"{_time(timing.min)} - {_time(timing.max)}"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"
