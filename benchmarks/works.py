"""What compiled.py measures: the small works here, the larger networks in dense.py.

Every way of doing a work is a function of it that gives a `Trained`: a number of steps or epochs,
made from the same start -> the weights after them. The same mathematics everywhere: no shuffling,
whole batches alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import backends
import tinynn
from tinynn.functional import relu, sigmoid, softmax
from tinynn.layers import Linear, Sequential
from tinynn.losses import SquaredError
from tinynn.optim import SGD

Weights = list[Any]
Trained = Callable[[int], Weights]


def wide_jax() -> Any:
    """JAX with float64, which must be asked for."""
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax


def one_thread() -> Any:
    """PyTorch on one thread."""
    import torch

    torch.set_num_threads(1)
    return torch


class InTorch(NamedTuple):
    """A work in PyTorch, on one of its devices."""

    begin: Callable[[], None]  # sets the parameters to where they start
    optimizer: Callable[..., Any]  # a new one, with these settings beside its own
    cost: Callable[[Any, Any], Any]  # of a batch
    batches: list[tuple[Any, Any]]
    weights: Callable[[], Weights]

    def trained(self, epochs: int) -> Weights:
        """The step as PyTorch's manual writes it."""
        self.begin()
        rule = self.optimizer()
        for batch in self.batches * epochs:
            rule.zero_grad()
            self.cost(*batch).backward()
            rule.step()
        return self.weights()


def fitted(work: Any, engine: str, library: str = "numpy") -> Trained:
    """tinynn.fit with this engine; layers that have weights take turns with their functions."""
    if library.startswith("jax"):
        wide_jax()
    home = backends.get(library)
    x, y = home.asarray(work.x), home.asarray(work.y)
    net, loss, optimizer = work.tinynn()
    params = start_of(work, home)
    settings = {"loss": loss, "optimizer": optimizer, "batch_size": work.batch, "engine": engine}

    def run(epochs: int) -> Weights:
        options = {**settings, "epochs": epochs, "shuffle": False, "progress": False}
        model = tinynn.fit(net, x, y, params=params, **options)
        return [home.to_host(model.params[layer][kind]) for layer, kind in places_of(work)]

    return run


def places_of(work: Any) -> list[tuple[str, str]]:
    """The layer and the name of each of a work's weights, in tinynn's parameters."""
    return [(str(2 * i), kind) for i in range(work.layers) for kind in work.kinds]


def start_of(work: Any, home: Any) -> dict[str, Any]:
    """The weights that a work starts from, as tinynn's parameters on a backend."""
    params: dict[str, Any] = {}
    for (layer, kind), weight in zip(places_of(work), work.start(), strict=True):
        params.setdefault(layer, {})[kind] = home.asarray(weight)
    return params


class Xor:
    """3-4-1, sigmoid, without biases: half the sum of squared errors, all rows at once."""

    title, unit, scale, batch = "W1: XOR 3-4-1, SGD, float64", "us a step", 1e6, None
    lengths, lengths_jax, steps, tolerance = (1000, 11000), (4000, 504000), 1, 1e-9
    layers, kinds, first = 2, ("weight",), True

    x = np.asarray([[0.0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]])
    y = np.asarray([[0.0], [1], [1], [0]])

    def start(self) -> Weights:
        draw = np.random.RandomState(1)
        return [2 * draw.random_sample(shape) - 1 for shape in ((3, 4), (4, 1))]

    def loss(self, weights: Weights) -> float:
        hidden = 1 / (1 + np.exp(-(self.x @ weights[0])))
        return float(0.5 * ((self.y - 1 / (1 + np.exp(-(hidden @ weights[1])))) ** 2).sum())

    def tinynn(self) -> tuple[Any, Any, Any]:
        net = Sequential(Linear(4, bias=False), sigmoid, Linear(1, bias=False), sigmoid)
        return net, SquaredError(reduction="half_sum"), SGD(1.0)

    def by_hand(self) -> Trained:
        x, y, dot, exp = self.x, self.y, np.dot, np.exp

        def run(steps: int) -> Weights:
            a, b = self.start()
            for _ in range(steps):
                hidden = 1 / (1 + exp(-dot(x, a)))
                out = 1 / (1 + exp(-dot(hidden, b)))
                delta = (y - out) * out * (1 - out)
                back = dot(delta, b.T) * hidden * (1 - hidden)
                b += dot(hidden.T, delta)
                a += dot(x.T, back)
            return [a, b]

        return run

    def with_buffers(self) -> Trained:
        """20 calls a step: the weights are kept negated, and l (1 - l) is l - l l."""
        x, y, xt, one = self.x, self.y, self.x.T, np.asarray(1.0)
        dot, add, sub, mul, exp, inv = (
            np.dot,
            np.add,
            np.subtract,
            np.multiply,
            np.exp,
            np.reciprocal,
        )

        def run(steps: int) -> Weights:
            a, b = (-w for w in self.start())
            h, t, back = (np.empty((4, 4)) for _ in range(3))
            o, s, d, gb, ga = *(np.empty((4, 1)) for _ in range(4)), np.empty((3, 4))
            ht, bt = h.T, b.T
            for _ in range(steps):
                dot(x, a, h), exp(h, h), add(h, one, h), inv(h, h)
                dot(h, b, o), exp(o, o), add(o, one, o), inv(o, o)
                mul(o, o, s), sub(s, o, s), sub(y, o, d), mul(d, s, d)
                mul(h, h, t), sub(t, h, t), dot(d, bt, back), mul(back, t, back)
                dot(ht, d, gb), add(b, gb, b), dot(xt, back, ga), add(a, ga, a)
            return [-a, -b]

        return run

    def pytorch(self) -> Trained:
        torch = one_thread()
        x, y = torch.tensor(self.x), torch.tensor(self.y)

        def run(steps: int) -> Weights:
            weights = a, b = [torch.tensor(w, requires_grad=True) for w in self.start()]
            for _ in range(steps):
                out = torch.sigmoid(torch.sigmoid(x @ a) @ b)
                (0.5 * ((y - out) ** 2).sum()).backward()
                with torch.no_grad():
                    for w in weights:
                        w -= w.grad
                        w.grad = None
            return [w.detach().numpy() for w in weights]

        return run

    def in_torch(self, device: str) -> InTorch:
        """With the optimizer of PyTorch's own, fused."""
        torch = one_thread()
        x, y = torch.tensor(self.x, device=device), torch.tensor(self.y, device=device)
        params = [torch.tensor(w, device=device, requires_grad=True) for w in self.start()]

        def begin() -> None:
            with torch.no_grad():
                for p, w in zip(params, self.start(), strict=True):
                    p.copy_(torch.from_numpy(w))

        def cost(x: Any, y: Any) -> Any:
            return 0.5 * ((y - torch.sigmoid(torch.sigmoid(x @ params[0]) @ params[1])) ** 2).sum()

        return InTorch(
            begin,
            lambda **settings: torch.optim.SGD(params, lr=1.0, fused=True, **settings),
            cost,
            [(x, y)],
            lambda: [p.detach().cpu().numpy().copy() for p in params],
        )

    def scan(self, losses: bool = False) -> Trained:
        """All steps in one program; with the loss of every step, if wanted."""
        jax = wide_jax()
        x, y, act = jax.numpy.asarray(self.x), jax.numpy.asarray(self.y), jax.nn.sigmoid
        cost = lambda w: 0.5 * ((y - act(act(x @ w[0]) @ w[1])) ** 2).sum()  # noqa: E731

        def step(weights: Any, _: Any) -> Any:
            loss, gradient = jax.value_and_grad(cost)(weights)
            new = [w - g for w, g in zip(weights, gradient, strict=True)]
            return new, loss if losses else None

        loop = jax.jit(lambda w, steps: jax.lax.scan(step, w, length=steps), static_argnums=1)

        def run(steps: int) -> Weights:
            weights, out = loop(self.start(), steps)
            jax.block_until_ready(out)
            return [np.asarray(w) for w in weights]

        return run


class Row:
    """One row of 64 through 64-32-10, relu and softmax: an array in, its probabilities out."""

    title, unit, scale = "W7: one row through 64-32-10, float32", "us a call", 1e6
    lengths, steps, tolerance, first = (100, 2100), 1, 1e-5, False

    def __init__(self) -> None:
        draw = np.random.RandomState(0)
        shapes = ((64, 32), 0.2), ((32,), 0.1), ((32, 10), 0.3), ((10,), 0.1)
        self.weights = [(draw.standard_normal(s) * k).astype(np.float32) for s, k in shapes]
        self.row = draw.random_sample((1, 64)).astype(np.float32)

    def loss(self, out: Weights) -> float:
        return float((np.asarray(out[0]).reshape(-1) * np.arange(10)).sum())

    def called(self, function: Callable[[Any], Any]) -> Trained:
        def run(calls: int) -> Weights:
            for _ in range(calls):
                out = function(self.row)
            return [out]

        return run

    def by_hand(self) -> Trained:
        a, i, b, j = self.weights

        def forward(x: Any) -> Any:
            z = np.maximum(x @ a + i, 0) @ b + j
            e = np.exp(z - z.max(axis=1, keepdims=True))
            return e / e.sum(axis=1, keepdims=True)

        return self.called(forward)

    def with_buffers(self) -> Trained:
        """On one dimension, whose products cost less."""
        a, i, b, j = self.weights
        add, sub, exp, div = np.add, np.subtract, np.exp, np.divide
        zero, one = np.zeros(32, np.float32), np.ones(10, np.float32)
        h, z, top = np.empty(32, np.float32), np.empty(10, np.float32), np.empty((), np.float32)

        def forward(x: Any) -> Any:
            x[0].dot(a, h), add(h, i, h), np.maximum(h, zero, out=h)
            h.dot(b, z), add(z, j, z), np.maximum.reduce(z, 0, None, top)
            sub(z, top, z), exp(z, z)
            return div(z, z.dot(one))

        return self.called(forward)

    @property
    def model(self) -> tinynn.Model:
        a, i, b, j = self.weights
        params = {"0": {"weight": a, "bias": i}, "2": {"weight": b, "bias": j}}
        return tinynn.Model(Sequential(Linear(32), relu, Linear(10), softmax), params)

    def predicted(self) -> Trained:
        return self.called(self.model.predict)

    def compiled(self) -> Trained:
        return self.called(self.model.compile(self.row))

    def pytorch(self) -> Trained:
        torch = one_thread()
        nn = torch.nn
        net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10), nn.Softmax(1)).eval()
        with torch.no_grad():
            for p, w in zip(net.parameters(), self.weights, strict=True):
                p.copy_(torch.from_numpy(w.T))

        def forward(x: Any) -> Any:
            with torch.inference_mode():
                return net(torch.from_numpy(x)).numpy()

        return self.called(forward)
