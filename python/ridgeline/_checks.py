"""Checks of arguments, each with one wording: ``name: got ..., wants ...``.

A check takes the name of an argument and its value, and returns the value in the type that the
package computes with. `one_of`, `instance` and `optional` make checks.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import numpy as np

from . import _core

Check: TypeAlias = "Callable[[str, Any], Any]"


def type_of(value: object) -> str:
    """Return the name of a value's type."""
    return type(value).__name__


def number(
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    wants: str = "a finite number",
) -> float:
    """Return a finite number in [low, high] as float.

    Examples
    --------
    >>> number("eps", -1, low=0, wants="a finite number of at least 0")
    Traceback (most recent call last):
    ValueError: eps: got -1, wants a finite number of at least 0
    """
    result = _core.number(name, value)
    if not (low <= result <= high and math.isfinite(result)):
        raise ValueError(f"{name}: got {repr(result).removesuffix('.0')}, wants {wants}")
    return result


def any_finite(name: str, value: object) -> float:
    """Return a finite number."""
    return number(name, value)


def non_negative(name: str, value: object) -> float:
    """Return a finite number of at least 0."""
    return number(name, value, 0, wants="a finite number of at least 0")


def above(name: str, value: object, bound: float) -> float:
    """Return a finite number above a bound."""
    low = math.nextafter(bound, math.inf)
    return number(name, value, low, wants=f"a finite number above {bound:g}")


def positive(name: str, value: object) -> float:
    """Return a finite number above 0."""
    return above(name, value, 0)


def fraction(name: str, value: object) -> float:
    """Return a number in [0, 1]."""
    return number(name, value, 0, 1, "a fraction in [0, 1]")


def decay(name: str, value: object) -> float:
    """Return a number in [0, 1)."""
    return number(name, value, 0, math.nextafter(1, 0), "a number in [0, 1)")


def integer(name: str, value: object, least: int | None = None) -> int:
    """Return an integer: no bool, no float."""
    if type(value) is int:
        result = value
    else:
        try:
            if isinstance(value, bool | np.bool_):
                raise TypeError
            result = operator.index(cast("int", value))
        except TypeError:
            raise TypeError(f"{name}: got {type_of(value)}, wants an integer") from None
    if least is not None and result < least:
        raise ValueError(f"{name}: got {result}, wants an integer of at least {least}")
    return result


def shape(name: str, value: object) -> tuple[int, ...]:
    """Return a shape as a tuple."""
    if type(value) is tuple and all(type(n) is int and n >= 0 for n in value):
        return value
    items = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    extents = tuple(integer(name, n) for n in items)
    if any(n < 0 for n in extents):
        raise ValueError(f"{name}: got {extents}, wants extents of at least 0")
    return extents


def flag(name: str, value: object) -> bool:
    """Return True or False, which NumPy's bools may be."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: got {type_of(value)}, wants True or False")
    return bool(value)


def function(name: str, value: Any, wants: str = "a function") -> Any:
    """Return a callable."""
    if not callable(value):
        raise TypeError(f"{name}: got {type_of(value)}, wants {wants}")
    return value


def one_of(*choices: str | None) -> Check:
    """Return the check of a choice of strings, or of None.

    Examples
    --------
    >>> one_of("skip", "raise", None)("on_nonfinite", "stop")
    Traceback (most recent call last):
    ValueError: on_nonfinite: got 'stop', wants 'skip', 'raise' or None
    """
    *most, last = map(repr, choices)
    wants = f"{', '.join(most)} or {last}" if most else last
    kinds = set(map(type, choices))

    def check(name: str, value: Any) -> Any:
        if type(value) in kinds and value in choices:
            return value
        raise ValueError(f"{name}: got {value!r}, wants {wants}")

    return check


def instance(*types: type, wants: str) -> Check:
    """Return the check of an object of some types.

    Examples
    --------
    >>> instance(dict, wants="a dict of states")("state", [])
    Traceback (most recent call last):
    TypeError: state: got list, wants a dict of states
    """

    def check(name: str, value: Any) -> Any:
        if isinstance(value, types):
            return value
        raise TypeError(f"{name}: got {type_of(value)}, wants {wants}")

    return check


def optional(check: Check) -> Check:
    """Return a check that also takes None."""
    return lambda name, value: None if value is None else check(name, value)
