"""Ridge regression by gradient descent, on the points (1, 1), ..., (10, 10).

The loss is the squared error / 2m plus lambda/(2m) times the square of the slope; the intercept is
not penalized. The result is compared with the solution of the normal equations.
"""

import numpy as np

import ridgeline as rl
from ridgeline.penalties import strength_from_loss

x = np.arange(1.0, 11.0)
y = np.arange(1.0, 11.0)
X = np.column_stack([np.ones_like(x), x])
m, lam = len(y), 10.0
penalty = rl.L2(strength_from_loss(lam, m, convention="lambda/(2m)", penalty="l2"))


def descend(lr=0.04, steps=3000):
    """Return (intercept, slope) and the loss before each step."""
    theta = np.zeros(2)
    losses = []
    for _ in range(steps):
        residual = X @ theta - y
        grad = X.T @ residual / m
        value = penalty.add_gradient_(grad[1:], theta[1:])  # views: the intercept is not penalized
        losses.append(float(residual @ residual) / (2 * m) + value)
        theta -= lr * grad
    return theta, losses


def main():
    theta, losses = descend()
    for step in (0, 1, 10, 100, 1000, len(losses) - 1):
        print(f"step {step:>4}  loss {losses[step]:.9f}")
    exact = np.linalg.solve(X.T @ X + np.diag([0.0, lam]), X.T @ y)
    print(f"descent      y = {theta[0]:.6f} + {theta[1]:.6f} x")
    print(f"closed form  y = {exact[0]:.6f} + {exact[1]:.6f} x")
    print(f"largest difference {np.abs(theta - exact).max():.1e}")
    assert np.all(np.diff(losses) < 1e-14)  # decreases at every step, up to rounding
    assert np.allclose(theta, exact, atol=1e-9)


if __name__ == "__main__":
    main()
