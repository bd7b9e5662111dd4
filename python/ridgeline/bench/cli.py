"""Options, table and JSON of ``ridgeline bench``."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ridgeline as rl

from . import machine, measure
from .cases import CACHE_1, FLOOR, RESNET, Case, cases, select
from .measure import Result
from .peers import missing
from .roof import TRAFFIC, Roof

DESCRIPTION = (
    "Measure this machine: ridgeline against NumPy, the installed peers and the memory roof."
)
FORMAT = 1  # of the JSON


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--quick", action="store_true", help="fewer cases, under one minute")
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
    parser.add_argument("--peers", action="store_true", help="show every peer, not only the best")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="for each case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")


def run(args: argparse.Namespace) -> int:
    """Measure, print, and return the exit status."""
    try:
        from rich.console import Console
    except ImportError:
        return _refuse("needs rich: pip install 'ridgeline[bench]'")
    chosen = select(args.filter)
    if not chosen:
        names = "\n  ".join(case.name for case in cases())
        return _refuse(f"-k {args.filter!r}: no case has a name with all these words in\n  {names}")
    if args.list:
        print("\n".join(case.name for case in chosen))
        return 0
    if args.quick and not args.filter:
        chosen = [case for case in chosen if _is_quick(case)]
    target_before = rl.runtime.target()
    threads_before = rl.get_num_threads()
    try:
        if args.target:
            rl.runtime.use_target(args.target)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = _measure(args, chosen, Console())
    except ValueError as error:
        return _refuse(str(error))
    finally:
        rl.runtime.use_target(target_before)
        measure.set_threads(threads_before)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0
