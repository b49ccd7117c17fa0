"""A recurrent layer's loss and gradients: scan, compiled, beside PyTorch's layers and JAX's scan.

pip install torch jax
python benchmarks/recurrent.py [--rounds N] [--steps N]

GRU and LSTM, 8 features to 32, batch 32, one dense output, squared error, float32. The weights are
the same for all, and so have to be losses and gradients.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
import torch

import tinynn

BATCH, FEATURES, WIDTH = 32, 8, 32
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


def ours(kind: str, steps: int, place: Callable[[Any], Any]) -> Run:
    program = tinynn.compile(tinynn.value_and_grad(loss_of(kind, tinynn.scan)))
    params, x, y = given(kind, steps)
    params, x, y = {k: place(v) for k, v in params.items()}, place(x), place(y)
    return lambda: jax.block_until_ready(program(params, x, y))  # does nothing to NumPy's


def of_jax(kind: str, steps: int) -> Run:
    program = jax.jit(jax.value_and_grad(loss_of(kind, jax.lax.scan)))
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

    def run() -> Any:
        layer.zero_grad()
        out.zero_grad()
        loss = (out(layer(x)[0][-1]) - y).square().mean()
        loss.backward()
        turned = [p.grad.mT if p.ndim == 2 else p.grad for p in own]
        return loss.detach(), dict(zip(params, turned, strict=True))

    return run


@click.command()
@click.option("--rounds", default=15, show_default=True)
@click.option("--steps", default=100, show_default=True)
def main(rounds: int, steps: int) -> None:
    torch.set_num_threads(1)
    print(f"{steps} time steps; milliseconds, the least of {rounds} rounds in turn")
    for kind in GATES:
        runs = {
            "tinynn, NumPy": ours(kind, steps, np.asarray),
            "tinynn, JAX": ours(kind, steps, jnp.asarray),
            "JAX": of_jax(kind, steps),
            "PyTorch": of_torch(kind, steps),
        }
        results = {name: run() for name, run in runs.items()}
        value, gradient = results["tinynn, NumPy"]
        for other, theirs in results.values():
            np.testing.assert_allclose(value, other, rtol=1e-4)
            for name, array in gradient.items():
                np.testing.assert_allclose(array, theirs[name], rtol=1e-3, atol=1e-5)
        least = dict.fromkeys(runs, np.inf)
        for _ in range(rounds):
            for name, run in runs.items():
                start = perf_counter()
                run()
                least[name] = min(least[name], perf_counter() - start)
        shown = ", ".join(f"{name} {1e3 * seconds:.2f}" for name, seconds in least.items())
        print(f"{kind}: {shown}")


if __name__ == "__main__":
    main()
