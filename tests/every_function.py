"""A call of every public function that computes, for tests of what holds for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from helpers import is_half

import ridgeline as rl
from ridgeline.prune import budget, export, scores, structures

KEY = rl.Key(7)
INPUT_NORMS = np.linspace(1e-39, 1, 24) * 1.1


def inputs(n: int, dtype: np.dtype, strided: bool = False) -> dict[str, Any]:
    """Weights and gradients: of ordinary size, and around the smallest normal number."""
    rng = np.random.default_rng(3)
    smallest = float(np.finfo("f8" if dtype == np.float64 else "f4").tiny)
    if np.dtype(dtype).name == "float16":
        smallest = float(np.finfo("f2").tiny)

    def make(*shape: int) -> Any:
        x = rng.standard_normal((*shape[:-1], 2 * shape[-1] if strided else shape[-1]))
        x[:, ::4] *= smallest
        x = x.astype(dtype)
        return x[..., ::2] if strided else x

    columns = n // 8
    return {name: [make(8, columns), make(3, 24)] for name in ("w", "g", "v")}


def _optimizers(dtype: np.dtype) -> dict[str, Callable[[Any], Any]]:
    made: dict[str, Callable[[Any], Any]] = {
        "SGD": lambda w: rl.SGD(w, lr=0.1, penalty=rl.L1(0.3)),
        "momentum": lambda w: rl.SGD(w, lr=0.1, momentum=0.9, weight_decay=1e-3),
        "Adam": lambda w: rl.Adam(w, lr=0.1, clip=rl.GlobalNorm(0.5)),
        "AdamW": lambda w: rl.AdamW(w, lr=0.1, max_update_rms=0.1),
        "AdamW bfloat16": lambda w: rl.AdamW(w, lr=0.1, state_dtype="bfloat16"),
        "AdamW 8bit": lambda w: rl.AdamW(w, lr=0.1, state_dtype="8bit"),
        "NAdam": lambda w: rl.NAdam(w, lr=0.1, clip=rl.Norm(0.5, 3)),
        "RMSprop": lambda w: rl.RMSprop(w, lr=0.1, penalty=rl.LogSum(0.3, 0.7), prox="plain"),
        "Adagrad": lambda w: rl.Adagrad(w, lr=0.1, penalty=rl.SCAD(0.3)),
        "Lion": lambda w: rl.Lion(w, lr=0.1, clip=rl.Value(0.5)),
        "FTRL": lambda w: rl.FTRL(w, lr=0.1, l1=0.1),
        "AdEMAMix": lambda w: rl.AdEMAMix(w, lr=0.1, beta3_warmup=2, cautious=True),
        "ScheduleFreeSGD": lambda w: rl.ScheduleFreeSGD(w, lr=0.1, warmup_steps=2),
        "ScheduleFreeAdamW": lambda w: rl.ScheduleFreeAdamW(w, lr=0.1, r=0.5),
        "ema": lambda w: rl.SGD(w, lr=0.1, ema=0.9),
        "accumulation": lambda w: rl.SGD(w, lr=0.1, accumulation_steps=3, clip=rl.GlobalNorm(0.5)),
    }
    if np.dtype(dtype) == np.float64:
        del made["AdamW bfloat16"], made["AdamW 8bit"]
    if is_half(dtype):
        made["master"] = lambda w: rl.SGD(w, lr=0.1, master_weights=True)
        made["kahan"] = lambda w: rl.SGD(w, lr=0.1, kahan=True)
        made["stochastic"] = lambda w: rl.SGD(w, lr=0.1, stochastic_rounding=KEY)
    return made


def _steps(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def call(x: Any) -> Any:
        opt = make(x["w"])
        results = [opt.step(x["g"], loss_scale=3.0).norm for _ in range(3)]
        return [results, x["w"], opt.state_dict()]

    return call


def _in_place(function: Callable[[Any], Any], written: str) -> Callable[[Any], Any]:
    return lambda x: [function(x), x[written]]


PENALTIES = [
    rl.L0(0.3),
    rl.L1(0.3),
    rl.L2(0.3),
    rl.L2(1e-310),
    rl.ElasticNet(0.3, 1e-3),
    rl.MCP(0.3),
    rl.SCAD(0.3),
    rl.LogSum(0.3, 0.7),
    rl.LHalf(0.3),
    rl.Huber(0.3, 0.7),
    rl.CappedL1(0.3, 0.7),
    rl.SCAD(0.3) + rl.L2(0.1),
]


def calls(dtype: np.dtype) -> dict[str, Callable[[dict[str, Any]], Any]]:
    """What to call with `inputs`; the result is all that it returns and writes."""
    made: dict[str, Callable[[Any], Any]] = {}
    for order in (1, 2, 3, 2.5, np.inf):
        made[f"global_norm {order}"] = lambda x, p=order: [
            rl.global_norm(x["w"], p),
            rl.global_norm([np.where(np.abs(a) < 1e-3, a, a * 0) for a in x["w"]], p),
        ]
        made[f"clip_by_norm_ {order}"] = _in_place(
            lambda x, p=order: rl.clip_by_norm_(x["g"], 1e-3, p), "g"
        )
        made[f"clip_by_global_norm_ {order}"] = _in_place(
            lambda x, p=order: rl.clip_by_global_norm_(x["g"], 0.7, p), "g"
        )
    made["clip_by_rms_"] = _in_place(lambda x: rl.clip_by_rms_(x["g"], 1e-3), "g")
    made["clip_by_value_"] = _in_place(lambda x: rl.clip_by_value_(x["g"], 1e-3), "g")
    made["zero_largest_"] = _in_place(lambda x: rl.zero_largest_(x["g"], 70), "g")
    made["zero_largest_ few"] = _in_place(lambda x: rl.zero_largest_(x["g"], 2), "g")
    made["Box"] = _in_place(lambda x: rl.Box(-0.1, 1e-39).project_(x["w"]), "w")
    made["NonNegative"] = _in_place(lambda x: rl.NonNegative().project_(x["w"]), "w")
    for i, penalty in enumerate(PENALTIES):
        made[f"value {i}"] = lambda x, p=penalty: p.value(x["w"])
        if not isinstance(penalty, rl.L0):
            made[f"add_gradient_ {i}"] = _in_place(
                lambda x, p=penalty: p.add_gradient_(x["g"], x["w"]), "g"
            )
        made[f"prox {i}"] = lambda x, p=penalty: p.prox(x["w"][0], 0.3)
        made[f"prox_ {i}"] = _in_place(lambda x, p=penalty: p.prox_(x["w"], 0.3), "w")
    made["weights"] = _in_place(
        lambda x: rl.L1(0.3, weights=[np.abs(g) for g in x["g"]]).prox_(x["w"], 0.3), "w"
    )
    made["strength_from_loss"] = lambda x: rl.penalties.strength_from_loss(0.3, 7)

    a = {"key": KEY}
    made |= {
        "dropout": lambda x: rl.dropout(x["w"][0], 0.3, **a),
        "dropout 0.9": lambda x: rl.dropout(x["w"][0], 0.9, **a),
        "dropout_mask": lambda x: rl.dropout_mask(x["w"][0].shape, 0.3, **a),
        "dropout_add": lambda x: rl.dropout_add(x["w"][0], x["g"][0], 0.3, **a),
        "alpha_dropout": lambda x: rl.alpha_dropout(x["w"][0], 0.3, **a),
        "alpha_dropout_backward": lambda x: rl.alpha_dropout_backward(x["w"][0], 0.3, **a),
        "feature_alpha_dropout": lambda x: rl.feature_alpha_dropout(x["w"][0], 0.3, **a),
        "feature_alpha_dropout_backward": lambda x: rl.feature_alpha_dropout_backward(
            x["w"][0], 0.3, **a
        ),
        "gaussian_dropout": lambda x: rl.gaussian_dropout(x["w"][0], 0.3, **a),
        "gaussian_noise": lambda x: rl.gaussian_noise(x["w"][0], 0.3, **a),
        "gaussian_noise tiny": lambda x: rl.gaussian_noise(x["w"][0], 1e-40, **a),
        "drop_connect": lambda x: rl.drop_connect(x["w"][0], 0.3, **a),
        "drop_path": lambda x: rl.drop_path(x["w"][0], 0.3, **a),
        "drop_block": lambda x: rl.drop_block(
            np.ascontiguousarray(x["w"][1]).reshape(1, 2, 6, 6), 0.3, 3, **a
        ),
        "zoneout": lambda x: rl.zoneout(x["w"][0], x["g"][0], 0.3, **a),
        "zoneout_backward": lambda x: list(rl.zoneout_backward(x["w"][0], 0.3, **a)),
        "token_dropout": lambda x: rl.token_dropout(x["w"][0], 0.3, **a),
        "patch_dropout": lambda x: rl.patch_dropout(x["w"][0][None], 0.3, **a),
        "uniform": lambda x: rl.random.uniform(1000, KEY, dtype=dtype),
        "normal": lambda x: rl.random.normal(1000, KEY, mean=0.1, std=0.3, dtype=dtype),
        "bernoulli": lambda x: rl.random.bernoulli(1000, KEY, 0.3),
        "integers": lambda x: rl.random.integers(1000, KEY, 0, 10),
        "Key": lambda x: [np.uint64(k.seed) for k in (KEY.fold_in(3), *KEY.split(3))],
    }

    def pruned(masks: Any) -> Any:
        return masks.to_array()

    kept = lambda x: rl.MaskSet.from_array([np.abs(g) > 0.1 for g in x["g"]])  # noqa: E731
    prune = rl.prune
    made |= {
        "magnitude": lambda x: pruned(prune.magnitude(x["w"], 0.55)),
        "magnitude global": lambda x: pruned(
            prune.magnitude(x["w"], 0.3, scope="global", normalize="l2", mask=kept(x))
        ),
        "magnitude rms": lambda x: pruned(
            prune.magnitude(x["w"], 0.55, scope="global", normalize="rms")
        ),
        "magnitude of tiny": lambda x: pruned(
            prune.magnitude(
                [np.where(np.abs(a) < 1e-3, a, a * 0) for a in x["w"]],
                0.7,
                scope="global",
                normalize="l2",
            )
        ),
        "bounds": lambda x: pruned(
            prune.magnitude(x["w"], 0.55, scope="global", min_sparsity=0.3, max_sparsity=0.9)
        ),
        "by_score": lambda x: pruned(prune.by_score(x["w"], 0.55)),
        "by_score per_row": lambda x: pruned(prune.by_score(x["w"], 0.55, per_row=True)),
        "random": lambda x: pruned(prune.random(x["w"], 0.55, KEY)),
        "NM": lambda x: pruned(prune.magnitude(x["w"], structure=structures.NM(2, 4))),
        "Block": lambda x: pruned(prune.magnitude(x["w"], 0.4, structure=prune.Block((1, 3)))),
        "Channels": lambda x: pruned(prune.magnitude(x["w"], 0.4, structure=prune.columns(3))),
        "random_shrink_": _in_place(lambda x: prune.random_shrink_(x["w"], 0.3, KEY), "w"),
        "apply_": _in_place(lambda x: kept(x).apply_(x["w"]), "w"),
        "taylor": lambda x: scores.taylor(x["w"], x["g"]),
        "taylor squared": lambda x: scores.taylor(x["w"], x["g"], squared=True),
        "snip": lambda x: scores.snip(x["w"], x["g"], normalize=True),
        "gradient": lambda x: scores.gradient(x["g"]),
        "movement_": _in_place(lambda x: scores.movement_(x["v"], x["w"], x["g"], 0.3), "v"),
        "wanda": lambda x: scores.wanda(x["w"][1], INPUT_NORMS),
        "lamp": lambda x: scores.lamp(x["w"]),
        "budget": lambda x: [
            *budget.uniform(x["w"], 0.7),
            *budget.erk(x["w"], 0.7),
        ],
        "schedule": lambda x: [
            prune.CubicSchedule(final=0.9, begin=10, end=90)(step) for step in (0, 10, 33, 71, 90)
        ],
        "report": lambda x: prune.report(kept(x), x["w"]).sparsity,
        "pack_nm": lambda x: export.pack_nm(
            x["w"][1], prune.magnitude(x["w"][1], structure=structures.NM(2, 4))
        ).unpack()[0],
    }

    def trained(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(x: Any) -> Any:
            training = make(x["w"])
            for _ in range(4):
                training.step(**({"grads": x["g"]} if isinstance(training, prune.RigL) else {}))
            return [training.masks.to_array(), x["w"]]

        return call

    schedule = prune.LinearSchedule(final=0.8, begin=0, end=3, every=1)
    made["Pruner"] = trained(lambda w: prune.Pruner(w, schedule))
    made["SET"] = trained(lambda w: prune.SET(w, 0.7, KEY, every=1))
    made["RigL"] = trained(lambda w: prune.RigL(w, 0.7, KEY, every=1, end=3))
    for name, make in _optimizers(dtype).items():
        made[f"step {name}"] = _steps(make)
    return made


def fresh(x: dict[str, Any]) -> dict[str, Any]:
    """Copies of the same layout."""

    def again(a: Any) -> Any:
        if a.flags.c_contiguous:
            return a.copy()
        whole = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
        whole[..., ::2] = a
        return whole[..., ::2]

    return {name: [again(a) for a in arrays] for name, arrays in x.items()}
