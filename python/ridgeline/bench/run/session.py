"""A whole run: the memory roof, then row by row."""

from __future__ import annotations

import argparse
import math
from datetime import datetime, timezone
from time import perf_counter
from typing import Any

import ridgeline as rl

from .. import machine
from ..peers import registry
from ..report import results
from ..report.data import threads_text
from ..report.store import appended, as_json, write
from ..rows.cases import Case
from . import measure, memory, roof
from .arguments import Memory, room
from .measure import Effort

QUICK = 60.0  # seconds
BUDGET = 2.0  # seconds for a row
_ROOF = 2**28, 9  # bytes, runs


class Refusal(Exception):
    """An option that can't be followed."""


class Session:
    """Measures row by row; what is known so far is in the file, should the program be stopped."""

    def __init__(
        self,
        args: argparse.Namespace,
        chosen: list[Case],
        targets: list[str],
        earlier: results.Run | None,
    ) -> None:
        self.args, self.chosen, self.targets, self.earlier = args, chosen, targets, earlier
        self.start = perf_counter()
        self.threads: list[int] = args.threads or [rl.get_num_threads()]
        short = args.quick and not args.filter and args.budget is None
        self.deadline = self.start + QUICK if short else math.inf
        self.budget: float = (
            args.budget if args.budget is not None else 0.3 if args.quick else BUDGET
        )
        self.described = machine.describe()
        self.watch = machine.Watch()
        self.described["machine"]["load"] = self.watch.load
        self.left_out: dict[str, str] = {}
        self.roofs: list[results.Roof] = []
        self.rows: list[results.Row] = []

    def run(self) -> results.Run:
        """Measure all cases."""
        planned = [(case, n) for n in self.threads for case in self.chosen]
        with _progress() as progress:
            costs = [_cost(case, self.budget) for case, _ in planned]
            task = progress.add_task("the memory roof", total=sum(costs))
            rl.runtime.use_target(self.targets[0])
            data = Memory(max(map(room, self.chosen)))
            size, runs = (2**26, 5) if self.args.quick else _ROOF
            self.roofs.extend(roof.survey(size, self.threads, runs))
            for (case, n), cost in zip(planned, costs, strict=True):
                without = registry.missing(self.args.compile, n)
                self.left_out.update(without)
                reason = measure.obstacle(case, without)
                if perf_counter() > self.deadline:
                    reason = "no time left in a minute"
                if reason is None:
                    progress.update(task, description=f"{case.name}, {threads_text(n)}")
                    self.rows.append(self._row(case, n, data, without))
                    self._so_far()
                else:
                    self.left_out[case.name] = reason
                progress.advance(task, cost)
        if not self.rows:
            raise Refusal("; ".join(f"{name}: {why}" for name, why in self.left_out.items()))
        return self._so_far()

    def _row(self, case: Case, n: int, data: Memory, without: dict[str, str]) -> results.Row:
        with rl.threads(n):
            registry.set_threads(n)
            left = max(0, self.deadline - perf_counter())
            effort = Effort(min(self.budget, left), self.args.precision)
            row = measure.run_case(case, data, effort, self.targets, without)
            if self.args.memory and case.workload:
                row = memory.added(row, case, without, self.args.load)
        return row

    def _so_far(self) -> results.Run:
        """Return what is known, and write it to the file."""
        run = results.Run(
            format=results.FORMAT,
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **self.described,
            settings={
                "threads": self.threads,
                "targets": self.targets,
                "quick": self.args.quick,
                "filter": self.args.filter,
                "budget": self.budget,
                "precision": self.args.precision,
                "seconds": round(perf_counter() - self.start, 1),
            },
            left_out=self.left_out,
            warnings=tuple(self.watch.warnings()),
            roof=tuple(self.roofs),
            rows=tuple(self.rows),
        )
        if self.args.json and self.rows:
            whole = run if self.earlier is None else appended(self.earlier, run)
            write(self.args.json, as_json(whole))
        return run


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
