"""A regularized loss that can be checked by hand, in three textbook conventions.

With four samples, weights (1, 1) and lambda = 0.5 the squared loss is 6.75. The penalty adds 0.25
if it is lambda/m times the sum of absolute values or of squares, and 0.125 if it is lambda/(2m)
times the sum of squares.
"""

import numpy as np

import ridgeline as rl
from ridgeline.penalties import strength_from_loss

X = np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0], [4.0, 8.0]])
y = np.array([1.0, 3.0, 5.0, 7.0])
theta = np.array([1.0, 1.0])
lam, m = 0.5, len(y)


def main():
    loss = float(np.sum((X @ theta - y) ** 2) / (2 * m))
    print(f"squared loss / 2m             {loss}")
    assert loss == 6.75

    l1 = rl.L1(strength_from_loss(lam, m, convention="lambda/m", penalty="l1"))
    print(f"  + lambda/m    sum |theta|   {loss + l1.value(theta)}   {l1}")
    assert loss + l1.value(theta) == 7.0

    l2 = rl.L2(strength_from_loss(lam, m, convention="lambda/m", penalty="l2"))
    print(f"  + lambda/m    sum theta^2   {loss + l2.value(theta)}   {l2}")
    assert loss + l2.value(theta) == 7.0

    l2 = rl.L2(strength_from_loss(lam, m, convention="lambda/(2m)", penalty="l2"))
    print(f"  + lambda/(2m) sum theta^2   {loss + l2.value(theta)} {l2}")
    assert loss + l2.value(theta) == 6.875

    # The gradient of the last penalty is added, in place, to that of the loss.
    grad = X.T @ (X @ theta - y) / m
    l2.add_gradient_(grad, theta)
    print(f"gradient of the last          {grad}")
    assert np.allclose(grad, X.T @ (X @ theta - y) / m + lam / m * theta)


if __name__ == "__main__":
    main()
