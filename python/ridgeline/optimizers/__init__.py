"""Optimizers: the regularized step in one pass over memory.

One call does everything for every parameter: unscale the gradient, check it for non-finite values,
clip, add the penalty's gradient, update the moments, decay, step, apply the proximal operator, the
mask and the constraint, average, and round to the parameter's dtype. Each element's data is read
once and written once; if a norm is needed, the gradients are read once beforehand::

    opt = rl.AdamW(params, lr=1e-3, weight_decay=1e-2, clip=rl.GlobalNorm(1.0),
                   penalty=rl.L1(1e-6), prox="plain")
    for batch in data:
        report = opt.step(gradients(params, batch))

``params`` is one array, or a list, tuple, dict (nested) or iterable of arrays, pairs of names and
arrays as from ``model.named_parameters()``, or a list of groups (dicts with ``"params"`` and the
hyperparameters that differ). ``grads`` has the same structure; None stands for a missing gradient
and leaves that parameter unchanged. Results are bit-identical for every thread count, instruction
set and memory layout.
"""

from .filters import decay_filter_for, skip_biases_and_norms
from .group import Group
from .optimizer import Optimizer
from .rules import (
    FTRL,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    AdEMAMix,
    Lion,
    NAdam,
    RMSprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
)
from .saving import LoadReport
from .steps import StepReport

__all__ = [
    "FTRL",
    "SGD",
    "AdEMAMix",
    "Adagrad",
    "Adam",
    "AdamW",
    "Group",
    "Lion",
    "LoadReport",
    "NAdam",
    "Optimizer",
    "RMSprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "StepReport",
    "decay_filter_for",
    "skip_biases_and_norms",
]
