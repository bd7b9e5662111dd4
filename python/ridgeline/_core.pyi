from collections.abc import Sequence
from typing import Any

from ._typing import ArrayT

compiler: str
has_openmp: bool

class NonFiniteError(FloatingPointError):
    array: str | None

class RequiresGradError(RuntimeError, ValueError): ...

class FloatEnvironment:
    def __init__(self) -> None: ...
    def leave(self) -> None: ...

class Terms:
    def __init__(self) -> None: ...
    def add(self, kind: str, strength: float, shape: float, weights: Any) -> None: ...
    def extend(self, other: Terms) -> None: ...

def targets() -> list[str]: ...
def target() -> str: ...
def use_target(name: str) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def exchange_thread_limit(n: int) -> int: ...
def restore_thread_limit(n: int) -> None: ...
def nothing() -> None: ...
def reciprocal(x: float, /) -> float: ...
def memory_patterns() -> dict[str, float]: ...
def memory_pass(pattern: str, arrays: Sequence[Any], threads: int, passes: int) -> float: ...
def penalty_kinds() -> dict[str, str | None]: ...
def optimizer_kinds() -> dict[str, list[tuple[str, bool]]]: ...
def number(name: str, value: Any, /) -> float: ...
def reusable_tree(tree: Any, name: str = "params", writing: bool = False) -> Any: ...
def check_weights(weights: Any, /) -> None: ...
def penalty_value(terms: Terms, params: Any, /) -> float: ...
def penalty_add_gradient(terms: Terms, grads: Any, params: Any, /) -> float: ...
def penalty_prox_in_place(terms: Terms, params: Any, step: Any, /) -> None: ...
def penalty_prox(terms: Terms, x: ArrayT, step: Any, out: ArrayT | None, /) -> ArrayT: ...
def global_norm(arrays: Any, ord: Any, /) -> float: ...
def clip_by_value_(grads: Any, limit: Any, /) -> None: ...
def clip_by_norm_(grads: Any, max_norm: Any, ord: Any, /) -> list[float | None]: ...
def clip_by_global_norm_(grads: Any, max_norm: Any, ord: Any, on_nonfinite: Any, /) -> float: ...
def clip_by_rms_(grads: Any, max_rms: Any, /) -> list[float | None]: ...
def zero_largest_(grads: Any, count: Any, /) -> None: ...
def check_clip(grads: Any, max_norm: Any, ord: Any, on_nonfinite: Any, /) -> None: ...
def scale_(grads: Any, factor: float, /) -> None: ...
def set_zero_(grads: Any, /) -> None: ...
def first_nonfinite(grads: Any, /) -> str | None: ...
def check_torch_target(name: str, object: Any, /) -> bool: ...
def set_key_type(type: Any, /) -> None: ...
def fold_in(seed: int, data: int, /) -> int: ...
def split(seed: int, n: int, /) -> list[Any]: ...
def random_uniform(out: Any, key: Any, offset: Any, part: Any, /) -> None: ...
def random_normal(out: Any, key: Any, mean: Any, std: Any, offset: Any, part: Any, /) -> None: ...
def random_integers(out: Any, key: Any, low: int, span: int, offset: Any, part: Any, /) -> None: ...
def random_keep(
    words: Any, shape: list[int], p: Any, key: Any, offset: Any, part: Any, /
) -> None: ...
def dropout(
    x: ArrayT,
    p: Any,
    key: Any,
    offset: Any,
    axes: Any,
    shape: Any,
    index: Any,
    out: ArrayT | None,
    /,
) -> ArrayT: ...
def dropout_scaled(
    x: ArrayT,
    p: Any,
    key: Any,
    scale: float,
    offset: Any,
    axes: Any,
    shape: Any,
    index: Any,
    out: ArrayT | None,
    /,
) -> ArrayT: ...
def drop_connect(
    w: ArrayT,
    p: Any,
    key: Any,
    scale: bool,
    offset: Any,
    axes: Any,
    shape: Any,
    index: Any,
    out: ArrayT | None,
    /,
) -> ArrayT: ...
def dropout_add(
    x: ArrayT,
    residual: ArrayT,
    p: Any,
    key: Any,
    offset: Any,
    axes: Any,
    shape: Any,
    index: Any,
    out: ArrayT | None,
    /,
) -> ArrayT: ...
def alpha_dropout(
    x: ArrayT,
    p: Any,
    key: Any,
    offset: Any,
    axes: Any,
    shape: Any,
    index: Any,
    out: ArrayT | None,
    /,
) -> ArrayT: ...
def alpha_dropout_backward(
    dy: ArrayT,
    p: Any,
    key: Any,
    offset: Any,
    axes: Any,
    shape: Any,
    index: Any,
    out: ArrayT | None,
    /,
) -> ArrayT: ...
def gaussian_dropout(
    x: ArrayT,
    p: Any,
    key: Any,
    offset: Any,
    axes: Any,
    shape: Any,
    index: Any,
    out: ArrayT | None,
    /,
) -> ArrayT: ...
def gaussian_noise(
    x: ArrayT,
    std: Any,
    key: Any,
    offset: Any,
    axes: Any,
    shape: Any,
    index: Any,
    out: ArrayT | None,
    /,
) -> ArrayT: ...
def drop_block(
    x: ArrayT,
    p: Any,
    block: list[int],
    key: Any,
    edges: Any,
    per_channel: bool,
    out: ArrayT | None,
    /,
) -> ArrayT: ...
def zoneout(
    new: ArrayT,
    old: ArrayT,
    p: Any,
    key: Any,
    offset: Any,
    axes: Any,
    shape: Any,
    index: Any,
    out: ArrayT | None,
    /,
) -> ArrayT: ...
def zoneout_backward(
    dy: ArrayT, p: Any, key: Any, offset: Any, axes: Any, shape: Any, index: Any, /
) -> tuple[ArrayT, ArrayT]: ...
def apply_mask(params: Any, words: Any, shape: tuple[int, ...], /) -> None: ...
def masked(w: ArrayT, words: Any, shape: tuple[int, ...], out: ArrayT | None, /) -> ArrayT: ...
def check_outputs(
    name: str, tree: Any, other_name: str | None, other: Any, alike: bool, out: Any, /
) -> None: ...
def prune_saliency(w: ArrayT, g: Any, squared: bool, out: ArrayT | None, /) -> ArrayT: ...
def prune_magnitudes(g: ArrayT, out: ArrayT | None, /) -> ArrayT: ...
def prune_movement(scores: Any, w: Any, g: Any, lr: float, /) -> None: ...
def prune_wanda(w: ArrayT, x_norm: Any, out: ArrayT | None, /) -> ArrayT: ...
def apply_masks(
    names: list[str],
    trees: list[Any],
    words: list[Any],
    shapes: list[Any],
    holes: bool,
    tied: bool,
    /,
) -> None: ...
def random_shrink_(params: Any, strength: Any, key: Any, /) -> None: ...
def check_arrays(name: str, arrays: Any, /) -> None: ...
def start_pruning(
    name: str, tree: Any, /
) -> tuple[list[tuple[int, ...]], list[Any], list[int] | None]: ...
def prune_fraction(
    name: str, tree: Any, fraction: float, magnitude: bool, together: bool, /
) -> tuple[list[tuple[int, ...]], list[Any]] | None: ...
def count_bits(words: Any, /) -> list[int]: ...
def count_lost_bits(before: Any, after: Any, /) -> int: ...
def prune_rows(
    name: str,
    x: Any,
    length: int,
    counts: Any,
    words: Any,
    among: Any,
    magnitude: bool,
    /,
) -> None: ...
def prune_select(
    name: str,
    arrays: Any,
    count: int | list[int],
    words: Any,
    among: Any,
    divisors: list[float] | None,
    magnitude: bool,
    /,
) -> None: ...
def prune_random(
    arrays: Any, key: Any, first: int, count: int, words: Any, among: Any, /
) -> None: ...
def prune_histogram(
    name: str,
    arrays: Any,
    among: Any,
    divisors: list[float] | None,
    magnitude: bool,
    low: int,
    shift: int,
    bins: Any,
    /,
) -> int: ...
def prune_at_key(
    name: str,
    arrays: Any,
    words: Any,
    among: Any,
    divisors: list[float] | None,
    magnitude: bool,
    key: int,
    ties: int,
    /,
) -> None: ...
def prune_random_histogram(
    arrays: Any, key: Any, first: int, among: Any, low: int, shift: int, bins: Any, /
) -> int: ...
def prune_random_at_key(
    arrays: Any, key: Any, first: int, words: Any, among: Any, at: int, ties: int, /
) -> None: ...
def prune_n_of_m(
    name: str,
    x: Any,
    outer: int,
    length: int,
    inner: int,
    keep: int,
    size: int,
    magnitude: bool,
    among: Any,
    words: Any,
    /,
) -> None: ...
def prune_random_n_of_m(
    outer: int,
    length: int,
    inner: int,
    keep: int,
    size: int,
    key: Any,
    first: int,
    among: Any,
    words: Any,
    /,
) -> None: ...
def prune_block_powers(
    name: str, x: Any, block: list[int], ord: float, among: Any, largest: Any, scores: Any, /
) -> None: ...
def prune_spread(shape: list[int], block: list[int], blocks: Any, words: Any, /) -> None: ...
def prune_gather(shape: list[int], block: list[int], words: Any, blocks: Any, /) -> None: ...
def project_box(params: Any, low: float, high: float, /) -> None: ...
def widen(arrays: Any, out: Any, /) -> None: ...
def encode_states(x: Any, squares: bool, codes: Any, scales: Any, /) -> None: ...
def decode_states(codes: Any, scales: Any, squares: bool, x: Any, /) -> None: ...

class Memory:
    def __init__(self, bytes: int) -> None: ...

class Turn:
    def __enter__(self) -> None: ...
    def __exit__(self, kind: object, error: object, trace: object) -> None: ...

class OptimizerGroup:
    lr: float
    weight_decay: float
    coupled_decay: bool
    lr_independent_decay: bool
    betas: Any
    alpha: float
    eps: float
    momentum: float
    dampening: float
    nesterov: bool
    lr_decay: float
    momentum_decay: float
    beta: float
    l1: float
    l2: float
    slow_weight: float
    alpha_warmup: int
    beta3_warmup: int
    warmup_steps: int
    r: float
    weight_lr_power: float
    prox: str
    box: tuple[float, float]
    penalty: object

class Outcome:
    norm: float | None
    factors: list[float]
    skipped: bool
    first_nonfinite: str | None
    penalty: float
    updated: bool

class Optimizer:
    def __init__(
        self,
        *,
        kind: str,
        convention: str,
        state_types: list[str],
        accumulation_steps: int,
        params: Any,
        grouped: bool,
        sizes: list[int],
    ) -> None: ...
    steps: list[int]
    products: list[float]
    weight_sums: list[float]
    largest_rates: list[float]
    is_training: bool
    def move_weights(self, *, training: bool) -> None: ...
    count: int
    micro_step: int
    accumulated: list[bool]
    def attach_states(self, state: int, arrays: list[Any], scales: Any = None) -> None: ...
    def attach_masters(self, arrays: list[Any]) -> None: ...
    def attach_compensations(self, arrays: list[Any]) -> None: ...
    def attach_averages(self, arrays: list[Any]) -> None: ...
    def attach_sums(self, arrays: list[Any]) -> None: ...
    def attach_masks(self, arrays: list[Any]) -> None: ...
    def turn(self, *, reads: bool) -> Turn: ...
    def group(self, index: int) -> OptimizerGroup: ...
    def set_decay(self, factors: list[float]) -> None: ...
    def set_penalty_factors(self, factors: list[float]) -> None: ...
    def set_clip(
        self,
        kind: str,
        *,
        max_norm: float = 0.0,
        ord: float = 2.0,
        low: float = 0.0,
        high: float = 0.0,
    ) -> None: ...
    def set_clip_after_penalty(self, after: bool) -> None: ...
    def set_on_nonfinite(self, policy: str) -> None: ...
    def set_max_update_rms(self, rms: float | None) -> None: ...
    def set_cautious(self, cautious: bool) -> None: ...
    def set_rounding_key(self, key: Any) -> None: ...
    def set_average_decay(self, decay: float, *, warmup: bool) -> None: ...
    def step(
        self,
        grads: Any,
        *,
        task: str,
        flush: bool = False,
        scale: float = 1.0,
        lr: list[float] | None = None,
        weight_decay: list[float] | None = None,
        norm: float | None = None,
        on_nonfinite: str | None = None,
    ) -> Outcome: ...
