"""Training on JAX's arrays that are sharded over several devices: XLA is what makes it parallel.

    nox -s sharding

Not part of the suite: JAX's CPU has several devices only if it is told so before it starts.
"""

import os
from typing import Any

os.environ["XLA_FLAGS"] = " ".join(
    (os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=4")
)
os.environ["PJRT_NPROC"] = "16"  # threads; with few, the devices may wait for each other

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import backends
import tinynn
from tinynn import tree
from tinynn.functional import relu
from tinynn.layers import BatchNorm, Dropout, Linear, Sequential
from tinynn.training import engines, prepare

NET = Sequential(Linear(8, bias=False), BatchNorm(epsilon=0.1), relu, Dropout(0.2), Linear(2))


def data(sharded: bool, rows: int = 48) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 8)).astype("float32")
    y = (x[:, 0] * x[:, 1] > 0).astype("int32")
    if not sharded:
        return jnp.asarray(x), jnp.asarray(y)
    mesh = Mesh(np.asarray(jax.devices()), ("rows",))
    by_row = NamedSharding(mesh, PartitionSpec("rows"))
    return jax.device_put(x, by_row), jax.device_put(y, by_row)


def fitted(sharded: bool, **given: Any) -> Any:
    arguments = {"epochs": 2, "batch_size": 16, "seed": 3, "progress": False, "optimizer": "sgd"}
    arguments |= given
    return tinynn.fit(NET, *data(sharded, 36), **arguments)


@pytest.mark.parametrize("engine", ["jit", "eager"])
def test_four_devices_give_the_losses_of_one(engine: str) -> None:
    # Of 36 samples, 16 a step, the last 4 are smaller.
    one, four = fitted(False, engine=engine), fitted(True, engine=engine)
    for name, column in one.history.items():
        np.testing.assert_allclose(four.history[name], column, rtol=1e-5)
    for left, right in zip(*map(tree.leaves, (four.params, one.params)), strict=True):
        assert len(left.sharding.device_set) == 4
        assert left.sharding.is_fully_replicated
        np.testing.assert_allclose(np.asarray(left), np.asarray(right), rtol=1e-4, atol=1e-6)


def test_two_runs_have_the_same_bits() -> None:
    sums = [fitted(True).params["0"]["weight"].tobytes() for _ in range(2)]
    assert sums[0] == sums[1]


def test_the_loop_sums_gradients_over_devices() -> None:
    x, y = data(True)
    problem = prepare(Linear(2), x, y, batch_size=16)
    engine = engines.select(problem, "jit", epochs=2)
    batches = engine.loop.batches(16, [x, y], ())
    for array in batches:
        assert array.sharding.spec == PartitionSpec(None, "rows")
    lowered = engine.loop._repeat.lower(tuple(engine.loop.kept), batches, 1)
    assert "all-reduce" in lowered.compile().as_text()


def test_a_sharded_array_has_the_backend_of_its_devices() -> None:
    x, y = data(True)
    backend = backends.of(x, y)
    assert repr(backend) == "jax:cpu:0,1,2,3"
    assert backend == backends.of(backend.asarray([1.0]))
    assert backend != backends.get("jax")
    assert backend.asarray([1.0]).sharding.is_fully_replicated
    spec = backend.shard_rows(backend.asarray(np.zeros((8, 2), "float32"))).sharding.spec
    assert spec == PartitionSpec("rows")
    # A batch that the devices do not divide is whole on each.
    assert backend.shard_rows(backend.asarray([1.0] * 3)).sharding.is_fully_replicated
    with pytest.raises(backends.MixedArrays, match=r"jax:cpu:0,1,2,3"):
        backends.of(x, jnp.zeros(3))


def test_answers_are_given_for_either() -> None:
    given = {"validation": 0.25, "metrics": ["accuracy"], "epochs": 1}
    model, one = fitted(True, **given), fitted(False, **given)
    for name, column in one.history.items():
        np.testing.assert_allclose(model.history[name], column, rtol=1e-5)
    found = np.asarray(model.predict(data(True)[0]))
    # The devices' shares have other shapes, in which XLA may round otherwise.
    np.testing.assert_allclose(found, one.predict(data(False)[0]), rtol=1e-4, atol=1e-6)


def test_few_threads_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PJRT_NPROC", "7")  # XLA has read it before
    backend = backends.of(*data(True))
    with pytest.warns(RuntimeWarning, match='got 7 in all.*"PJRT_NPROC"] = "8"'), backend.scope():
        pass
    monkeypatch.setenv("PJRT_NPROC", "8")
    with backend.scope(), backends.get("jax").scope():
        pass
