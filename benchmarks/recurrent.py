"""A training step of a recurrent layer: scan in loops and calls, beside PyTorch's layers and JAX's.

pip install torch jax
python benchmarks/recurrent.py [--rounds N] [--steps N]

GRU and LSTM, 8 features to 32, batch 32, one dense output, squared error, SGD, float32. The weights
are the same for all, and so have to be the loss and the weights after the first step.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
import torch

import backends
import tinynn
from tinynn.compiler.loops import Loops
from tinynn.compiler.pipelines import decompositions
from tinynn.transforms.record import record

BATCH, FEATURES, WIDTH, RATE = 32, 8, 32, 0.01
GATES = {"GRU": 3, "LSTM": 4}
Run = Callable[[], Any]


def given(kind: str, steps: int) -> tuple[dict[str, Any], Any, Any]:
    """Parameters in PyTorch's layout, turned; x: (steps, batch, features), y: (batch, 1)."""
    draw, wide = np.random.default_rng(0), GATES[kind] * WIDTH
    shapes = {"w_x": (FEATURES, wide), "w_h": (WIDTH, wide), "b_x": (wide,), "b_h": (wide,),
              "w_o": (WIDTH, 1), "b_o": (1,)}  # fmt: skip
    params = {k: draw.normal(size=s).astype("float32") / s[0] ** 0.5 for k, s in shapes.items()}
    x, y = draw.normal(size=(steps, BATCH, FEATURES)), draw.normal(size=(BATCH, 1))
    return params, x.astype("float32"), y.astype("float32")


def loss_of(kind: str, scan: Any) -> Callable[..., Any]:
    """The loss, in functions of the standard; `scan` is ours or JAX's."""

    def loss(params: dict[str, Any], x: Any, y: Any) -> Any:
        xp = (params["w_x"] + 0).__array_namespace__()

        def sigmoid(a: Any) -> Any:
            return 1 / (1 + xp.exp(-a))

        def gru(carry: Any, x: Any) -> Any:
            (h,) = carry
            a, b = x @ params["w_x"] + params["b_x"], h @ params["w_h"] + params["b_h"]
            r, z = (sigmoid(a[:, i : i + WIDTH] + b[:, i : i + WIDTH]) for i in (0, WIDTH))
            n = xp.tanh(a[:, 2 * WIDTH :] + r * b[:, 2 * WIDTH :])
            return ((1 - z) * n + z * h,), None

        def lstm(carry: Any, x: Any) -> Any:
            h, c = carry
            a = x @ params["w_x"] + params["b_x"] + h @ params["w_h"] + params["b_h"]
            i, f, o = (sigmoid(a[:, k * WIDTH : (k + 1) * WIDTH]) for k in (0, 1, 3))
            c = f * c + i * xp.tanh(a[:, 2 * WIDTH : 3 * WIDTH])
            return (o * xp.tanh(c), c), None

        zeros = xp.zeros((BATCH, WIDTH), dtype=x.dtype)
        carry = (zeros,) if kind == "GRU" else (zeros, zeros)
        (h, *_), _ = scan(gru if kind == "GRU" else lstm, carry, x)
        return xp.mean(xp.square(h @ params["w_o"] + params["b_o"] - y))

    return loss


def step_of(kind: str, scan: Any, value_and_grad: Any) -> Callable[..., Any]:
    """The training step: the new parameters and the loss of the old ones."""

    def step(params: dict[str, Any], x: Any, y: Any) -> Any:
        value, slopes = value_and_grad(loss_of(kind, scan))(params, x, y)
        return {name: params[name] - RATE * slopes[name] for name in params}, value

    return step


def compiled(kind: str, steps: int, place: Callable[[Any], Any]) -> Run:
    program = tinynn.compile(step_of(kind, tinynn.scan, tinynn.value_and_grad))
    params, x, y = given(kind, steps)
    params, x, y = {k: place(v) for k, v in params.items()}, place(x), place(y)
    return lambda: jax.block_until_ready(program(params, x, y))  # does nothing to NumPy's


def loops(kind: str, steps: int) -> Run:
    """The step as `fit(engine="loops")` runs it; the parameters live on in its memory."""
    params, x, y = given(kind, steps)
    backend, count = backends.of(x), len(params)
    step = step_of(kind, tinynn.scan, tinynn.value_and_grad)
    graph = record(step, params, x, y, decompositions=decompositions(backend.lowering))
    program = Loops(graph, count, backend, [list(range(count))])
    program.load(list(params.values()))
    batches = program.steps(1, [x, y])

    def run() -> Any:
        losses = program.run(batches)
        return dict(zip(params, program.values(), strict=True)), losses[0]

    return run


def of_jax(kind: str, steps: int) -> Run:
    program = jax.jit(step_of(kind, jax.lax.scan, jax.value_and_grad))
    params, x, y = jax.tree.map(jnp.asarray, given(kind, steps))
    return lambda: jax.block_until_ready(program(params, x, y))


def of_torch(kind: str, steps: int) -> Run:
    params, x, y = given(kind, steps)
    layer, out = getattr(torch.nn, kind)(FEATURES, WIDTH), torch.nn.Linear(WIDTH, 1)
    own = [*layer.parameters(), *out.parameters()]
    with torch.no_grad():
        for parameter, array in zip(own, params.values(), strict=True):
            parameter.copy_(torch.asarray(np.ascontiguousarray(array.T)))
    x, y = torch.asarray(x), torch.asarray(y)
    optimizer = torch.optim.SGD(own, lr=RATE)

    def run() -> Any:
        optimizer.zero_grad()
        loss = (out(layer(x)[0][-1]) - y).square().mean()
        loss.backward()
        optimizer.step()
        turned = [p.detach().mT if p.ndim == 2 else p.detach() for p in own]
        return dict(zip(params, turned, strict=True)), loss.detach()

    return run


@click.command()
@click.option("--rounds", default=15, show_default=True)
@click.option("--steps", default=100, show_default=True)
def main(rounds: int, steps: int) -> None:
    torch.set_num_threads(1)
    print(f"{steps} time steps; milliseconds, the least of {rounds} rounds in turn")
    for kind in GATES:
        runs = {
            "tinynn, loops": loops(kind, steps),
            "tinynn, calls": compiled(kind, steps, np.asarray),
            "tinynn, JAX's arrays": compiled(kind, steps, jnp.asarray),
            "JAX": of_jax(kind, steps),
            "PyTorch": of_torch(kind, steps),
        }
        results = {name: run() for name, run in runs.items()}
        params, value = results["JAX"]
        for theirs, other in results.values():
            np.testing.assert_allclose(other, value, rtol=1e-4)
            for name, array in params.items():
                np.testing.assert_allclose(theirs[name], array, rtol=1e-3, atol=1e-5)
        least = dict.fromkeys(runs, np.inf)
        for _ in range(rounds):
            for name, run in runs.items():
                start = perf_counter()
                run()
                least[name] = min(least[name], perf_counter() - start)
        # In milliseconds, and as a ratio to the first.
        first = least["tinynn, loops"]
        shown = ", ".join(f"{name} {1e3 * s:.2f} ({s / first:.1f})" for name, s in least.items())
        print(f"{kind}: {shown}")


if __name__ == "__main__":
    main()
