"""Networks of Linear and relu, by NumPy, tinynn, PyTorch and JAX: see works.py."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from works import InTorch, Trained, Weights, one_thread, wide_jax

from tinynn.functional import relu
from tinynn.layers import Linear, Sequential
from tinynn.losses import SoftmaxCrossEntropy
from tinynn.optim import SGD, Adam
from tinynn.trace import namespace

DIGITS = Path(__file__).parent.parent / "examples" / "data" / "digits.csv"
BETA1, BETA2, EPSILON, MOMENTUM = 0.9, 0.999, 1e-8, 0.9
CHUNK = 16384  # what an optimizer's buffers hold at once: they stay in the cache


class Dense:
    """A network of Linear and relu in float32; its weights are [weight, bias, weight, ...]."""

    steps, scale, unit, tolerance, first = 1, 1e3, "ms an epoch", 1e-4, True
    kinds = ("weight", "bias")

    def __init__(self, title: str, sizes: tuple[int, ...], batch: int, rows: int, rule: str):
        self.title, self.sizes, self.batch, self.rows, self.rule = title, sizes, batch, rows, rule
        self.classes = sizes[-1] == 10  # labels and cross-entropy, or else half the squared error
        self.rate = 0.01 if rule == "momentum" else 0.001
        self.lengths = self.lengths_jax = (1, 2)
        self.layers = len(sizes) - 1

    def start(self) -> Weights:
        draw, weights = np.random.RandomState(0), []
        for wide, narrow in zip(self.sizes, self.sizes[1:], strict=False):
            weight = draw.standard_normal((wide, narrow)) * (2 / wide) ** 0.5
            weights += [weight.astype(np.float32), np.zeros(narrow, np.float32)]
        return weights

    @cached_property
    def data(self) -> tuple[Any, Any]:
        if self.sizes[0] == 64:
            table = np.loadtxt(DIGITS, delimiter=",", skiprows=1, dtype=np.float32)
            table = table[np.random.RandomState(0).permutation(len(table))[: self.rows]]
            return np.ascontiguousarray(table[:, :-1] / 16), table[:, -1].astype(np.int64)
        draw = np.random.default_rng(0)
        x = draw.random((self.rows, self.sizes[0]), dtype=np.float32) - np.float32(0.5)
        x *= np.float32(0.5 if self.classes else 1)
        teacher = draw.standard_normal((self.sizes[0], self.sizes[-1]), dtype=np.float32)
        out = x @ teacher
        return x, out.argmax(axis=1) if self.classes else np.tanh(out * np.float32(0.2))

    @property
    def x(self) -> Any:
        return self.data[0]

    @property
    def y(self) -> Any:
        return self.data[1]

    @cached_property
    def targets(self) -> Any:
        return np.eye(10, dtype=np.float32)[self.y] if self.classes else self.y

    def loss(self, weights: Weights) -> float:
        out, count = self.x[:4096], min(self.rows, 4096)
        for i in range(self.layers):
            out = out @ weights[2 * i] + weights[2 * i + 1]
            out = np.maximum(out, 0) if i < self.layers - 1 else out
        if not self.classes:
            return float(0.5 * ((out - self.y[:4096]) ** 2).sum() / count)
        out = out - out.max(axis=1, keepdims=True)
        return float(np.log(np.exp(out).sum(1)).mean() - (out * self.targets[:4096]).sum() / count)

    def tinynn(self) -> tuple[Any, Any, Any]:
        def half(prediction: Any, target: Any) -> Any:
            xp, error = namespace(prediction), prediction - target
            return 0.5 * xp.sum(error * error) / prediction.shape[0]

        net = Sequential(*[part for s in self.sizes[1:] for part in (Linear(s), relu)][:-1])
        momentum = MOMENTUM if self.rule == "momentum" else 0.0
        optimizer = Adam(self.rate) if self.rule == "adam" else SGD(self.rate, momentum=momentum)
        return net, SoftmaxCrossEntropy() if self.classes else half, optimizer

    def by_hand(self) -> Trained:
        x, y, size, rate, last = self.x, self.y, self.batch, self.rate, self.layers - 1
        at = np.arange(size)

        def backward(w: Weights, start: int) -> Weights:
            """The gradients for the batch that starts there."""
            kept, target, gradients = [x[start : start + size]], y[start : start + size], []
            for i in range(last + 1):
                out = kept[-1] @ w[2 * i] + w[2 * i + 1]
                kept.append(np.maximum(out, 0) if i < last else out)
            if self.classes:
                e = np.exp(out - out.max(axis=1, keepdims=True))
                d = e / e.sum(axis=1, keepdims=True)
                d[at, target] -= 1
                d = d / size
            else:
                d = (out - target) / size
            for i in range(last, -1, -1):
                gradients += [d.sum(axis=0), kept[i].T @ d]
                if i:
                    d = (d @ w[2 * i].T) * (kept[i] > 0)
            return gradients[::-1]

        def run(epochs: int) -> Weights:
            w = self.start()
            m, v = ([np.zeros_like(a) for a in w] for _ in range(2))
            for t, start in enumerate([*range(0, self.rows, size)] * epochs, 1):
                for j, g in enumerate(backward(w, start)):
                    if self.rule == "adam":
                        m[j] = BETA1 * m[j] + (1 - BETA1) * g
                        v[j] = BETA2 * v[j] + (1 - BETA2) * g**2
                        root = np.sqrt(v[j] / (1 - BETA2**t)) + EPSILON
                        w[j] = w[j] - rate * (m[j] / (1 - BETA1**t)) / root
                    elif self.rule == "momentum":
                        m[j] = MOMENTUM * m[j] + g
                        w[j] = w[j] - rate * m[j]
                    else:
                        w[j] = w[j] - rate * g
            return w

        return run

    def with_buffers(self) -> Trained:
        """All in place; the parameters are one vector, which the optimizer walks by chunks."""
        size, rate, last, widths = self.batch, self.rate, self.layers - 1, self.sizes[1:]
        dot, add, sub, mul, div = np.dot, np.add, np.subtract, np.multiply, np.divide
        number = lambda value: np.asarray(value, np.float32)  # noqa: E731
        zero, share, one = number(0), number(1 / size), np.ones(size, np.float32)
        beta1, beta2, momentum, rate_ = map(number, (BETA1, BETA2, MOMENTUM, rate))
        starts = range(0, self.rows, size)
        batches = [(self.x[s : s + size], self.targets[s : s + size]) for s in starts]

        def empty(kind: Any = np.float32) -> Weights:
            return [np.empty((size, width), kind) for width in widths]

        def update(blocks: Any, t: int) -> None:
            if self.rule == "adam":  # the moments are kept without their factors (1 - beta)
                root, rest = (1 - BETA2**t) ** 0.5, (1 - BETA2) ** 0.5
                length = number(rate * (1 - BETA1) * root / ((1 - BETA1**t) * rest))
                epsilon = number(EPSILON * root / rest)
                for w, g, m, v, s in blocks:
                    mul(m, beta1, m), add(m, g, m), mul(v, beta2, v), mul(g, g, s), add(v, s, v)
                    np.sqrt(v, s), add(s, epsilon, s), div(m, s, s), mul(s, length, s), sub(w, s, w)
            elif self.rule == "momentum":
                for w, g, m, _, s in blocks:
                    mul(m, momentum, m), add(m, g, m), mul(m, rate_, s), sub(w, s, w)
            else:
                for w, g, *_ in blocks:
                    mul(g, rate_, g), sub(w, g, w)

        def run(epochs: int) -> Weights:
            first = self.start()
            flat = [np.concatenate([w.ravel() for w in first])]
            flat += [np.zeros_like(flat[0]) for _ in range(4)]
            ends = np.cumsum([w.size for w in first])
            w, g = (
                [p.reshape(a.shape) for p, a in zip(np.split(f, ends[:-1]), first, strict=True)]
                for f in flat[:2]
            )
            blocks = [[f[i : i + CHUNK] for f in flat] for i in range(0, ends[-1], CHUNK)]
            outs, deltas, masks = empty(), empty(), empty(bool)
            zeros = [np.zeros_like(a) for a in outs]
            column, turned = np.empty((size, 1), np.float32), [a.T for a in w]
            for t, (x, target) in enumerate(batches * epochs, 1):
                z = x
                for i in range(last + 1):
                    z = add(dot(z, w[2 * i], outs[i]), w[2 * i + 1], outs[i])
                    if i < last:
                        np.maximum(z, zeros[i], out=z)
                d = deltas[last]
                if self.classes:
                    sub(z, np.maximum.reduce(z, 1, None, column, True), z), np.exp(z, z)
                    div(z, np.add.reduce(z, 1, None, column, True), z)
                mul(sub(z, target, d), share, d)
                for i in range(last, -1, -1):
                    dot(outs[i - 1].T if i else x.T, d, g[2 * i]), dot(one, d, g[2 * i + 1])
                    if i:
                        below = dot(d, turned[2 * i], deltas[i - 1])
                        d = mul(below, np.greater(outs[i - 1], zero, masks[i - 1]), below)
                update(blocks, t)
            return w

        return run

    def pytorch(self) -> Trained:
        return self.in_torch("cpu").trained

    def in_torch(self, device: str) -> InTorch:
        """With the fused optimizer, its fastest."""
        torch = one_thread()
        x, y = (torch.from_numpy(a).to(device) for a in self.data)
        pairs = zip(self.sizes, self.sizes[1:], strict=False)
        parts = [part for pair in pairs for part in (torch.nn.Linear(*pair), torch.nn.ReLU())]
        net = torch.nn.Sequential(*parts[:-1]).to(device)
        params, size = list(net.parameters()), self.batch

        def begin() -> None:
            with torch.no_grad():
                for p, w in zip(params, self.start(), strict=True):
                    p.copy_(torch.from_numpy(w.T))

        def optimizer(**settings: Any) -> Any:
            if self.rule == "adam":
                return torch.optim.Adam(params, lr=self.rate, fused=True, **settings)
            momentum = MOMENTUM if self.rule == "momentum" else 0
            return torch.optim.SGD(params, lr=self.rate, momentum=momentum, fused=True)

        def cost(x: Any, target: Any) -> Any:
            if self.classes:
                return torch.nn.functional.cross_entropy(net(x), target)
            return 0.5 * ((net(x) - target) ** 2).sum() / size

        return InTorch(
            begin,
            optimizer,
            cost,
            [(x[s : s + size], y[s : s + size]) for s in range(0, self.rows, size)],
            lambda: [p.detach().cpu().numpy().T for p in params],
        )

    def scan(self, losses: bool = False) -> Trained:
        """Epochs and batches in one program; with the loss of every step, if wanted."""
        jax = wide_jax()
        jnp, last, count = jax.numpy, self.layers - 1, self.rows // self.batch

        def cost(w: Weights, x: Any, y: Any) -> Any:
            for i in range(last + 1):
                x = x @ w[2 * i] + w[2 * i + 1]
                x = jax.nn.relu(x) if i < last else x
            if not self.classes:
                return 0.5 * jnp.sum((x - y) ** 2) / self.batch
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1))

        def step(state: Any, batch: Any) -> Any:
            w, m, v, t = state
            loss, g = jax.value_and_grad(cost)(w, *batch)
            t, each = t + 1, jax.tree.map
            if self.rule != "adam":
                keep = MOMENTUM if self.rule == "momentum" else 0.0
                m = each(lambda m, g: keep * m + g, m, g) if keep else g
                w = each(lambda w, m: w - self.rate * m, w, m)
                return (w, m, v, t), loss if losses else None
            m = each(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, g)
            v = each(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, g)
            long, root = self.rate / (1 - BETA1**t), 1 - BETA2**t
            w = each(lambda w, m, v: w - long * m / (jnp.sqrt(v / root) + EPSILON), w, m, v)
            return (w, m, v, t), loss if losses else None

        def loop(state: Any, data: Any, epochs: int) -> Any:
            return jax.lax.scan(lambda s, _: jax.lax.scan(step, s, data), state, length=epochs)

        compiled = jax.jit(loop, static_argnums=2)
        data = jax.tree.map(lambda a: jnp.reshape(a, (count, self.batch, *a.shape[1:])), self.data)

        def run(epochs: int) -> Weights:
            w = [jnp.asarray(a) for a in self.start()]
            zeros = [jnp.zeros_like(a) for a in w]
            state, out = compiled((w, zeros, zeros, jnp.float32(0)), data, epochs)
            jax.block_until_ready(out)
            return [np.asarray(a) for a in state[0]]

        return run
