"""Machine code of loops that works in the memory of PyTorch's tensors."""

from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tinynn import tree
from tinynn.functional import relu
from tinynn.layers import GRU, Linear, Sequential

LAYERS = {
    "dense": (Sequential(Linear(5), relu, Linear(3)), (24, 6)),
    "recurrent": (Sequential(GRU(4), Linear(3)), (24, 5, 2)),
}


@pytest.mark.only("torch")
@pytest.mark.reads_scalars
@pytest.mark.usefixtures("compiler_of_loops")
@pytest.mark.parametrize("name", LAYERS)
def test_loops_train_in_the_memory_of_tensors(backend: Any, name: str) -> None:
    """Machine code has the numbers of the calls, and writes into nothing that was given."""
    (net, shape), draw = LAYERS[name], np.random.default_rng(0)
    host = draw.normal(size=shape).astype("float32")
    x, y = backend.asarray(host), backend.asarray(draw.integers(0, 3, len(host)))
    given: dict[str, Any] = {"epochs": 3, "batch_size": 8, "seed": 1, "progress": False}
    params = net.init(0, x)[0]
    before = tree.map(lambda leaf: backend.to_host(leaf).copy(), params)
    calls, loops = (
        tinynn.fit(net, x, y, params=params, engine=engine, **given)
        for engine in ("calls", "loops")
    )
    np.testing.assert_allclose(loops.history["loss"], calls.history["loss"], rtol=1e-5)
    pairs = zip(*(tree.leaves(m.params) for m in (calls, loops)), strict=True)
    for theirs, ours in pairs:
        assert backends.of(ours) == backend
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(
            backend.to_host(ours), backend.to_host(theirs), rtol=1e-3, atol=1e-5
        )
    np.testing.assert_array_equal(backend.to_host(x), host)
    for kept, leaf in zip(tree.leaves(before), tree.leaves(params), strict=True):
        np.testing.assert_array_equal(backend.to_host(leaf), kept)


@pytest.mark.only("torch")
@pytest.mark.reads_scalars
@pytest.mark.usefixtures("compiler_of_loops")
def test_many_networks_in_loops_are_each_one_alone(backend: Any) -> None:
    draw, net = np.random.default_rng(0), Sequential(Linear(5), relu, Linear(3))
    x = backend.asarray(draw.normal(size=(24, 4)).astype("float32"))
    y = backend.asarray(draw.integers(0, 3, 24))
    given: dict[str, Any] = {"epochs": 2, "batch_size": 8, "engine": "loops", "progress": False}
    stack = tinynn.fit_many(net, x, y, networks=2, **given)
    for seed in range(2):
        alone = tinynn.fit(net, x, y, seed=seed, **given)
        np.testing.assert_allclose(stack[seed].history["loss"], alone.history["loss"], rtol=1e-6)
