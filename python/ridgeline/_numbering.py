"""The index in a random stream of each element of a part of an array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from types import EllipsisType
from typing import TypeAlias

from . import _checks as check

Index: TypeAlias = "slice | int | EllipsisType | tuple[slice | int | EllipsisType, ...]"
# The index of the first element, and a stride for each axis.
Part: TypeAlias = tuple[int, tuple[int, ...]]


def axes_of(axes: object, ndim: int) -> tuple[int, ...]:
    """Return broadcast_axes as a tuple of axes in [0, ndim)."""
    items = list(axes) if isinstance(axes, Sequence) else [axes]
    result = []
    for item in items:
        axis = check.integer("broadcast_axes", item)
        if not -ndim <= axis < ndim:
            raise ValueError(f"broadcast_axes: got {axis}, wants axes of {ndim} dimensions")
        result.append(axis % ndim)
    if len(set(result)) < len(result):
        raise ValueError(f"broadcast_axes: got {tuple(items)}, wants each axis once")
    return tuple(result)


def _strides(shape: tuple[int, ...], shared: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of indices in C order over the axes that are not shared."""
    strides = [0] * len(shape)
    step = 1
    for axis in reversed(range(len(shape))):
        if axis not in shared:
            strides[axis] = step
            step *= shape[axis]
    return tuple(strides)


@lru_cache(maxsize=256)
def shared_part(shape: tuple[int, ...], axes: tuple[int, ...]) -> Part:
    """Return the part that a whole array is, if elements along `axes` share their number."""
    return 0, _strides(shape, axes)


def _ranges(whole: tuple[int, ...], index: object) -> list[range | int]:
    """Return for each axis of the whole the range that `index` takes, or one place."""
    items = list(index) if isinstance(index, tuple) else [index]
    gaps = [i for i, item in enumerate(items) if item is Ellipsis]
    if len(gaps) > 1:
        raise ValueError("index: got more than one Ellipsis, wants at most one")
    missing = len(whole) - len(items) + len(gaps)
    if missing < 0:
        raise ValueError(f"index: got {len(items)} entries, wants at most {len(whole)}")
    at = gaps[0] if gaps else len(items)
    items[at : at + len(gaps)] = [slice(None)] * missing
    ranges: list[range | int] = []
    for axis, (item, extent) in enumerate(zip(items, whole, strict=True)):
        if isinstance(item, slice):
            try:
                ranges.append(range(*item.indices(extent)))
            except (TypeError, ValueError) as error:
                raise type(error)(f"index: got {item} on axis {axis}: {error}") from None
        elif hasattr(item, "__index__"):
            place = check.integer("index", item)
            if not -extent <= place < extent:
                raise ValueError(f"index: got {place} on axis {axis}, wants one of {extent} places")
            ranges.append(place % extent)
        else:
            raise TypeError(
                f"index: got {type(item).__name__}, wants slices, integers and at most one Ellipsis"
            )
    return ranges


def part_of(
    whole: tuple[int, ...], index: object, shared: tuple[int, ...] = ()
) -> tuple[Part, tuple[int, ...]]:
    """Return the part that ``array[index]`` is of an array of shape `whole`, and its shape."""
    first = 0
    strides = []
    shape = []
    for taken, stride in zip(_ranges(whole, index), _strides(whole, shared), strict=True):
        if isinstance(taken, int):
            first += taken * stride
            continue
        first += (taken.start if len(taken) else 0) * stride
        strides.append(taken.step * stride)
        shape.append(len(taken))
    if math.prod(whole) >= 2**63:
        raise ValueError(f"shape: got {whole}, wants fewer than 2**63 elements")
    return (first, tuple(strides)), tuple(shape)


def part_like(
    name: str, own: tuple[int, ...], axes: int | Sequence[int], whole: object, index: object
) -> Part | None:
    """Return the part that an argument of shape `own` is; None for all of an array."""
    if whole is None and index is None:
        if isinstance(axes, tuple) and not axes:
            return None
        return shared_part(own, axes_of(axes, len(own)))
    if whole is None:
        raise ValueError(f"shape: got None, wants that of the whole of which {name} is a part")
    extents = check.shape("shape", whole)
    shared = axes_of(axes, len(extents))
    part, shape = part_of(extents, ... if index is None else index, shared)
    if shared and len(shape) < len(extents):
        raise ValueError("index: got an integer, wants slices where broadcast_axes count the axes")
    if shape != own:
        raise ValueError(f"{name}: got shape {own}, wants {shape}, that of the part `index` takes")
    return part
