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
