"""The sets of arrays of the benchmark, against what is known of the models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ridgeline.bench.rows import shapes


def test_one_array_of_so_many_bytes():
    assert shapes.BYTES == {"16KiB": 16 * 2**10, "512KiB": 512 * 2**10, "64MiB": 64 * 2**20}


@pytest.mark.parametrize(
    ("name", "arrays", "elements"),
    [
        ("resnet50", 161, 25_557_032),  # torchvision's count
        ("gpt2", 148, 124_439_808),  # transformers' count
        ("1000x256", 1000, 256_000),
        ("embedding", 1, 64_000_000),
    ],
)
def test_sizes_of_a_model(name, arrays, elements):
    assert len(shapes.SIZES[name]) == arrays
    assert sum(shapes.SIZES[name]) == elements


def test_first_and_last_arrays():
    resnet50, gpt2 = shapes.SIZES["resnet50"], shapes.SIZES["gpt2"]
    assert resnet50[:3] == (64 * 3 * 7 * 7, 64, 64)
    assert resnet50[-2:] == (1000 * 2048, 1000)
    assert gpt2[:2] == (50257 * 768, 1024 * 768)
    assert gpt2[2:14] == gpt2[-14:-2], "blocks differ"
    assert gpt2[-2:] == (768, 768)
    assert set(shapes.SIZES["1000x256"]) == {256}


def test_every_line_is_read():
    text = Path(shapes.__file__).with_suffix(".def").read_text()
    entries = re.findall(r"^\w+\(", text, re.MULTILINE)
    assert len(entries) == len(shapes.BYTES) + len(shapes.SIZES)
