"""Online logistic regression with sparse weights: FTRL compared with SGD and Adagrad.

The task is to tell whether a digit is odd. The 64 pixels of scikit-learn's digits have 17 gray
levels; each level of each pixel is a binary feature, so that 64 of 1,088 features are present in a
digit. Digits arrive one at a time: the model predicts a probability, then sees the label and takes
a step. The mean loss of these predictions is the progressive validation loss (McMahan et al. 2013).
The learning rates are the best without L1 out of 0.1, 0.3, 0.5, 0.7 and 1.
"""

import numpy as np
from sklearn.datasets import load_digits

import ridgeline as rl

ORDERS = 3  # the number of random orders of the digits


def falling(lr):
    """Return a learning rate that decreases with the square root of the step."""
    return lambda step: lr / np.sqrt(step + 1)


def sgd(w, l1):
    """Proximal SGD, known as FOBOS in online learning (Duchi and Singer 2009)."""
    return rl.SGD(w, falling(0.5), penalty=rl.L1(l1), prox="plain")


def adagrad(w, l1):
    """Each weight has its own rate and threshold (Duchi, Hazan and Singer 2011)."""
    return rl.Adagrad(w, 0.1, penalty=rl.L1(l1), prox="preconditioned")


def ftrl(w, l1):
    """Strengths are as in the paper: l1 applies to the sum of all gradients so far."""
    return rl.FTRL(w, 0.3, beta=1.0, l1=l1)


ROWS = [
    ("SGD", sgd, (0, 0.001, 0.003, 0.01)),
    ("Adagrad", adagrad, (0, 0.001, 0.003, 0.01)),
    ("FTRL", ftrl, (0, 0.5, 1, 2, 4)),
]


def features():
    """Return the feature indices of each digit, the number of features, and the labels."""
    pixels, digits = load_digits(return_X_y=True)
    there = 17 * np.arange(64) + pixels.astype(int)
    bias = np.full((len(there), 1), 17 * 64)
    return np.hstack([there, bias]), 17 * 64 + 1, digits % 2 == 1


def learn(optimizer, w, there, odd, order):
    """Return the mean loss and the error rate; each digit is predicted before it is learned."""
    grad = np.zeros_like(w)
    losses, errors = [], 0
    for i in order:
        score = w[there[i]].sum()
        losses.append(np.logaddexp(0, -score if odd[i] else score))
        errors += (score > 0) != odd[i]
        grad[there[i]] = 1 / (1 + np.exp(-score)) - odd[i]
        optimizer.step(grad)
        grad[there[i]] = 0
    return np.mean(losses), errors / len(order)


def main():
    there, size, odd = features()
    seen = len(np.unique(there))
    print(f"{len(odd):,} digits, {size:,} weights; {seen} of the features occur in the data.\n")
    print("             l1   progressive loss   errors   nonzero weights")
    for name, make, strengths in ROWS:
        for l1 in strengths:
            figures = []
            for seed in range(ORDERS):
                w = np.zeros(size)
                order = np.random.default_rng(seed).permutation(len(odd))
                figures.append((*learn(make(w, l1), w, there, odd, order), np.count_nonzero(w)))
            loss, errors, left = np.mean(figures, axis=0)
            print(f"{name:<8}  {l1:>5}   {loss:16.4f}   {errors:6.1%}   {left:13.0f}")


if __name__ == "__main__":
    main()
