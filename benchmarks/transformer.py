"""A transformer block's training step, beside PyTorch and JAX.

pip install torch jax
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
export XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
python benchmarks/transformer.py [--rounds N] [--length N]

Width 64, 4 heads, batch 16, hidden layer 256, gelu, normalised first; mean squared error, and SGD.
float32, one thread; times are those of the processor, since others may use it as well. The weights
are the same for all, and so have to be losses and new weights.
"""

from collections.abc import Callable
from time import process_time
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
import torch

import tinynn
from tinynn import tree
from tinynn.layers import TransformerEncoderBlock
from tinynn.trace import namespace

BATCH, WIDTH, HEADS, RATE = 16, 64, 4, 0.01
NET = TransformerEncoderBlock(HEADS)
Run = Callable[[], Any]


def given(length: int) -> tuple[dict[str, Any], Any, Any]:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, BATCH, length, WIDTH)).astype("float32")
    return NET.init(0, x)[0], x, y


def ours(length: int, place: Callable[[Any], Any]) -> Run:
    def loss(params: Any, x: Any, y: Any) -> Any:
        error = NET(params, x) - y
        return namespace(error).mean(error * error)

    def step(params: Any, x: Any, y: Any) -> Any:
        value, gradient = tinynn.value_and_grad(loss)(params, x, y)
        return value, tree.map(lambda p, g: p - RATE * g, params, gradient)

    program = tinynn.compile(step)
    params, x, y = tree.map(place, given(length))
    return lambda: jax.block_until_ready(program(params, x, y))  # does nothing to NumPy's


def of_jax(length: int) -> Run:
    params, x, y = tree.map(jnp.asarray, given(length))

    def norm(p: Any, x: Any) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * p["weight"] + p["bias"]

    def linear(p: Any, x: Any) -> Any:
        return x @ p["weight"] + p["bias"]

    def loss(p: Any) -> Any:
        h = norm(p["norm1"], x)
        q, k, v = (
            linear(p["attention"][name], h).reshape(BATCH, length, HEADS, WIDTH // HEADS)
            for name in ("query", "key", "value")
        )
        h = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        z = x + linear(p["attention"]["out"], h)
        h = jax.nn.gelu(linear(p["hidden"], norm(p["norm2"], z)), approximate=False)
        return jnp.mean((z + linear(p["out"], h) - y) ** 2)

    @jax.jit
    def step(params: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - RATE * g, params, gradient)

    return lambda: jax.block_until_ready(step(params))


def start_of(params: Any) -> dict[str, Any]:
    """The parameters as PyTorch's layer has them."""
    own, parts = params["attention"], ("query", "key", "value")
    start = {
        "self_attn.in_proj_weight": np.concatenate([own[part]["weight"].T for part in parts]),
        "self_attn.in_proj_bias": np.concatenate([own[part]["bias"] for part in parts]),
        "self_attn.out_proj.weight": own["out"]["weight"].T,
        "self_attn.out_proj.bias": own["out"]["bias"],
        **{f"linear1.{k}": w.T for k, w in params["hidden"].items()},
        **{f"linear2.{k}": w.T for k, w in params["out"].items()},
        **{f"norm{i}.{k}": w for i in (1, 2) for k, w in params[f"norm{i}"].items()},
    }
    return {name: torch.tensor(np.ascontiguousarray(array)) for name, array in start.items()}


def of_torch(length: int) -> Run:
    params, x, y = given(length)
    net = torch.nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
    )
    x, y = torch.tensor(x), torch.tensor(y)
    net.load_state_dict(start_of(params))
    optimizer = torch.optim.SGD(net.parameters(), RATE)

    def run() -> Any:
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


@click.command()
@click.option("--rounds", default=15, show_default=True)
@click.option("--length", default=128, show_default=True)
def main(rounds: int, length: int) -> None:
    torch.set_num_threads(1)
    print(f"length {length}; milliseconds a step, the least of {rounds} rounds in turn")
    runs = {
        "tinynn, NumPy": ours(length, np.asarray),
        "tinynn, PyTorch": ours(length, torch.asarray),
        "tinynn, JAX": ours(length, jnp.asarray),
        "JAX": of_jax(length),
        "PyTorch": of_torch(length),
    }
    results = {name: run() for name, run in runs.items()}
    value, params = results["tinynn, NumPy"]
    np.testing.assert_allclose(results["PyTorch"], value, rtol=1e-4)
    for name in ("tinynn, PyTorch", "tinynn, JAX", "JAX"):
        np.testing.assert_allclose(results[name][0], value, rtol=1e-4)
        theirs = dict(tree.paths(results[name][1]))
        for path, array in tree.paths(params):
            np.testing.assert_allclose(array, theirs[path], rtol=1e-3, atol=1e-5)
    least = dict.fromkeys(runs, np.inf)
    for _ in range(rounds):
        for name, run in runs.items():
            start = process_time()
            run()
            least[name] = min(least[name], process_time() - start)
    print(", ".join(f"{name} {1e3 * seconds:.2f}" for name, seconds in least.items()))


if __name__ == "__main__":
    main()
