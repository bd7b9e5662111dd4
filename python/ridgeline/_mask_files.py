"""Files of masks.

A file of masks is a ``.npz`` or a ``.safetensors`` file with an array of uint64 for each mask: bit
``i % 64`` of word ``i // 64`` says whether element i, in C order, is kept; bits beyond the last
element are 0. The arrays have the names of `MaskSet.flat`, that of a single mask is ``words``;
``#3`` where a file cannot hold the name. ``ridgeline`` is a JSON text, as bytes in an array, or in
the metadata of safetensors: ``{"version": 1, "masks": ...}``. There a mask is
``{"mask": name of its array, "shape": [...]}``, a list ``{"values": [...]}`` and a dict
``{"keys": [...], "values": [...]}``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import numpy as np

from . import _checks as check
from ._bits import Words
from ._files import file_names, reading, save_arrays
from ._tree import is_container, leaves, paths

_VERSION = 1


def save_masks(file: str | PathLike[str], masks: Any) -> None:
    """Write a mask, or a tree of masks, to a file."""
    names = file_names(paths(masks) if is_container(masks) else ["words"])
    arrays = {name: mask._words for name, mask in zip(names, leaves(masks), strict=True)}
    rest = iter(names)

    def layout(node: Any) -> dict[str, Any]:
        if not is_container(node):
            return {"mask": next(rest), "shape": node.shape}
        if not isinstance(node, Mapping):
            return {"values": [layout(child) for child in node]}
        for key in node:
            if type(key) not in (str, int):
                raise TypeError(f"masks: got the key {key!r}, wants strings or integers in a file")
        values = [layout(child) for child in node.values()]
        return {"keys": list(node), "values": values}

    text = json.dumps({"version": _VERSION, "masks": layout(masks)})
    save_arrays(file, arrays, text)


def load_masks(file: str | PathLike[str], mask_of: Callable[[tuple[int, ...], Words], Any]) -> Any:
    """Read a mask from a file, or lists and dicts of masks, which `mask_of` makes of words."""
    with reading(file) as (_, read, text):
        if text is None:
            raise KeyError("ridgeline")
        described = json.loads(text)
        if described["version"] != _VERSION:
            raise ValueError(f"got version {described['version']!r}, wants {_VERSION}")
        return _built(described["masks"], read, mask_of)


def _built(node: Any, read: Callable[[str], Any], mask_of: Callable[..., Any]) -> Any:
    if "mask" in node:
        name, shape = node["mask"], check.shape("shape", node["shape"])
        size = math.prod(shape)
        words = read(name)
        if words.dtype != np.uint64 or words.shape != ((size + 63) // 64,):
            raise ValueError(
                f"got {words.dtype} words of shape {words.shape} for {name!r}, "
                f"wants uint64 words of {size} bits"
            )
        if size % 64 and int(words[-1]) >> size % 64:
            raise ValueError(f"got bits beyond the last element in {name!r}, wants zeros")
        return mask_of(shape, words)
    values = [_built(child, read, mask_of) for child in node["values"]]
    if "keys" not in node:
        return values
    keys = node["keys"]
    if any(type(key) not in (str, int) for key in keys) or len(set(keys)) < len(keys):
        raise ValueError("got keys that are not distinct strings or integers")
    return dict(zip(keys, values, strict=True))
