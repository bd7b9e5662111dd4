"""Options of ``ridgeline bench``."""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ridgeline as rl

from . import machine
from .peers import registry
from .report import compare, console, page, results
from .rows import own
from .rows.cases import Case, cases, select
from .run import checks, memory
from .run.session import BUDGET, Refusal, Session

DESCRIPTION = (
    "Measure this machine: ridgeline against NumPy, the installed peers and the memory roof."
)
_PRECISION = 0.02
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options, and the commands that read results."""
    for declare in (_choice_of_cases, _way_of_measuring, _input_and_output):
        declare(parser.add_argument)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands that read --json files")
    for name, module in (("compare", compare), ("report", page)):
        text = module.DESCRIPTION
        epilog = getattr(module, "EPILOG", None)
        command = commands.add_parser(name, help=text, description=text, epilog=epilog)
        module.add_arguments(command)
        command.set_defaults(run=module.run)


def _choice_of_cases(add: Callable[..., Any]) -> None:
    add(
        "--quick",
        action="store_true",
        help="about a minute: up to ten cases (without -k), less time each",
    )
    add(
        "-k",
        dest="filter",
        metavar="FILTER",
        default="",
        help="only cases whose name holds all these words, such as 'clip float32 64MiB'",
    )
    add("--list", action="store_true", help="name the cases and stop")


def _way_of_measuring(add: Callable[..., Any]) -> None:
    add(
        "--threads",
        type=_numbers,
        metavar="N[,N]",
        help="for ridgeline and peers; all cases run with each number",
    )
    add(
        "--target",
        type=_words,
        metavar="NAME[,NAME]",
        help="instruction sets as in `ridgeline info`, or 'all'; the first beside the peers",
    )
    add("--compile", action="store_true", help="with torch.compile: takes minutes")
    add(
        "--memory",
        action="store_true",
        help="also the peak extra memory of a call on models' shapes, ours and the best peer's",
    )
    add("--peers", action="store_true", help="show every peer, not only the best")
    add("--budget", type=_seconds, metavar="SECONDS", help=f"for each row; {BUDGET:g} by default")
    add(
        "--precision",
        type=_fraction,
        default=_PRECISION,
        metavar="PART",
        help=f"of a median, at which a row is done sooner; {_PRECISION} by default",
    )


def _input_and_output(add: Callable[..., Any]) -> None:
    add(
        "--load",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="run a Python file that registers kernels with @ridgeline.bench.case",
    )
    add(
        "--json",
        type=Path,
        metavar="FILE",
        help="write all figures; compressed if FILE ends in .gz",
    )
    add(
        "--append",
        action="store_true",
        help="keep the other rows that the --json file has, of this machine and these versions",
    )
    add(
        "--doubtful",
        action="store_true",
        help="with --append, only cases that the file has doubts about",
    )
    add(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="compare with an earlier --json; the exit status is 1 if something became slower",
    )


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
        terminal = Console(width=None if sys.stdout.isatty() else 160)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peers' own
            run = Session(args, chosen, _targets(args), earlier).run()
        console.show(run, args.peers, terminal)
        if baseline is None:
            return 0
        comparison = compare.compare_runs(baseline, run)
    except (Refusal, ValueError, OSError, checks.WrongResult) as error:
        return _refuse(str(error))
    finally:
        rl.runtime.use_target(target)
        registry.set_threads(threads)
    compare.print_comparison(comparison, terminal)
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
