"""Reports of sparsity and their plots."""

from __future__ import annotations

import io
import sys
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest

from ridgeline.masks import Mask, MaskSet
from ridgeline.prune.report import Report, Row, plot, report


def masks_of(**sparsities) -> MaskSet:
    """Masks of 10 x 20 elements of given sparsities."""
    return MaskSet.from_array(
        {name: (np.arange(200) >= round(200 * s)).reshape(10, 20) for name, s in sparsities.items()}
    )


def resnet(arrays=161) -> MaskSet:
    rng = np.random.default_rng(0)
    return MaskSet.from_array(
        {f"layer{i}.0.conv1.weight": rng.random((16, 9)) < i / arrays for i in range(arrays)}
    )


def test_rows_and_totals():
    masks = MaskSet.from_array(
        {"conv": [np.eye(9, dtype=bool), np.array(True)], "e": np.ones(0, bool)}
    )
    made = report(masks)
    assert made.rows == (
        Row("conv/0", (9, 9), 81, 9, 16),
        Row("conv/1", (), 1, 1, 8),
        Row("e", (0,), 0, 0, 0),
    )
    assert [row.sparsity for row in made.rows] == [72 / 81, 0.0, 0.0]
    assert (made.size, made.kept, made.sparsity) == (82, 10, 72 / 82)
    assert made.sparsity == masks.sparsity
    assert made.mask_bytes == masks.nbytes == 24
    assert made.zeros is made.nbytes is None
    assert made == report(masks)
    with pytest.raises(AttributeError):
        made.rows = ()


def test_of_one_mask_and_of_containers():
    mask = Mask.from_array([True, False, False])
    assert report(mask).rows == (Row("mask", (3,), 3, 1, 8),)
    assert report(mask, np.array([1.0, 0.0, 0.0])).rows == (Row("mask", (3,), 3, 1, 8, 2, 24),)
    assert report([mask, mask]) == report(MaskSet.of([mask, mask]))
    for empty in ([], {}):
        made = report(empty)
        assert (made.rows, made.size, made.sparsity, made.zeros) == ((), 0, 0.0, None)
        assert "total" in str(made)
    for bad in (None, 3, [np.ones(3, bool)]):
        with pytest.raises(TypeError, match=r"^masks"):
            report(bad)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_zeros_and_bytes(dtype):
    masks = masks_of(w=0.5, b=0.25)
    w = np.array(masks["w"].to_array(), dtype)
    w[-1, -1] = 0  # kept, and 0 all the same
    w[0, 0] = -0.0
    w[0, 1] = np.nan  # not kept, and not yet applied
    b = np.ones((10, 20), dtype)[::-1]
    made = report(masks, {"b": b, "w": w})
    assert [(row.name, row.zeros) for row in made.rows] == [("w", 100), ("b", 0)]
    assert made.zeros == 100
    assert made.nbytes == 400 * np.dtype(dtype).itemsize
    assert made.kept == masks.count


def test_torch():
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 4)
    masks = MaskSet.from_array([np.ones(p.shape, bool) for p in model.parameters()])
    assert report(masks, model.parameters()).zeros == 0
    with torch.no_grad():
        model.bias[1:] = -0.0
    made = report(masks, model.parameters())
    assert [row.zeros for row in made.rows] == [0, 3]
    assert made.nbytes == 64
    half = [p.detach().bfloat16() for p in model.parameters()]
    assert report(masks, half).nbytes == 32
    assert report(masks, half).zeros == 3


def test_params_errors():
    masks = masks_of(w=0.5, b=0.5)
    w = np.ones((10, 20))
    for bad, error, message in [
        ({"w": w}, ValueError, r"params: got no key 'b'"),
        ([w, w], ValueError, r"params: got a sequence of 2, wants a dict of 2"),
        ({"w": w, "b": w.T}, ValueError, r"params\['b'\]: got shape \(20, 10\), wants \(10, 20\)"),
        ({"w": w, "b": [w]}, ValueError, r"params\['b'\]: got a sequence of 1, wants an array"),
        ({"w": w, "b": 3.0}, TypeError, r"params\['b'\]: got float, wants an array"),
    ]:
        with pytest.raises(error, match=f"^{message}"):
            report(masks, bad)


def test_text():
    lines = str(report(masks_of(weight=0.9, b=0.0))).splitlines()
    assert lines == [
        "name    shape     size  kept  sparsity",
        "weight  (10, 20)   200    20    90.00%",
        "b       (10, 20)   200   200     0.00%",
        "total              400   220    45.00%",
        "masks 64 B",
    ]
    large = str(report(Mask.from_array(np.zeros((1000, 2000), bool)), np.zeros((1000, 2000))))
    assert "2,000,000" in large
    assert large.splitlines()[0].endswith("zeros")
    assert large.endswith("weights 15.3 MiB, masks 244.1 KiB")


def test_rich():
    rich = pytest.importorskip("rich.console")
    name = "layer[bold]1[/bold].weight"  # no markup
    made = report(MaskSet.of({name: masks_of(w=0.9)["w"]}), {name: np.ones((10, 20))})
    stream = io.StringIO()
    rich.Console(file=stream, width=100, force_terminal=True, color_system=None).print(made)
    text = stream.getvalue()
    for part in (
        name,
        "(10, 20)",
        "200",
        "90.00%",
        "zeros",
        "total",
        "weights 1.6 KiB, masks 32 B",
    ):
        assert part in text


# ---- plots


def bars(axes) -> list[float]:
    return [bar.get_width() for bar in axes.patches]


@pytest.mark.parametrize("count", [0, 1, 3, 20, 21, 161])
def test_bars(count, tmp_path):
    pytest.importorskip("matplotlib")
    masks = resnet(count)
    made = report(masks)
    for value in (masks, made):
        figure = plot(value, tmp_path / "bars.png", title="a network")
        (axes,) = figure.axes
        assert bars(axes) == [row.sparsity for row in made.rows]
        assert [t.get_text() for t in axes.get_yticklabels()] == [row.name for row in made.rows]
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
    top, bottom = axes.get_ylim()[::-1]
    assert top < bottom  # the first is at the top
    # No label covers the next.
    agg = pytest.importorskip("matplotlib.backends.backend_agg")
    agg.FigureCanvasAgg(figure).draw()
    boxes = [t.get_window_extent() for t in axes.get_yticklabels()]
    for above, below in pairwise(boxes):
        assert below.y1 <= above.y0 + 1
    for box in boxes:
        assert box.x0 >= 0


def test_one_mask_lists_and_long_names():
    pytest.importorskip("matplotlib")
    mask = masks_of(w=0.75)["w"]
    assert bars(plot(mask).axes[0]) == [0.75]
    assert bars(plot([mask, mask]).axes[0]) == [0.75, 0.75]
    assert bars(plot({"a": mask}).axes[0]) == [0.75]
    (label,) = plot({"a" * 30 + "z" * 300: mask}).axes[0].get_yticklabels()
    assert len(label.get_text()) < 50


def lines_of(figure) -> dict[str, list[tuple[float, float]]]:
    return {
        line.get_label(): list(zip(*map(list, line.get_data()), strict=True))
        for line in figure.axes[0].lines
    }


def test_history_of_numbers(tmp_path):
    pytest.importorskip("matplotlib")
    points = [(0, 0.0), (100, 0.5), (250, 0.9)]
    figure = plot(points, str(tmp_path / "history.svg"))
    assert lines_of(figure) == {"all": points}
    assert "<svg" in (tmp_path / "history.svg").read_text()
    assert lines_of(plot([0.0, np.float32(0.5), 0.75])) == {"all": [(0, 0.0), (1, 0.5), (2, 0.75)]}
    assert lines_of(plot([(5, 0.5)])) == {"all": [(5, 0.5)]}
    assert lines_of(plot([])) == {"all": []}


def test_history_of_reports():
    pytest.importorskip("matplotlib")
    sets = [masks_of(w=s, b=0) for s in (0.0, 0.5, 0.9)]
    wanted = {
        "all": [(0, 0.0), (10, 0.25), (20, 0.45)],
        "w": [(0, 0.0), (10, 0.5), (20, 0.9)],
        "b": [(0, 0.0), (10, 0.0), (20, 0.0)],
    }
    steps = (0, 10, 20)
    for values in (sets, [report(m) for m in sets]):
        got = lines_of(plot(list(zip(steps, values, strict=True))))
        assert list(got) == list(wanted)
        for name, line in wanted.items():
            assert np.allclose(got[name], line)
        numbered = lines_of(plot(values))
        assert [step for step, _ in numbered["all"]] == [0, 1, 2]
    many = plot([resnet(), resnet()])
    assert len(many.axes[0].lines) == 162
    assert [t.get_text() for t in many.axes[0].get_legend().get_texts()] == [
        "all",
        "each of 161 arrays",
    ]


class Update:
    """What an update of a pruner may return."""

    def __init__(self, step, sparsity):
        self.step, self.sparsity = step, sparsity


def test_history_of_updates():
    pytest.importorskip("matplotlib")
    updates = [Update(0, 0.0), None, Update(20, 0.5), (30, None), (40, 0.75)]
    assert lines_of(plot(updates)) == {"all": [(0, 0.0), (20, 0.5), (40, 0.75)]}


def test_plot_errors(monkeypatch):
    pytest.importorskip("matplotlib")
    for bad in (None, 3, "abc", np.ones(3)):
        with pytest.raises(TypeError, match=r"^masks: got "):
            plot(bad)
    for bad in (["a"], [(0, "a")], [("a", 0.5)], [(0, 1, 2)]):
        with pytest.raises(TypeError, match=r"^masks_or_history\[0\]: got .*, wants "):
            plot(bad)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"ridgeline: .*pip install matplotlib"):
        plot(masks_of(w=0.5))


def test_pyplot_is_left_alone():
    pytest.importorskip("matplotlib")
    before = "matplotlib.pyplot" in sys.modules
    plot(masks_of(w=0.5))
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_report_needs_nothing_else(monkeypatch):
    for name in ("rich", "matplotlib", "matplotlib.figure", "scipy"):
        monkeypatch.setitem(sys.modules, name, None)
    made = report(masks_of(w=0.5))
    assert isinstance(made, Report)
    assert "50.00%" in str(made)
