"""Reports on the sparsity of each array: a table and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from .. import _bits
from .._tree import places
from ..masks import Mask, MaskSet, _aligned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

    from .._typing import Tree

__all__ = ["Report", "Row", "plot", "report"]

Line: TypeAlias = list[tuple[float, float]]  # (step, sparsity)


@dataclass(frozen=True)
class Row:
    """One array of a `Report`.

    Parameters
    ----------
    name : str
        As in `MaskSet.flat`; ``"mask"`` for a single mask.
    shape : tuple of int
    size, kept : int
        The number of elements, and of those that are kept.
    mask_bytes : int
        What the mask takes.
    zeros : int, optional
        The number of elements of the array itself that are 0. None without arrays.
    nbytes : int, optional
        What the array takes. None without arrays.

    Examples
    --------
    >>> from ridgeline.prune.report import Row
    >>> Row("w", (2, 2), 4, 1, 8).sparsity
    0.75
    """

    name: str
    shape: tuple[int, ...]
    size: int
    kept: int
    mask_bytes: int
    zeros: int | None = None
    nbytes: int | None = None

    @property
    def sparsity(self) -> float:
        """The fraction of pruned elements; 0 if there are no elements."""
        return _bits.sparsity(self.size, self.kept)


@dataclass(frozen=True)
class Report:
    """The sparsity of each array, and of all arrays together.

    Prints as a table; `rich.print` draws it. A `Row` for each array; the other attributes are sums
    over the rows, `zeros` and `nbytes` None without arrays.

    Parameters
    ----------
    rows : tuple of Row

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> from ridgeline.prune.report import report
    >>> sparse = report(rl.MaskSet.from_array({"w": np.eye(3, dtype=bool), "b": np.ones(3, bool)}))
    >>> [row.name for row in sparse.rows], sparse.size, sparse.kept, sparse.sparsity
    (['w', 'b'], 12, 6, 0.5)
    """

    rows: tuple[Row, ...]

    @property
    def size(self) -> int:
        """The number of elements."""
        return sum(row.size for row in self.rows)

    @property
    def kept(self) -> int:
        """The number of kept elements."""
        return sum(row.kept for row in self.rows)

    @property
    def sparsity(self) -> float:
        """The fraction of pruned elements; 0 if there are no elements."""
        return _bits.sparsity(self.size, self.kept)

    @property
    def mask_bytes(self) -> int:
        """The bytes that the masks take."""
        return sum(row.mask_bytes for row in self.rows)

    @property
    def zeros(self) -> int | None:
        """The number of elements of the arrays that are 0."""
        counts = [row.zeros for row in self.rows if row.zeros is not None]
        return sum(counts) if counts else None

    @property
    def nbytes(self) -> int | None:
        """The bytes that the arrays take."""
        counts = [row.nbytes for row in self.rows if row.nbytes is not None]
        return sum(counts) if counts else None

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        """Return the headings and the cells, the total in the last row."""
        headings = ["name", "shape", "size", "kept", "sparsity"]
        rows = [
            [row.name, str(row.shape), f"{row.size:,}", f"{row.kept:,}", f"{row.sparsity:.2%}"]
            for row in self.rows
        ]
        rows.append(["total", "", f"{self.size:,}", f"{self.kept:,}", f"{self.sparsity:.2%}"])
        zeros = self.zeros
        if zeros is not None:
            headings.append("zeros")
            for cells, row in zip(rows, self.rows, strict=False):
                cells.append(f"{row.zeros or 0:,}")
            rows[-1].append(f"{zeros:,}")
        return headings, rows

    def _footer(self) -> str:
        masks = f"masks {_bytes(self.mask_bytes)}"
        return masks if self.nbytes is None else f"weights {_bytes(self.nbytes)}, {masks}"

    def __str__(self) -> str:
        headings, rows = self._cells()
        widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
        lines = []
        for row in [headings, *rows]:
            names = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
            numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
            lines.append("  ".join(names + numbers).rstrip())
        return "\n".join([*lines, self._footer()])

    def __rich__(self) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        headings, rows = self._cells()
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True, caption=self._footer())
        for i, heading in enumerate(headings):
            table.add_column(
                heading,
                Text(rows[-1][i]),
                justify="left" if i < 2 else "right",
                no_wrap=i != 0,
                overflow="fold",
            )
        for row in rows[:-1]:
            table.add_row(*map(Text, row))
        return table


def _bytes(count: int) -> str:
    """Return a number of bytes in human-readable form."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{count} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


def _masks_of(masks: object) -> Mask | MaskSet:
    return masks if isinstance(masks, Mask | MaskSet) else MaskSet.of(masks)


def report(masks: Mask | MaskSet, params: Tree | None = None) -> Report:
    """Return a report on the sparsity of each array.

    Parameters
    ----------
    masks : Mask, MaskSet or container of Mask
    params : array or tree of arrays, optional
        The arrays that the masks are for: their zeros and bytes are counted too. Read.

    Returns
    -------
    Report

    Raises
    ------
    TypeError
        If `masks` holds something else.
    ValueError
        If the structure or a shape of `params` is not that of the masks.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> from ridgeline.prune.report import report
    >>> masks = rl.MaskSet.from_array({"w": np.eye(3, dtype=bool), "b": np.ones(3, bool)})
    >>> print(report(masks, {"w": np.eye(3), "b": np.zeros(3)}))
    name   shape   size  kept  sparsity  zeros
    w      (3, 3)     9     3    66.67%      6
    b      (3,)       3     3     0.00%      3
    total            12     6    50.00%      9
    weights 96 B, masks 16 B
    """
    masks = _masks_of(masks)
    named = [("mask", masks)] if isinstance(masks, Mask) else masks.flat()
    rows = [
        {"name": n, "shape": m.shape, "size": m.size, "kept": m.count, "mask_bytes": m.nbytes}
        for n, m in named
    ]
    if params is not None:
        arrays = zip(rows, places("params", masks), _aligned(masks, params), strict=True)
        for row, place, array in arrays:
            if not hasattr(array, "shape"):
                raise TypeError(f"{place}: got {type(array).__name__}, wants an array")
            if tuple(array.shape) != row["shape"]:
                raise ValueError(
                    f"{place}: got shape {tuple(array.shape)}, wants {row['shape']}, "
                    "that of the mask"
                )
            row["zeros"] = int((array == 0).sum())
            row["nbytes"] = int(array.nbytes)
    return Report(tuple(Row(**cast("dict[str, Any]", row)) for row in rows))


def plot(
    masks_or_history: Mask | MaskSet | Report | Sequence[Any],
    path: str | PathLike[str] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """Draw the sparsity of each array, or how it changed in training.

    Needs matplotlib. The figure is not known to pyplot, so there is nothing to close.

    Parameters
    ----------
    masks_or_history : Mask, MaskSet, Report or list
        Masks or a report: a bar for each array, and a line for all together. A list of
        ``(step, x)``, or of x alone with the steps 0, 1, ..., is a history: x is a sparsity, a
        Report or a MaskSet, and None is left out. Lines over the steps: all together, and if x has
        them the arrays.
    path : str or path, optional
        A file to write: its suffix says what, ``.png``, ``.svg`` or ``.pdf``.
    title : str, optional

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError
        If it is neither.
    ModuleNotFoundError
        If matplotlib is missing.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> from ridgeline.prune.report import plot
    >>> masks = rl.MaskSet.from_array({"w": np.eye(3, dtype=bool), "b": np.ones(3, bool)})
    >>> figure = plot(masks)
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['w', 'b']
    >>> history = plot([(0, 0.0), (100, 0.5), (200, 0.9)], title="pruning")
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "ridgeline: a plot needs another package: pip install matplotlib", name="matplotlib"
        ) from error
    shown = masks_or_history
    history = isinstance(shown, Sequence) and not isinstance(shown, MaskSet | str)
    if history and not (shown and all(isinstance(x, Mask) for x in cast("Sequence[Any]", shown))):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        _draw_history(figure.subplots(), _history(cast("Sequence[Any]", shown)))
    else:
        made = shown if isinstance(shown, Report) else report(cast("MaskSet", shown))
        count = len(made.rows)
        height = 1.2 + count * (0.32 if count <= 20 else 0.17)
        figure = Figure(figsize=(8, min(height, 600)), layout="constrained")
        _draw_rows(figure.subplots(), made)
    axes = figure.axes[0]
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    if title is not None:
        figure.suptitle(title)
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _draw_rows(axes: Axes, made: Report) -> None:
    """Draw one bar per array, the first at the top."""
    from matplotlib.ticker import PercentFormatter

    rows, places = made.rows, np.arange(len(made.rows))
    small = len(rows) > 20
    size = 7 if small else 9
    axes.barh(places, [row.sparsity for row in rows], height=0.75, color="#0072B2")
    for place, row in enumerate(rows):
        axes.text(1.09, place, f"{row.sparsity:.1%}", ha="right", va="center", fontsize=size)
    axes.axvline(made.sparsity, color="#D55E00", linewidth=1, linestyle="--")
    axes.set_yticks(places, [_short(row.name) for row in rows], fontsize=size)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.1)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(
        f"sparsity: {made.sparsity:.2%} of {made.size:,} elements (dashed)",
        loc="left",
        fontsize="medium",
    )


def _short(name: str) -> str:
    return name if len(name) <= 48 else f"{name[:22]}...{name[-23:]}"


def _history(entries: Sequence[Any]) -> dict[str | None, Line]:
    """Return the points of the line of all arrays together, None, and of each array."""
    lines: dict[str | None, Line] = {None: []}
    for i, entry in enumerate(entries):
        pair = isinstance(entry, tuple | list) and len(entry) == 2
        step, value = entry if pair else (getattr(entry, "step", i), entry)
        if value is None:
            continue
        try:
            at, sparsity = float(step), float(getattr(value, "sparsity", value))
        except (TypeError, ValueError):
            raise TypeError(
                f"masks_or_history[{i}]: got {entry!r}, wants a sparsity, a Report or masks, or a "
                "pair of a step and one"
            ) from None
        lines[None].append((at, sparsity))
        if isinstance(value, MaskSet):
            value = report(value)
        for row in getattr(value, "rows", ()):
            lines.setdefault(row.name, []).append((at, row.sparsity))
    return lines


def _draw_history(axes: Axes, lines: dict[str | None, Line]) -> None:
    """Draw a line for all arrays together and, thinner, one for each."""
    from matplotlib import colormaps
    from matplotlib.ticker import PercentFormatter

    few = len(lines) <= 11
    colors = colormaps["tab10"]
    for i, (name, line) in enumerate(lines.items()):
        steps, values = zip(*line, strict=True) if line else ((), ())
        if name is None:
            style: dict[str, Any] = {"color": "black", "linewidth": 2, "label": "all", "zorder": 3}
        elif few:
            style = {"color": colors(i - 1), "linewidth": 1, "label": _short(name)}
        else:
            style = {"color": "#0072B2", "linewidth": 0.6, "alpha": 0.4}
            style["label"] = f"each of {len(lines) - 1} arrays" if i == 1 else None
        axes.plot(steps, values, marker="o" if len(line) == 1 else "", **style)
    axes.set_xlabel("step")
    axes.set_ylabel("sparsity")
    axes.set_ylim(0, 1.02)
    axes.margins(x=0.01)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend(fontsize=8, loc="best")
