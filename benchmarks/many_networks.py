"""Many networks at once: `fit_many` beside `jax.vmap` and `lax.scan` by hand, and a loop of `fit`.

pip install jax llvmlite
python benchmarks/many_networks.py [--rounds N] [--only w8,w8b]

W8: 64 networks 64-32-10, relu, Adam, batches of 32 of 2,048 rows, float32; microseconds a network
and step, from the difference of a long run and a short one. W8b: 1,000 XOR networks 2-4-1, tanh,
Adam, 10,000 steps of all four rows; seconds from start to end, without NumPy's and JAX's import.
Every competitor starts from the same parameters; losses have to agree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter, process_time
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np

import tinynn
from backends import random
from tinynn.functional import relu, tanh
from tinynn.layers import Linear, Sequential
from tinynn.optim import Adam

Run = Callable[[int], Any]  # epochs -> the mean loss of each network in the last one


@dataclass
class Work:
    """What is trained: `few` are as many networks as a loop of `fit` is given."""

    net: Any
    x: Any
    y: Any
    loss: str
    batch: int
    networks: int
    few: int

    @property
    def steps(self) -> int:
        return len(self.x) // self.batch

    def given(self, **more: Any) -> dict[str, Any]:
        shared = {"loss": self.loss, "optimizer": Adam(0.01), "batch_size": self.batch}
        return shared | {"shuffle": False, "progress": False} | more


def works() -> dict[str, Work]:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2048, 64)).astype("float32"), draw.integers(0, 10, 2048)
    xor = (
        np.asarray([[0, 0], [0, 1], [1, 0], [1, 1]], "float32"),
        np.asarray([[0.0], [1], [1], [0]]),
    )
    digits = Sequential(Linear(32), relu, Linear(10))
    small = Sequential(Linear(4), tanh, Linear(1))
    return {
        "w8": Work(digits, x, y, "cross_entropy", 32, 64, 4),
        "w8b": Work(small, xor[0], xor[1].astype("float32"), "binary_cross_entropy", 4, 1000, 10),
    }


def ours(work: Work, engine: str, shuffle: bool = False) -> Run:
    def run(epochs: int) -> Any:
        given = work.given(engine=engine, shuffle=shuffle, epochs=epochs)
        stack = tinynn.fit_many(work.net, work.x, work.y, networks=work.networks, **given)
        return stack.history["loss"][:, -1]

    return run


def one_by_one(work: Work, epochs: int) -> Any:
    """The first few networks, each by `fit`."""
    given = work.given(engine="loops", epochs=epochs)
    models = [tinynn.fit(work.net, work.x, work.y, seed=k, **given) for k in range(work.few)]
    return np.asarray([model.history["loss"][-1] for model in models])


def of_jax(work: Work) -> Run:
    """`lax.scan` over the steps of an epoch, and over the epochs, of `vmap` of a step."""
    x = jnp.asarray(work.x).reshape(work.steps, work.batch, -1)
    y = jnp.asarray(work.y).reshape(work.steps, work.batch, *work.y.shape[1:])
    act = jax.nn.relu if work.loss == "cross_entropy" else jnp.tanh

    def loss_of(params: Any, x: Any, y: Any) -> Any:
        out = act(x @ params["0"]["weight"] + params["0"]["bias"])
        out = out @ params["2"]["weight"] + params["2"]["bias"]
        if work.loss == "cross_entropy":
            return -jnp.mean(jax.nn.log_softmax(out)[jnp.arange(work.batch), y])
        return jnp.mean(jax.nn.softplus(out) - y * out)

    def step(carry: Any, batch: Any) -> Any:
        params, m, v, t = carry
        loss, g = jax.value_and_grad(loss_of)(params, *batch)
        t = t + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        rate, root = 0.01 / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)

        def new(p: Any, m: Any, v: Any) -> Any:
            return p - rate * m / (jnp.sqrt(v) / root + 1e-8)

        return (jax.tree.map(new, params, m, v), m, v, t), loss

    many = jax.vmap(step, in_axes=(0, None))

    @partial(jax.jit, static_argnums=1)
    def trained(carry: Any, epochs: int) -> Any:
        def epoch(carry: Any, _: Any) -> Any:
            carry, losses = jax.lax.scan(many, carry, (x, y))
            return carry, losses.mean(axis=0)

        return jax.lax.scan(epoch, carry, None, length=epochs)[1]

    def run(epochs: int) -> Any:
        keys = np.stack([random.key(k, "numpy") for k in range(work.networks)])
        params = tinynn.vmap(lambda key: work.net.init(key, work.x[:1])[0])(keys)
        params = jax.tree.map(jnp.asarray, params)
        zeros = jax.tree.map(jnp.zeros_like, params)
        carry = (params, zeros, zeros, jnp.zeros(work.networks))
        return np.asarray(trained(carry, epochs))[-1]

    return run


def agree(results: dict[str, Any], rtol: float) -> None:
    first = next(iter(results.values()))
    for name, losses in results.items():
        if "shuffled" not in name:
            np.testing.assert_allclose(losses, first[: len(losses)], rtol=rtol, err_msg=name)


def timed(run: Run, epochs: int) -> Any:
    start = perf_counter(), process_time()
    run(epochs)
    return np.asarray([perf_counter() - start[0], process_time() - start[1]])


def table(head: str, rows: dict[str, Any], unit: float) -> None:
    print(f"| | {head}, by the clock | of all processors |\n|---|---|---|")
    for name, (clock, processor) in rows.items():
        print(f"| {name} | {clock * unit:.2f} | {processor * unit:.2f} |")


def w8(rounds: int) -> None:
    work, short, long = works()["w8"], 2, 12
    runs: dict[str, Run] = {
        'fit_many, engine="loops"': ours(work, "loops"),
        'fit_many, engine="loops", shuffled': ours(work, "loops", shuffle=True),
        'fit_many, engine="calls"': ours(work, "calls"),
        "jax.vmap by hand": of_jax(work),
        'a loop of fit, engine="loops"': partial(one_by_one, work),
    }
    agree({name: run(short) for name, run in runs.items()}, rtol=1e-3)
    for run in runs.values():
        run(long)
    least = dict.fromkeys(runs, np.full(2, np.inf))
    for _ in range(rounds):
        for name, run in runs.items():
            networks = work.few if "a loop" in name else work.networks
            took = timed(run, long) - timed(run, short)
            each = took / ((long - short) * work.steps * networks)
            least[name] = np.minimum(least[name], each)
    table("us a network and step", least, 1e6)


def w8b(rounds: int) -> None:
    work, epochs = works()["w8b"], 10_000
    runs: dict[str, Run] = {
        'fit_many, engine="auto"': ours(work, "auto"),
        'fit_many, engine="calls"': ours(work, "calls"),
        "jax.vmap by hand": of_jax(work),
        'a loop of fit, engine="loops"': partial(one_by_one, work),
    }
    agree({name: run(200) for name, run in runs.items()}, rtol=1e-2)
    least = dict.fromkeys(runs, np.full(2, np.inf))
    for _ in range(rounds):
        for name, run in runs.items():
            jax.clear_caches()
            share = work.networks / work.few if "a loop" in name else 1
            least[name] = np.minimum(least[name], timed(run, epochs) * share)
    table("s from start to end", least, 1)


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True)
@click.option("--only", default="w8,w8b", show_default=True)
def main(rounds: int, only: str) -> None:
    for name, measure in {"w8": w8, "w8b": w8b}.items():
        if name in only.split(","):
            print(f"### {name.upper()}")
            measure(rounds)


if __name__ == "__main__":
    main()
