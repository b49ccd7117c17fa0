"""Training on PyTorch's and JAX's arrays, beside torch.nn and torch.optim, Equinox and Optax.

pip install torch jax equinox optax
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
export XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
python benchmarks/on_their_arrays.py [--rounds N] [--only WORK] [--library torch]

The same network, start, batches in order, loss and optimizer, float32. `tinynn.fit` has the engines
that it takes for long runs by itself: on PyTorch's arrays "loops" for small networks, where
llvmlite is installed, else "calls"; on JAX's "jit". PyTorch: the loop of its manual, with its fused
optimizers. Equinox: `eqx.filter_jit` of a step, called for each batch, and all steps of an epoch by
`lax.scan`. Batches are cut beforehand for all but tinynn. Losses of the first epochs have to agree.
Processor time of a step, one thread: the differences of a long and a short run, the least of each,
of rounds in turn. The recurrent layers have no biases, of which each library has another number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from time import process_time
from typing import Any

import click
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from convolutional import WORKS, nested, network, torch_network, turned
from equinox import nn as eqn
from torch import nn

import backends
import tinynn
from tinynn import layers, losses, optim, tree
from tinynn.functional import relu, sigmoid

Arrays, F, KEY = list[Any], torch.nn.functional, jax.random.key(0)
#: A number of epochs -> the losses of all steps.
Trained = Callable[[int], Any]


def transposed(params: Any) -> Arrays:
    """Parameters of dense and recurrent layers as PyTorch and Equinox have them."""
    return [np.ascontiguousarray(leaf.T) for leaf in tree.leaves(params)]


def identity(net: Any) -> Any:
    return net


@dataclass(frozen=True)
class Work:
    """The same training in three libraries.

    Attributes:
        title: of the table's row.
        net, loss, optimizer: tinynn's.
        torch, equinox: the networks, made anew; Equinox's takes one sample.
        data: x, y; x of PyTorch and Equinox is `theirs(x)`.
        batch: rows of a batch; there may be several.
        turned: the parameters of tinynn in the order and layout of Equinox.
        in_torch: those in PyTorch's order.
        given: tinynn's parameters to begin with, if not `net.init`'s.
        loops: whether the network is one for them.
    """

    title: str
    net: Any
    loss: str
    optimizer: str
    torch: Callable[[], Any]
    equinox: Callable[[], Any]
    data: tuple[Any, Any]
    batch: int
    turned: Callable[[Any], Arrays] = transposed
    in_torch: Callable[[Arrays], Arrays] = identity
    theirs: Callable[[Any], Any] = identity
    given: Any = None
    loops: bool = True

    @cached_property
    def start(self) -> Any:
        made = self.given or self.net.init(0, self.data[0][:2])[0]
        return tree.map(lambda leaf: leaf.astype("float32"), made)

    @cached_property
    def batches(self) -> list[tuple[Any, Any]]:
        x, y = self.theirs(self.data[0]), self.data[1]
        cut = range(0, len(y), self.batch)
        return [(x[i : i + self.batch], y[i : i + self.batch]) for i in cut]


#: By name: tinynn's loss, PyTorch's, and one of JAX's arrays.
LOSSES: dict[str, tuple[Any, Any, Any]] = {
    "squared": (
        losses.SquaredError(reduction="half_sum"),
        lambda out, y: 0.5 * ((out - y) ** 2).sum(),
        lambda out, y: 0.5 * ((out - y) ** 2).sum(),
    ),
    "mean squared": (
        losses.SquaredError(), F.mse_loss, lambda out, y: jnp.mean((out - y) ** 2)
    ),
    "cross entropy": (
        losses.SoftmaxCrossEntropy(),
        F.cross_entropy,
        lambda out, y: optax.softmax_cross_entropy_with_integer_labels(out, y).mean(),
    ),
}  # fmt: skip
#: By name: tinynn's optimizer, PyTorch's, Optax's.
OPTIMIZERS: dict[str, tuple[Any, Any, Any]] = {
    "SGD": (optim.SGD(0.5), partial(torch.optim.SGD, lr=0.5), partial(optax.sgd, 0.5)),
    "SGD, 0.01": (optim.SGD(0.01), partial(torch.optim.SGD, lr=0.01), partial(optax.sgd, 0.01)),
    "momentum": (
        optim.SGD(0.01, momentum=0.9),
        partial(torch.optim.SGD, lr=0.01, momentum=0.9),
        partial(optax.sgd, 0.01, 0.9),
    ),
    "Adam": (optim.Adam(0.001), partial(torch.optim.Adam, lr=0.001), partial(optax.adam, 0.001)),
}


def ours(work: Work, library: str, engine: str) -> Trained:
    home = backends.get(library)
    params = tree.map(home.asarray, work.start)
    x, y = map(home.asarray, work.data)

    def run(epochs: int) -> Any:
        model = tinynn.fit(
            work.net, x, y, loss=LOSSES[work.loss][0], optimizer=OPTIMIZERS[work.optimizer][0],
            params=params, batch_size=work.batch, epochs=epochs, shuffle=False, progress=False,
            engine=engine, dtype="float32",
        )  # fmt: skip
        # A sum over rows is one over the batches of an epoch as well.
        shares = len(work.batches) if work.loss == "squared" else 1
        return np.asarray(model.history["loss"]) / shares

    return run


def of_torch(work: Work) -> Trained:
    net, cost = work.torch(), LOSSES[work.loss][1]
    batches = [tuple(map(torch.tensor, batch)) for batch in work.batches]
    start = work.in_torch(work.turned(work.start))
    start = torch.tensor(np.concatenate([array.ravel() for array in start]))

    def run(epochs: int) -> Any:
        with torch.no_grad():  # PyTorch's attention has three weights in one, and three biases
            torch.nn.utils.vector_to_parameters(start, net.parameters())
        rule, found = OPTIMIZERS[work.optimizer][1](net.parameters(), fused=True), []
        for x, y in batches * epochs:
            rule.zero_grad()
            loss = cost(net(x), y)
            loss.backward()
            rule.step()
            found.append(loss.detach())
        return torch.stack(found).reshape(epochs, -1).mean(1).numpy()

    return run


def of_equinox(work: Work, scan: bool) -> Trained:
    made, cost, rule = work.equinox(), LOSSES[work.loss][2], OPTIMIZERS[work.optimizer][2]()
    own, static = eqx.partition(made, eqx.is_array)
    pairs = zip(jax.tree.leaves(own), work.turned(work.start), strict=True)
    shaped = [given.reshape(leaf.shape) for leaf, given in pairs]
    batches = [tuple(map(jnp.asarray, batch)) for batch in work.batches]
    stacked = tuple(map(jnp.stack, zip(*batches, strict=True)))

    def loss_of(net: Any, x: Any, y: Any) -> Any:
        return cost(jax.vmap(net)(x), y)

    def step(net: Any, state: Any, x: Any, y: Any) -> Any:
        loss, slopes = eqx.filter_value_and_grad(loss_of)(net, x, y)
        updates, state = rule.update(slopes, state, eqx.filter(net, eqx.is_array))
        return eqx.apply_updates(net, updates), state, loss

    def once(carry: Any, batch: Any) -> Any:
        net, state, loss = step(eqx.combine(carry[0], static), carry[1], *batch)
        return (eqx.filter(net, eqx.is_array), state), loss

    each = eqx.filter_jit(step, donate="none")
    epoch = jax.jit(
        lambda carry, turns: jax.lax.scan(
            lambda kept, _: jax.lax.scan(once, kept, stacked), carry, None, turns
        ),
        static_argnums=1,
    )

    def run(epochs: int) -> Any:
        net = jax.tree.unflatten(jax.tree.structure(own), map(jnp.asarray, shaped))
        carry, found = (net, rule.init(net)), []
        if scan:
            return np.asarray(epoch(carry, epochs)[1]).mean(1)
        net, state = eqx.combine(net, static), carry[1]
        for x, y in batches * epochs:
            net, state, loss = each(net, state, x, y)
            found.append(loss)
        return np.reshape(jax.device_get(found), (epochs, -1)).mean(1)

    return run


# The works.


def draws(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def classes(count: int, rows: int) -> Any:
    return np.random.default_rng(1).integers(0, count, rows)


def dense(title: str, widths: tuple[int, ...], batch: int, rows: int) -> Work:
    """relu between dense layers, cross entropy, Adam."""
    pairs = list(pairwise(widths))
    sizes = widths[1:]

    def between(parts: Arrays, act: Any) -> Arrays:
        return [each for part in parts for each in (part, act)][:-1]

    return Work(
        title,
        layers.Sequential(*between([layers.Linear(n) for n in sizes], relu)),
        "cross entropy", "Adam",
        lambda: nn.Sequential(*between([nn.Linear(*pair) for pair in pairs], nn.ReLU())),
        lambda: eqn.Sequential(
            between([eqn.Linear(*pair, key=KEY) for pair in pairs], eqn.Lambda(jax.nn.relu))
        ),
        (draws(rows, widths[0]), classes(widths[-1], rows)),
        batch,
    )  # fmt: skip


def xor() -> Work:
    x = np.asarray([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]], "float32")
    plain = partial(layers.Linear, bias=False)
    act = eqn.Lambda(jax.nn.sigmoid)
    return Work(
        "XOR 3-4-1, SGD",
        layers.Sequential(plain(4), sigmoid, plain(1), sigmoid),
        "squared", "SGD",
        lambda: nn.Sequential(
            nn.Linear(3, 4, False), nn.Sigmoid(), nn.Linear(4, 1, False), nn.Sigmoid()
        ),
        lambda: eqn.Sequential(
            [eqn.Linear(3, 4, False, key=KEY), act, eqn.Linear(4, 1, False, key=KEY), act]
        ),
        (np.tile(x, (256, 1)), np.tile(np.asarray([[0], [1], [1], [0]], "float32"), (256, 1))),
        4,
    )  # fmt: skip


def images(shape: Any, title: str, of_equinox: Any) -> Work:
    """A work of `convolutional.py`, of five batches or all it has."""
    x, y = shape.data()
    order, rows = network(shape)[1], 5 * shape.batch

    def as_theirs(params: Any) -> Arrays:
        flat = [params[str(place)][kind] for place in order for kind in ("weight", "bias")]
        return [np.ascontiguousarray(turned(shape, i, p, False)) for i, p in enumerate(flat)]

    return Work(
        title,
        network(shape)[0],
        "cross entropy", "momentum",
        lambda: torch_network(shape),
        of_equinox,
        (x[:rows], y[:rows]),
        shape.batch,
        as_theirs,
        theirs=lambda x: np.ascontiguousarray(x.transpose(0, 3, 1, 2)),
        given=nested(shape, shape.start()),
        loops=False,
    )  # fmt: skip


def lenet() -> Work:
    def of_equinox() -> Any:
        act, pool = eqn.Lambda(jax.nn.relu), eqn.MaxPool2d(2, 2)
        return eqn.Sequential([
            eqn.Conv2d(1, 6, 5, padding=2, key=KEY), act, pool,
            eqn.Conv2d(6, 16, 5, key=KEY), act, pool, eqn.Lambda(jnp.ravel),
            eqn.Linear(400, 120, key=KEY), act, eqn.Linear(120, 84, key=KEY), act,
            eqn.Linear(84, 10, key=KEY),
        ])  # fmt: skip

    return images(WORKS[0], "LeNet, momentum", of_equinox)


class Recurrent(nn.Module):
    """PyTorch's layer and a dense one of its last state."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = getattr(nn, kind)(8, 32, bias=False, batch_first=True)
        self.out = nn.Linear(32, 1)

    def forward(self, x: Any) -> Any:
        return self.out(self.layer(x)[0][:, -1])


class Cell(eqx.Module):
    """Equinox's cell over the steps, and a dense layer."""

    cell: Any
    out: Any

    def __init__(self, kind: str) -> None:
        self.cell = getattr(eqn, f"{kind}Cell")(8, 32, use_bias=False, key=KEY)
        self.out = eqn.Linear(32, 1, key=KEY)

    def __call__(self, x: Any) -> Any:
        zero = jnp.zeros(32)
        pair = isinstance(self.cell, eqn.LSTMCell)
        start = (zero, zero) if pair else zero
        last, _ = jax.lax.scan(lambda h, x: (self.cell(x, h), None), start, x)
        return self.out(last[0] if pair else last)


def recurrent(kind: str) -> Work:
    layer = getattr(layers, kind)(32, bias=False)
    return Work(
        f"{kind} 8-32, 100 steps, SGD",
        layers.Sequential(layer, layers.Linear(1)),
        "mean squared", "SGD, 0.01",
        partial(Recurrent, kind), partial(Cell, kind),
        (draws(32, 100, 8), draws(32, 1, seed=1)),
        32,
        lambda params: as_cells(params, kind),
    )  # fmt: skip


def as_cells(params: Any, kind: str) -> Arrays:
    own, out = params["0"], params["1"]
    turned = [own["weight"].T, own["recurrent_weight"].T, out["weight"].T, out["bias"]]
    return list(map(np.ascontiguousarray, turned))


class Block(eqx.Module):
    """Of Equinox's layers: attention and two dense layers, normalised first."""

    attention: Any
    hidden: Any
    out: Any
    norms: Any

    def __init__(self) -> None:
        biases = dict.fromkeys([f"use_{n}_bias" for n in ("query", "key", "value", "output")], True)
        self.attention = eqn.MultiheadAttention(4, 64, **biases, key=KEY)
        self.hidden, self.out = eqn.Linear(64, 256, key=KEY), eqn.Linear(256, 64, key=KEY)
        self.norms = [eqn.LayerNorm(64), eqn.LayerNorm(64)]

    def __call__(self, x: Any) -> Any:
        h = jax.vmap(self.norms[0])(x)
        x = x + self.attention(h, h, h)
        h = jax.nn.gelu(jax.vmap(self.hidden)(jax.vmap(self.norms[1])(x)), approximate=False)
        return x + jax.vmap(self.out)(h)


def block() -> Work:
    def as_blocks(params: Any) -> Arrays:
        own = params["attention"]
        pairs = [own["query"], own["key"], own["value"], own["out"], params["hidden"]]
        pairs += [params["out"], params["norm1"], params["norm2"]]
        return [np.ascontiguousarray(p[k].T) for p in pairs for k in ("weight", "bias")]

    def of_torch() -> Any:
        return nn.TransformerEncoderLayer(
            64, 4, 256, 0.0, "gelu", batch_first=True, norm_first=True
        )

    return Work(
        "Transformer block 64, 4 heads, length 128, Adam",
        layers.TransformerEncoderBlock(4),
        "mean squared", "Adam",
        of_torch, Block,
        (draws(16, 128, 64), draws(16, 128, 64, seed=1)),
        16,
        as_blocks,
        lambda own: [*own[:6:2], *own[1:6:2], *own[6:]],
        loops=False,
    )  # fmt: skip


class Pooled(eqx.Module):
    """The mean of the vectors of a text's tokens, and a dense layer."""

    vectors: Any
    out: Any

    def __init__(self) -> None:
        self.vectors, self.out = eqn.Embedding(1000, 32, key=KEY), eqn.Linear(32, 4, key=KEY)

    def __call__(self, ids: Any) -> Any:
        return self.out(jnp.mean(jax.vmap(self.vectors)(ids), axis=0))


def embedding() -> Work:
    ids = np.random.default_rng(0).integers(0, 1000, (320, 50)).astype("int32")

    def as_tables(params: Any) -> Arrays:
        return [params["0"]["weight"], params["1"]["weight"].T.copy(), params["1"]["bias"]]

    return Work(
        "EmbeddingBag 1000 x 32, 50 tokens, Adam",
        layers.Sequential(layers.EmbeddingBag(1000, 32), layers.Linear(4)),
        "cross entropy", "Adam",
        lambda: nn.Sequential(nn.EmbeddingBag(1000, 32, mode="mean"), nn.Linear(32, 4)),
        Pooled,
        (ids, classes(4, 320)),
        32,
        as_tables,
        loops=False,
    )  # fmt: skip


ALL: dict[str, Callable[[], Work]] = {
    "xor": xor,
    "digits": lambda: dense("Digits 64-32-10, batch 32, Adam", (64, 32, 10), 32, 1792),
    "w3": lambda: dense("784-256-128-10, batch 128, Adam", (784, 256, 128, 10), 128, 1280),
    "lenet": lenet,
    "gru": lambda: recurrent("GRU"),
    "lstm": lambda: recurrent("LSTM"),
    "block": block,
    "embedding": embedding,
}


def length_of(run: Trained, least: float = 0.1) -> int:
    """So many epochs that they take that many seconds more than one, after compiling."""

    def took(epochs: int) -> float:
        run(epochs)
        start = process_time()
        run(epochs)
        return process_time() - start

    one, epochs = took(1), 4
    while took(epochs) - one < least:
        epochs *= 4
    return epochs


def contenders(work: Work, library: str) -> dict[str, Trained]:
    if library == "torch":
        engines = ["calls", *(["loops"] if work.loops else [])]
        own = {f"tinynn, {engine}": ours(work, "torch", engine) for engine in engines}
        return {"torch.nn": of_torch(work), **own}
    return {
        "Equinox, a step a call": of_equinox(work, False),
        "Equinox, lax.scan": of_equinox(work, True),
        "tinynn, jit": ours(work, "jax", "jit"),
    }


def measured(work: Work, library: str, rounds: int) -> dict[str, float]:
    """The milliseconds of a step of each."""
    runs = contenders(work, library)
    expected, *others = [np.asarray(run(3)) for run in runs.values()]
    for other in others:
        np.testing.assert_allclose(other, expected, rtol=1e-3)
    lengths = {name: length_of(run) for name, run in runs.items()}
    for name, run in runs.items():
        run(4 * lengths[name])  # what is compiled for that length
    least = {(name, turns): np.inf for name in runs for turns in (1, 4)}
    for _ in range(rounds):
        for name, run in runs.items():
            for turns in (1, 4):
                start = process_time()
                run(turns * lengths[name])
                least[name, turns] = min(least[name, turns], process_time() - start)
    steps = {name: 3 * length * len(work.batches) for name, length in lengths.items()}
    return {n: 1e3 * (least[n, 4] - least[n, 1]) / steps[n] for n in runs}


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True)
@click.option("--only", type=click.Choice([*ALL]), multiple=True)
@click.option("--library", type=click.Choice(["torch", "jax"]), multiple=True)
def main(rounds: int, only: tuple[str, ...], library: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    print(f"milliseconds of a step, of {rounds} rounds in turn")
    for name in only or ALL:
        work = ALL[name]()
        for each in library or ("torch", "jax"):
            times = measured(work, each, rounds)
            best = min(time for who, time in times.items() if not who.startswith("tinynn"))
            shown = ", ".join(f"{who} {t:.4g} ({t / best:.2f})" for who, t in times.items())
            print(f"{work.title}, {each}: {shown}", flush=True)


if __name__ == "__main__":
    main()
