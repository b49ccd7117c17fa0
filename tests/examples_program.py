"""A program that tests/processes_examples.py starts in several processes: the examples, shared out.

mpiexec -n 2 python -m tests.examples_program

Each example's own `main` is begun, and what it would train, its network on its data with its loss
and optimizer, is trained for a few steps instead, twice. Each process prints a line for each.
"""

import faulthandler
import importlib.util
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import tinynn
from tests.ranks_program import LIMIT
from tinynn import parallel, training, tree
from tinynn.data import Ragged
from tinynn.functional import sigmoid
from tinynn.layers import BatchNorm, Linear, Sequential
from tinynn.losses import SquaredError
from tinynn.optim import SGD

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ROWS, BATCH = 40, 12  # in batches of 12 that leave 4

#: Examples that train by what processes cannot share out.
ALONE = {
    "burgers": "Levenberg-Marquardt, which has the residuals of all points at once",
    "heat": "least_squares, which has the residuals of all points at once",
    "neural_ode": "least_squares, which has the residuals of all points at once",
    "pendulum": "least_squares, which has the residuals of all points at once",
}


class Enough(Exception):
    """What the example trains has been seen."""


def loaded(name: str) -> Any:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def first_fit(module: Any, of: str = "fit", **settings: Any) -> Iterator[tuple[Any, ...]]:
    """What an example gives to `fit`: the network, X, y and the arguments."""
    seen: list[tuple[Any, ...]] = []

    def kept(net: Any, x: Any, y: Any, **given: Any) -> Any:
        seen.append((net, x, y, given))
        raise Enough

    setattr(module, of, kept)
    try:
        module.main("numpy", **settings)
    except Enough:
        yield seen[0]


def digits(module: Any) -> Iterator[tuple[Any, ...]]:
    """With statistics of the whole batch, as one process has them."""
    for net, *rest in first_fit(module, seeds=1):
        whole = [replace(p, synchronized=True) if is_norm(p) else p for p in net.layers]
        yield Sequential(*whole), *rest


def is_norm(part: Any) -> bool:
    return isinstance(part, BatchNorm)


def languages(module: Any) -> Iterator[tuple[Any, ...]]:
    """Words padded to one length, since buckets are not shared out."""
    for net, x, y, given in first_fit(module, rows=80):
        assert isinstance(x, Ragged)
        yield net, x.padded(), y, given


def tiny(module: Any) -> Iterator[tuple[Any, ...]]:
    """All three networks, by `train`."""
    seen: list[tuple[Any, ...]] = []

    def kept(net: Any, params: Any, x: Any, y: Any, *rest: Any) -> Any:
        seen.append((net, x, y, half_squared(params)))
        return params, x

    module.train = kept
    module.main("numpy", 1)
    yield from seen


def half_squared(params: Any = None, loss: Any = None, rate: float = 1.0) -> dict[str, Any]:
    loss = SquaredError(reduction="half_sum") if loss is None else loss
    return {"params": params, "loss": loss, "optimizer": SGD(rate), "batch_size": None}


def by_hand(module: Any) -> Iterator[tuple[Any, ...]]:
    """A network that the example writes by hand, as layers."""
    import numpy as np

    x, y = np.asarray(module.X, "float64"), np.asarray(module.Y, "float64")
    if hasattr(module, "W1"):
        layers = [Linear(3, bias=False), tinynn.functional.relu, Linear(1, bias=False)]
        params = {"0": {"weight": np.asarray(module.W1)}, "2": {"weight": np.asarray(module.W2)}}
        given = half_squared(params, SquaredError(reduction="sum"), 1e-3)
    else:
        layers = [Linear(4, bias=False), sigmoid, Linear(1, bias=False), sigmoid]
        given = half_squared()
    yield Sequential(*layers), x, y, given


def boundaries(module: Any) -> Iterator[tuple[Any, ...]]:
    """All four networks, without their pictures."""
    for _, net, weights, x, y, reduction, rate, _ in module.networks():
        params = {str(2 * layer): {"weight": weight} for layer, weight in enumerate(weights)}
        yield net, x, y, half_squared(params, SquaredError(reduction=reduction), rate)


CASES: dict[str, Callable[[Any], Iterator[tuple[Any, ...]]]] = {
    "boundaries": boundaries,
    "character_transformer": lambda m: first_fit(m, size=3000, width=8, blocks=1),
    "digits_cnn": digits,
    "from_scratch": by_hand,
    "languages": languages,
    "many_networks": lambda m: first_fit(m, "fit_many"),
    "parity": first_fit,
    "really_small_network": by_hand,
    "simplest_network": by_hand,
    "sunspots": first_fit,
    "tiny_nn": tiny,
}


def trained(net: Any, x: Any, y: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The losses of a few steps, and checksums of the parameters after them, of two runs."""
    arguments = {**given, "epochs": 2, "progress": False, "communicator": "auto"}
    arguments.pop("networks", None)
    if arguments.get("batch_size") is not None:
        arguments["batch_size"] = BATCH
    x, y = tree.map(lambda a: a[:ROWS, ...], (x, y))
    found: dict[str, Any] = {"sums": []}
    for _ in range(2):
        model = training.fit(net, x, y, **arguments)
        raw = b"".join(leaf.tobytes() for leaf in tree.leaves(model.params))
        found["sums"].append(zlib.crc32(raw))
        found["loss"] = model.history["loss"]
    return found


def main() -> None:
    for name, case in CASES.items():
        for part, given in enumerate(case(loaded(name))):
            line = {"example": name, "part": part, **trained(*given)}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
    if together := parallel.communicator("auto"):
        together.barrier()


if __name__ == "__main__":
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    main()
