"""Training steps in CuPy as an expert writes them by hand, for launches.py and its test.

Every result goes into an array that is there; the parameters are one vector, and so are their
gradients and what Adam keeps of them; products are cuBLAS's; the loss of every step is left on the
device. A factor that a batch's mean brings in is moved into the learning rate. With `fused`, chains
of element-wise calls are one `cupy.ElementwiseKernel` each.
"""

from collections.abc import Callable
from typing import Any

import cupy
import numpy as np
from cupy import ElementwiseKernel, add, divide, exp, log, maximum, multiply, sqrt, subtract
from cupyx.scipy.special import expit
from dense import BETA1, BETA2, EPSILON, MOMENTUM

Run = Callable[[int], Any]  # a number of epochs -> the losses of their steps, on the device


def _flat(weights: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """The weights side by side in a vector, and three more like it; views of the first two."""
    vectors = [cupy.concatenate([cupy.asarray(w).ravel() for w in weights])]
    vectors += [cupy.zeros_like(vectors[0]) for _ in range(4)]
    ends = np.cumsum([w.size for w in weights])
    views = [
        [v[e - w.size : e].reshape(w.shape) for w, e in zip(weights, ends, strict=True)]
        for v in vectors[:2]
    ]
    return vectors, views[0], views[1]


_bias_relu = ElementwiseKernel("T z, T b", "T y", "y = max(z + b, T(0))", "bias_relu")
_where_positive = ElementwiseKernel("T d, T y", "T g", "g = y > 0 ? d : T(0)", "where_positive")
_sigmoid_back = ElementwiseKernel("T d, T y", "T g", "g = d * y * (1 - y)", "sigmoid_back")
_less_exp = ElementwiseKernel("T z, T t", "T d", "d = exp(z) - t", "exp_minus")
_adam = ElementwiseKernel(
    "T g, T b1, T b2, T epsilon, T rate", "T m, T v, T w",
    "m = m * b1 + g; v = v * b2 + g * g; w -= rate * m / (sqrt(v) + epsilon)", "adam",
)  # fmt: skip
_momentum = ElementwiseKernel(
    "T g, T beta, T rate", "T m, T w", "m = m * beta + g; w -= rate * m", "momentum"
)


def xor(work: Any, fused: bool = False) -> Run:
    """W1: see works.py."""
    x, y = cupy.asarray(work.x), cupy.asarray(work.y)
    (w, g, *_), (a, b), (ga, gb) = _flat(work.start())
    h, s, back = (cupy.empty((4, 4)) for _ in range(3))
    o, d, t = (cupy.empty((4, 1)) for _ in range(3))
    xt, ht, bt, row = x.T, h.T, b.T, d.ravel()

    def through(slope: Any, room: Any, delta: Any) -> None:
        """delta *= slope (1 - slope)."""
        if fused:
            _sigmoid_back(delta, slope, delta)
        else:
            multiply(slope, slope, room), subtract(slope, room, room), multiply(delta, room, delta)

    def run(epochs: int) -> Any:
        losses = cupy.empty(epochs)
        for i in range(epochs):
            x.dot(a, h), expit(h, h), h.dot(b, o), expit(o, o)
            subtract(o, y, d), row.dot(row, losses[i, ...])
            through(o, t, d), d.dot(bt, back), ht.dot(d, gb)
            through(h, s, back), xt.dot(back, ga)
            subtract(w, g, w)
        return multiply(losses, 0.5, losses)

    return run


def dense(work: Any, fused: bool = False) -> Run:
    """W2 and W3: see dense.py."""
    size, last, widths = work.batch, work.layers - 1, work.sizes[1:]
    (w, g, m, v, s), params, grads = _flat(work.start())
    x, targets = cupy.asarray(work.x), cupy.asarray(work.targets)
    starts = range(0, work.rows, size)
    batches = [(x[i : i + size], x[i : i + size].T, targets[i : i + size]) for i in starts]
    outs, deltas, masks = ([cupy.empty((size, n), "f") for n in widths] for _ in range(3))
    column, z, d = cupy.empty((size, 1), "f"), outs[last], deltas[last]
    turned, outs_turned, scores = [p.T for p in params], [a.T for a in outs], z.ravel()
    state = {"step": 0}

    def forward(below: Any) -> None:
        for i, out in enumerate(outs):
            below.dot(params[2 * i], out)
            if i < last and fused:
                _bias_relu(out, params[2 * i + 1], out)
            else:
                add(out, params[2 * i + 1], out)
                if i < last:
                    maximum(out, 0, out)
            below = out

    def loss(target: Any, labels: Any, total: Any) -> None:
        """The log of the softmax in z, its sum at the labels, and the gradient in d."""
        z.max(1, column, True), subtract(z, column, z)
        exp(z, d), d.sum(1, None, column, True), log(column, column), subtract(z, column, z)
        scores.dot(labels, total)
        if fused:
            _less_exp(z, target, d)
        else:
            exp(z, d), subtract(d, target, d)

    def backward(turned_x: Any) -> None:
        for i in range(last, -1, -1):
            deltas[i].sum(0, None, grads[2 * i + 1])
            if i:
                deltas[i].dot(turned[2 * i], deltas[i - 1])
            (outs_turned[i - 1] if i else turned_x).dot(deltas[i], grads[2 * i])
            if i and fused:
                _where_positive(deltas[i - 1], outs[i - 1], deltas[i - 1])
            elif i:
                cupy.greater(outs[i - 1], 0, masks[i - 1])
                multiply(deltas[i - 1], masks[i - 1], deltas[i - 1])

    def update(t: int) -> None:
        """The moments are kept without their factors, and times the size of a batch."""
        if work.rule == "momentum" and fused:
            _momentum(g, MOMENTUM, work.rate / size, m, w)
        elif work.rule == "momentum":
            multiply(m, MOMENTUM, m), add(m, g, m)
            multiply(m, work.rate / size, s), subtract(w, s, w)
        else:
            root, rest = (1 - BETA2**t) ** 0.5, (1 - BETA2) ** 0.5
            rate = work.rate * (1 - BETA1) * root / ((1 - BETA1**t) * rest)
            epsilon = size * EPSILON * root / rest
            if fused:
                _adam(g, BETA1, BETA2, epsilon, rate, m, v, w)
                return
            multiply(m, BETA1, m), add(m, g, m)
            multiply(v, BETA2, v), multiply(g, g, s), add(v, s, v)
            sqrt(v, s), add(s, epsilon, s), divide(m, s, s)
            multiply(s, rate, s), subtract(w, s, w)

    rows = [target.ravel() for _, _, target in batches]

    def run(epochs: int) -> Any:
        losses = cupy.empty((epochs, len(batches)), "f")
        for epoch in range(epochs):
            for i, (below, turned_x, target) in enumerate(batches):
                state["step"] += 1
                forward(below), loss(target, rows[i], losses[epoch, i, ...])
                backward(turned_x), update(state["step"])
        return multiply(losses, -1 / size, losses)

    return run
