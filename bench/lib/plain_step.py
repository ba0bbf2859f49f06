"""A training step as one writes it in CuPy's own array expressions, and an array that counts what passes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np


class PlainStep:
    """The step in array expressions, as N2 has it; xp is cupy, or numpy to compare with.

    Args:
        xp: the array module.
        parameters: W and b of each layer.
        x, labels: the data set.
        order: the rows in the order of the epoch.
        batch: rows of a minibatch.
    """

    def __init__(
        self, xp: Any, parameters: list[tuple[Any, Any]], x: Any, labels: Any, order: Any, batch: int
    ) -> None:  # fmt: skip
        self.xp, self.x, self.labels, self.order, self.batch = xp, x, labels, order, batch
        self.weights, self.biases = ([p[k] for p in parameters] for k in range(2))
        self.moments = [(xp.zeros_like(p), xp.zeros_like(p)) for p in (*self.weights, *self.biases)]
        self.classes = xp.arange(self.biases[-1].size)
        self.loss, self.hits = xp.zeros(1), xp.zeros(1, np.int64)
        self.cursor = self.steps = 0

    def __call__(self) -> None:
        xp, batch = self.xp, self.batch
        rows = self.order[self.cursor : self.cursor + batch]
        self.cursor += batch
        y, labels = self.x[rows], self.labels[rows]

        ys = [y]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            y = xp.maximum(y @ weight + bias, 0)
            ys.append(y)
        z = y @ self.weights[-1] + self.biases[-1]

        z -= z.max(axis=1, keepdims=True)
        e = xp.exp(z)
        sums = e.sum(axis=1, keepdims=True)
        right = labels[:, None] == self.classes
        self.loss += xp.log(sums).sum(dtype=np.float64) - (z * right).sum(dtype=np.float64)
        self.hits += (z.argmax(axis=1) == labels).sum()
        grad_z = (e / sums - right) / batch

        grad_weights, grad_biases = [], []
        for layer in reversed(range(len(self.weights))):
            grad_weights.insert(0, ys[layer].T @ grad_z)
            grad_biases.insert(0, grad_z.sum(axis=0))
            if layer:
                grad_z = (grad_z @ self.weights[layer].T) * (ys[layer] > 0)
        self.adam([*grad_weights, *grad_biases])

    def adam(self, gradients: list[Any], rate: float = 0.001, beta1: float = 0.9, beta2: float = 0.999) -> None:
        """Kingma and Ba 2015, algorithm 1, for each array."""
        self.steps += 1
        rate, correction = rate / (1 - beta1**self.steps), 1 - beta2**self.steps
        for p, g, (m, v) in zip((*self.weights, *self.biases), gradients, self.moments, strict=True):
            m *= beta1
            m += (1 - beta1) * g
            v *= beta2
            v += (1 - beta2) * g * g
            p -= rate * m / (self.xp.sqrt(v / correction) + 1e-8)


class Counted(np.ndarray):
    """An array whose operations add up the bytes that they read and write; products by themselves."""

    moved: ClassVar[dict[str, int]] = {"products": 0, "other": 0}

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        plain = [plainly(a) for a in inputs]
        if out is not None:
            options["out"] = tuple(map(plainly, out))
        result = getattr(ufunc, method)(*plain, **options)
        count(*plain, result, kind="products" if ufunc is np.matmul else "other")
        return out[0] if out is not None else counted(result)

    def __getitem__(self, key: Any) -> Any:
        result = plainly(self)[key]
        if isinstance(key, np.ndarray):  # it copies; what slices give is a view
            count(key, result, result)
        return counted(result)

    def argmax(self, **options: Any) -> Any:
        result = plainly(self).argmax(**options)
        count(self, result)
        return counted(result)


def plainly(a: Any) -> Any:
    """What Counted hides."""
    return a.view(np.ndarray) if isinstance(a, Counted) else a


def counted(a: Any) -> Any:
    return np.asarray(a).view(Counted)


def count(*arrays: Any, kind: str = "other") -> None:
    Counted.moved[kind] += sum(a.nbytes for a in arrays if isinstance(a, (np.ndarray, np.generic)))
