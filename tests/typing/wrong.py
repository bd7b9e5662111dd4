"""Lines of a user's program of which each that is marked has an error."""

import numpy as np
import numpy.typing as npt

import ridgeline as rl

Array = npt.NDArray[np.float32]

w: Array = np.ones((4, 8), np.float32)
g: Array = np.ones((4, 8), np.float32)
key = rl.Key(0)
schedule = rl.prune.CubicSchedule(0.9, begin=0, end=100)

norm: str = rl.global_norm(w)  # error
rl.global_norm(3.0)  # error
rl.clip_by_global_norm_(g)  # error
rl.clip_by_global_norm_(g, "1")  # error
rl.clip_by_global_norm_(g, 1.0, on_nonfinite="stop")  # error
rl.clip_by_global_norm_(g, 1.0, comm=3)  # error
rl.clip_by_value_(g, (1.0,))  # error
rl.clip_by_norm_(g, max=1.0)  # error

rl.L1("strong")  # error
rl.L1(0.1) + 2  # error
rl.MCP(0.1, beta=3.0)  # error
rl.L1(0.1).prox_(w)  # error
rl.L2(0.1).add_gradient_(g)  # error
rl.Box(-1.0)  # error

rl.random.normal((4, 8), 3)  # error
rl.random.normal((4, 8), key, sigma=2.0)  # error
rl.random.uniform("4", key)  # error
noise: int = rl.random.uniform(4, key)  # error
rl.random.uniform(4, key, out=3)  # error
rl.dropout(w, 0.5)  # error
rl.dropout(w, "half", key)  # error

one: rl.MaskSet = rl.prune.magnitude(w, 0.5)  # error
many: rl.Mask = rl.prune.magnitude([w, w], 0.5)  # error
rl.prune.magnitude(w, 0.5, scope="all")  # error
rl.prune.magnitude(w, 0.5, nonsense=3)  # error
rl.prune.magnitude(3.0, 0.5)  # error
rl.prune.magnitude(w, 0.5, structure="2:4")  # error
rl.prune.by_score(w, 0.5, per_row="yes")  # error
rl.prune.random(w, 0.5, 3)  # error
rl.prune.random(w, 0.5, key, normalize="rms")  # error
rl.prune.magnitude(w, 0.5).apply(3)  # error
rl.prune.CubicSchedule(0.9, start=0, end=100)  # error
rl.prune.Pruner(w, schedule, method="largest")  # error
rl.prune.Pruner(w, schedule).step(grads=g)  # error
rl.prune.RigL(w, 0.9, key)  # error
rl.prune.SET(w, 0.9, 3)  # error
rl.prune.Block("4")  # error

rl.AdamW()  # error
rl.AdamW(w, learning_rate=1)  # error
rl.AdamW(w, clip=1.0)  # error
rl.AdamW(w, nonsense=3)  # error
rl.AdamW(3.0)  # error
rl.AdamW(w, lr="fast")  # error
rl.AdamW(w, betas=0.9)  # error
rl.AdamW(w, 1e-3, (0.9, 0.99), 1e-8, 0.0, False, rl.Value(1.0))  # error
rl.AdamW(w, penalty=0.1)  # error
rl.AdamW(w, prox="proximal")  # error
rl.AdamW(w, constraint=(-1, 1))  # error
rl.AdamW(w, convention="jax")  # error
rl.AdamW(w, on_nonfinite="stop")  # error
rl.AdamW(w, decay_filter=0.5)  # error
rl.AdamW(w, min_8bit_size="4096")  # error
rl.AdamW(w, lr_independent_decay="yes")  # error
rl.AdamW(w, ema="yes")  # error
rl.AdamW(w, accumulation_steps=1.5)  # error
rl.AdamW(w, cautious=1.5)  # error
rl.AdEMAMix(w, betas=(0.9, 0.99))  # error
rl.FTRL(w, prox="plain")  # error
rl.FTRL(w, max_update_rms=1.0)  # error
rl.ScheduleFreeSGD(w, betas=(0.9, 0.99))  # error
rl.SGD(w, amsgrad=True)  # error
rl.SGD(w, nesterov="yes")  # error
opt = rl.AdamW(w)
opt.nonsense = 3  # error
opt.clip = 1.0  # error
opt.lr = "fast"  # error
opt.betas = 0.9  # error
opt.step(3.0)  # error
opt.step(g, lr="fast")  # error
opt.step(g, loss_scaling=2.0)  # error
print(opt.step(g).nrom)  # error
opt.set_mask(None, rest=True)  # error
opt.train_()  # error
print(opt.groups[0].nonsense)  # error
opt.groups[0].lr = "fast"  # error
steps: str = opt.steps  # error
