"""One step of each optimizer, in float64, one array after the other.

An element passes through, in this order: unscale, clip, the penalty's gradient (``prox=None``; with
``clip_after_penalty`` before the clip) and the coupled decay, moments, decoupled decay, step,
proximal operator, constraint, mask, moving average, store. Moments and the average are float64, or
rounded to float32 at each store, or 8-bit blocks. A penalty is one of :mod:`ridgeline.reference`, a
mask an array of bool, True for kept. Where a denominator is 0, nothing moves.

Besides the papers named below: Loshchilov & Hutter (2019) for decoupled decay, Yun, Lozano & Yang
(2021) for the preconditioned proximal step, Shazeer & Stern (2018) for ``max_update_rms``, Liang et
al. (2024) for ``cautious``, Dettmers et al. (2022) for the 8-bit moments.
"""

from ridgeline.reference.optimizers.codes import (
    BLOCK,
    Codes,
    codes_of,
    dequantize,
    dynamic_map,
    quantize,
)
from ridgeline.reference.optimizers.limits import Box, GlobalNorm, NonNegative, Norm, Value
from ridgeline.reference.optimizers.optimizer import Bools, Optimizer, Report, Settings, State
from ridgeline.reference.optimizers.proximal import prox, sorted_by_size
from ridgeline.reference.optimizers.rules import (
    FTRL,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    AdEMAMix,
    Lion,
    NAdam,
    RMSprop,
)
from ridgeline.reference.optimizers.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD

__all__ = [
    "BLOCK",
    "FTRL",
    "SGD",
    "AdEMAMix",
    "Adagrad",
    "Adam",
    "AdamW",
    "Bools",
    "Box",
    "Codes",
    "GlobalNorm",
    "Lion",
    "NAdam",
    "NonNegative",
    "Norm",
    "Optimizer",
    "RMSprop",
    "Report",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Settings",
    "State",
    "Value",
    "codes_of",
    "dequantize",
    "dynamic_map",
    "prox",
    "quantize",
    "sorted_by_size",
]
