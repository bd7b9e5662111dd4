"""Lines of a user's program that type checkers accept."""

import numpy as np
import numpy.typing as npt

import ridgeline as rl

Array = npt.NDArray[np.float32]

w: Array = np.ones((4, 8), np.float32)
g: Array = np.ones((4, 8), np.float32)
params = {"block": [w, w], "head": w}
grads: list[Array | None] = [g, None]
key = rl.Key(0)

norm: float = rl.global_norm(params)
total: float = rl.clip_by_global_norm_(grads, 1.0, on_nonfinite="skip")
each: list[float | None] = rl.clip_by_norm_(grads, 1.0)
rl.clip_by_value_(g, (-1.0, 1.0))

penalty: rl.Penalty = rl.L1(1e-3) + rl.L2(1e-4)
value: float = penalty.add_gradient_(grads, [w, w])
penalty.prox_(params, 0.1)
shrunk: Array = penalty.prox(w, 0.1)
rl.Box(-1.0, 1.0).project_(params)

noise: npt.NDArray[np.float64] = rl.random.normal((4, 8), key, std=2.0, dtype="float64")
filled: Array = rl.random.uniform((4, 8), key, out=w)
dropped: Array = rl.dropout(w, 0.5, key)

one: rl.Mask = rl.prune.magnitude(w, 0.5)
many: rl.MaskSet = rl.prune.magnitude([w, w], 0.5, scope="global", exclude="*.bias")
scored: rl.MaskSet = rl.prune.by_score(params, 0.5, per_row=True)
drawn: rl.Mask = rl.prune.random(w, 0.5, key, structure=rl.prune.Block((2, 2)))
two_of_four: rl.Mask = rl.prune.magnitude(w, structure=rl.prune.NM(2, 4))
budget = rl.prune.budget.erk(params, 0.9)
again: rl.MaskSet = rl.prune.magnitude(params, budget, mask=many, of="remaining")
masked: Array = one.apply(w)
many.apply_([w, w])

schedule = rl.prune.CubicSchedule(0.9, begin=0, end=100)
pruner = rl.prune.Pruner(params, schedule, normalize="rms", scope="global")
pruned: int = pruner.step().pruned
sparse = rl.prune.RigL([w, w], 0.9, key, end=100)
grown: int = sparse.step(grads=grads).grown

opt = rl.AdamW(params, 1e-3, (0.9, 0.99), eps=1e-6, clip=rl.GlobalNorm(1.0), ema=0.99)
report: rl.optimizers.StepReport = opt.step({"block": [g, None], "head": g}, lr=1e-4)
norm_then: float | None = report.norm
opt.lr = lambda step: 0.1 / (1 + step)
opt.weight_decay = 0.1
rl.AdamW(w, lr_independent_decay=True, state_dtype="8bit", min_8bit_size=4096)
eps: float = opt.eps
opt.groups[0]["name"] = "all"
opt.groups[0].lr = 0.5
opt.add_group([w], lr=0.1)
opt.set_mask(None)
missing: list[str] = opt.load_state_dict(opt.state_dict(), strict=False).missing_keys
groups = rl.SGD([{"params": [w], "lr": 0.1}, {"params": w}], momentum=0.9, prox="plain")
named = rl.Lion([("w", w)], decay_filter=lambda name, array: 0.5, stochastic_rounding=key)
free = rl.ScheduleFreeSGD(w, momentum=0.9, warmup_steps=10)
free.eval_()
mixed = rl.AdEMAMix(w, betas=(0.9, 0.99, 0.999), cautious=True, accumulation_steps=4)
flushed: bool = mixed.flush().updated
follow = rl.FTRL(w, l1=0.1, penalty=rl.L2(0.1), on_nonfinite="skip")
