"""Draw the picture of README.md from the stored result of a run.

    python bench/picture.py            # writes docs/benchmarks/speedup.svg
    python bench/picture.py --check    # exit status 1 if it is not that of the result

For some rows of the README's table: the time of each library over ridgeline's. A library stands for
its fastest implementation in the row. The whiskers have room for the intervals of both medians.
"""

from __future__ import annotations

import argparse
import sys

from tables import RESULT, ROOT, row_of

from ridgeline.bench.report import data, results
from ridgeline.bench.report.results import Implementation, Row, Run
from ridgeline.bench.report.svg import SHAPES, Drawing, Scale, bottom_axis

PICTURE = ROOT / "docs" / "benchmarks" / "speedup.svg"
CASES = {  # rows of the picture, and their labels
    "add_gradient_elastic_net/float32/64MiB": "elastic net: value and gradient",
    "prox_l1/float32/64MiB": "L1 proximal step",
    "global_norm_2/float32/64MiB": "2-norm",
    "clip_by_global_norm_clips/float32/resnet50": "clip by global norm, ResNet-50",
    "clip_by_global_norm_clips/float32/1000x256": "the same, 1,000 arrays of 256",
    "dropout_50_forward_backward/float32/64MiB": "dropout, forward and backward",
    "adamw_clip_l1/float32/resnet50": "clip + AdamW + L1, ResNet-50",
    "adamw_clip_l1/float32/gpt2": "the same, GPT-2 small",
    "prune_global_90/float32/resnet50": "prune 90 % globally, ResNet-50",
    "prune_2_of_4/float32/64MiB": "2:4 mask",
    "global_norm_2/float32/256": "2-norm of 256 elements",
}
LIBRARIES = {  # the first words of implementations
    "NumPy": ("numpy",),
    "PyTorch": ("torch",),
    "JAX, Optax": ("jax", "optax"),
    "hand-written Numba loop": ("numba",),
}
WIDTH, LEFT, RIGHT, TOP, LINE = 820.0, 246.0, 722.0, 112.0, 28.0
LANE = 5.0  # between the marks of a row

STYLE = """
text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.head { font-size: 16px; font-weight: 600 }
.tick { fill: #59636e; font-size: 12px }
.end { text-anchor: end }
.middle { text-anchor: middle }
.paper { fill: #ffffff }
.stripe { fill: #f3f5f7 }
.grid, .axis, .one, .w { fill: none; stroke: #d1d9e0 }
.one { stroke: #1f2328; stroke-width: 1.6 }
.w { stroke-width: 1.2 }
.m { stroke-width: 0.8 }
.c0 { fill: #0072b2; stroke: #0072b2 }
.c1 { fill: #c8500a; stroke: #c8500a }
.c2 { fill: #00825c; stroke: #00825c }
.c3 { fill: #9a4f8c; stroke: #9a4f8c }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .tick { fill: #9198a1 }
  .paper { fill: #0d1117 }
  .stripe { fill: #171d25 }
  .grid, .axis { stroke: #3d444d }
  .one { stroke: #f0f6fc }
  .c0 { fill: #56b4e9; stroke: #56b4e9 }
  .c1 { fill: #f08a4b; stroke: #f08a4b }
  .c2 { fill: #35c59b; stroke: #35c59b }
  .c3 { fill: #d99acb; stroke: #d99acb }
}
"""


def main() -> int:
    """Write the picture, or check it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    check = parser.parse_args().check
    text = picture(results.load(RESULT))
    name = PICTURE.relative_to(ROOT)
    if PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == text:
        return 0
    if not check:
        PICTURE.write_text(text, encoding="utf-8")
    print(f"{name}: {'not the picture of the stored result' if check else 'written'}")
    return 1 if check else 0


def picture(run: Run) -> str:
    """Return the picture as SVG."""
    rows = {label: row for case, label in CASES.items() if (row := row_of(run, case)) is not None}
    times = {label: ratios(row) for label, row in rows.items()}
    ends = [x for found in times.values() for ratio in found.values() for x in interval(ratio)]
    bottom = TOP + LINE * len(rows)
    x = Scale(min(ends) / 1.1, max(ends) * 1.1, LEFT, RIGHT, log=True)
    figures = "; ".join(
        f"{label}: " + ", ".join(f"{name} {ratio.value:.2g}" for name, ratio in found.items())
        for label, found in times.items()
    )
    title = "Time per call, as a multiple of ridgeline's"
    drawing = Drawing("speedup", WIDTH, bottom + 44, title, f"{figures}.")
    drawing.rectangle(0, 0, WIDTH, bottom + 44, "paper")
    drawing.text(16, 26, title, "head")
    for i, line in enumerate(subtitle(run)):
        drawing.text(16, 46 + 17 * i, line, "tick")
    legend(drawing)
    for i in range(0, len(rows), 2):
        drawing.rectangle(0, TOP + i * LINE, WIDTH, LINE, "stripe")
    bottom_axis(drawing, x, TOP, bottom, x.ticks(8), lambda value: f"{value:g}×")
    drawing.line(x(1), TOP - 6, x(1), bottom, "one")
    drawing.text(x(1) - 6, bottom + 34, "← faster than ridgeline", "tick end")
    drawing.text(x(1) + 6, bottom + 34, "slower than ridgeline →", "tick")
    drawing.text(WIDTH - 16, TOP - 8, "ridgeline", "tick end")
    for i, (label, row) in enumerate(rows.items()):
        y = TOP + (i + 0.5) * LINE
        drawing.text(16, y + 4.5, label)
        drawing.text(WIDTH - 16, y + 4.5, results.time_text(data.ours(row).median), "end")
        draw_ratios(drawing, x, y, times[label])
    style = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:g}" height="{bottom + 44:g}" '
    text = str(drawing).replace("<svg ", style, 1).replace("<desc", f"<style>{STYLE}</style><desc")
    return text.replace("><", ">\n<") + "\n"


def draw_ratios(drawing: Drawing, x: Scale, y: float, found: dict[str, data.Ratio]) -> None:
    """Draw the marks of one row, with whiskers."""
    for k, name in enumerate(LIBRARIES):
        if name not in found:
            continue
        at = y + LANE * (k - (len(LIBRARIES) - 1) / 2)
        low, high = interval(found[name])
        drawing.whiskers([(at, x(low), x(high))], f"w c{k}")
        drawing.mark(SHAPES[k], x(found[name].value), at, f"m c{k}", radius=4.5)


def legend(drawing: Drawing) -> None:
    """Name the marks."""
    at = 16.0
    for k, name in enumerate(LIBRARIES):
        drawing.mark(SHAPES[k], at + 5, 88, f"m c{k}", radius=5)
        drawing.text(at + 16, 92.5, name)
        at += 50 + 7 * len(name)


def ratios(row: Row) -> dict[str, data.Ratio]:
    """Return the time of each library's fastest implementation over ours."""
    best: dict[str, Implementation] = {}
    for name, each in row.implementations.items():
        for library, words in LIBRARIES.items():
            if each.role == "peer" and name.startswith(words):
                best[library] = min(best.get(library, each), each, key=lambda one: one.median)
    return {name: data.ratio(each, data.ours(row)) for name, each in best.items()}


def interval(ratio: data.Ratio) -> tuple[float, float]:
    """Return the ends of the whiskers."""
    if ratio.low is None or ratio.high is None:
        return ratio.value, ratio.value
    return ratio.low, ratio.high


def subtitle(run: Run) -> tuple[str, str]:
    """Say what was measured, and where."""
    facts, threads = run.machine, max(run.settings["threads"])
    cores = f"{facts['cores']} cores" + (" of a virtual machine" if facts["virtual"] else "")
    return (
        "float32; 64 MiB per array unless a row says otherwise; medians, whiskers for the 95 % "
        "intervals of both medians",
        f"{facts['cpu']}, {cores}, {data.threads_text(threads)}, {run.date[:10]}",
    )


if __name__ == "__main__":
    sys.exit(main())
