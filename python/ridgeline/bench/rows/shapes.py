"""The sets of arrays that are measured: what `shapes.def` says, which the C++ suite includes."""

from __future__ import annotations

import re
from pathlib import Path

_LINE = re.compile(r'^(BYTES|LAYOUT|REPEAT)\("([^"]+)",([\d,\s]+)\)', re.MULTILINE)

BYTES: dict[str, int] = {}  # of the one array, of any dtype
SIZES: dict[str, tuple[int, ...]] = {}  # elements of each array

for _kind, _name, _numbers in _LINE.findall(Path(__file__).with_suffix(".def").read_text()):
    _sizes = tuple(map(int, _numbers.split(",")))
    if _kind == "BYTES":
        (BYTES[_name],) = _sizes
    else:
        SIZES[_name] = _sizes if _kind == "LAYOUT" else _sizes[1:] * _sizes[0]
