"""An optimizer's settings, groups and states as programs use them: changed, shared, copied, freed."""

from __future__ import annotations

import numpy as np
import pytest

import ridgeline as rl

# ---- what a failing setter leaves


def of_two_groups(kind=rl.SGD, **options):
    a, b = np.ones((2, 2)), np.ones((2, 2))
    return [a, b], kind([{"params": a}, {"params": b}], **options)


def decayed(opt, params):
    """The factors by which the weights decay in a step of zero gradients."""
    before = [p.copy() for p in params]
    opt.step([np.zeros_like(p) for p in params])
    return [1 - float((p / q).flat[0]) for p, q in zip(params, before, strict=True)]


class Stop(BaseException):
    """As KeyboardInterrupt is: no Exception."""


@pytest.mark.parametrize("of_one_group", [False, True])
@pytest.mark.parametrize("bad", [Stop, RuntimeError, "nan", -1.0, "x", None, 3])
def test_a_filter_that_fails_changes_nothing(bad, of_one_group):
    params, opt = of_two_groups(lr=0.5, weight_decay=0.5, decay_filter=lambda name, p: 0.5)
    old = opt.decay_filter
    seen = []

    def fails(name, param):
        seen.append(name)
        if isinstance(bad, type) and len(seen) == (1 if of_one_group else 2):
            raise bad("on purpose")
        return bad if isinstance(bad, str | float | None) else 2.0

    owner = opt.groups[1] if of_one_group else opt
    value = bad if bad == 3 else fails
    with pytest.raises((Stop, RuntimeError, TypeError, ValueError)):
        owner.decay_filter = value
    assert [group.decay_filter for group in opt.groups] == [old, old]
    assert decayed(opt, params) == [0.125, 0.125]
    owner.decay_filter = lambda name, p: 1
    assert decayed(opt, params) == [0.125 if of_one_group else 0.25, 0.25]


def test_a_filter_is_asked_once_for_each_array():
    _, opt = of_two_groups()
    seen = []

    def spy(name, param):
        seen.append(id(param))
        return True

    opt.decay_filter = spy
    assert len(seen) == len(set(seen)) == 2


@pytest.mark.parametrize(
    ("name", "bad"),
    [("lr", -1.0), ("momentum", 0.0), ("penalty", 3), ("constraint", 1), ("nesterov", 1)],
)
def test_a_refused_number_changes_no_group(name, bad):
    groups = [{"params": np.ones(2), "lr": 0.1}, {"params": np.ones(3), "nesterov": True}]
    opt = rl.SGD(groups, momentum=0.9)
    before = [repr(group) for group in opt.groups]
    with pytest.raises((TypeError, ValueError), match=f"^{name}|^nesterov"):
        setattr(opt, name, bad)
    with pytest.raises((TypeError, ValueError), match=f"^{name}|^nesterov"):
        setattr(opt.groups[1], name, bad)
    assert [repr(group) for group in opt.groups] == before
