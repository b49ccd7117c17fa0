"""Model.predict, asked often, answers by a program: the same, whatever becomes of the model."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from backends import Backend
from tests.checks import assert_close
from tinynn import Model, fit
from tinynn.compiler.compiled import Call
from tinynn.functional import relu
from tinynn.layers import Linear, Sequential

pytestmark = [
    pytest.mark.only("numpy", "torch", "cupy"),
    pytest.mark.usefixtures("float64"),
    pytest.mark.reads_scalars,
]
NET = Sequential(Linear(4), relu, Linear(2))
X = np.random.RandomState(0).randn(3, 5)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What programs were given."""
    calls: list[Any] = []
    run = Call.run

    def counted(self: Call, given: Any) -> Any:
        calls.append(given)
        return run(self, given)

    monkeypatch.setattr(Call, "run", counted)
    return calls


def expected(model: Model, x: Any = X) -> Any:
    """By NumPy, from the parameters as they are."""
    host = model.backend.to_host
    w, b, v, c = (host(model.params[i][kind]) for i in "02" for kind in ("weight", "bias"))
    return np.maximum(x @ w + b, 0) @ v + c


def asked_often(backend: Backend) -> tuple[Model, Any]:
    x = backend.asarray(X)
    model = Model(NET, NET.init(0, x))
    for _ in range(6):
        model.predict(x)
    return model, x


def assert_ran(times: int, ran: list[Any], backend: Backend) -> None:
    """A program was run so often; never where X is copied, being read-only as the tests have it.

    Where the library has no lowering, there is no program to run.
    """
    has_programs = backend.lowering is not None and writable(backend.asarray([0.0]))
    assert len(ran) == (times if has_programs else 0)


def writable(array: Any) -> bool:
    return bool(getattr(getattr(array, "flags", None), "writeable", True))


def other_array(model: Model) -> None:
    model.params["0"]["weight"] = 2 * model.params["0"]["weight"]


def other_layer(model: Model) -> None:
    model.params["2"] = {name: 3 * a for name, a in model.params["2"].items()}


def other_parameters(model: Model) -> None:
    model.params = {i: {n: 1 + a for n, a in layer.items()} for i, layer in model.params.items()}


@pytest.mark.parametrize("change", [other_array, other_layer, other_parameters])
def test_other_parameters_are_seen(
    backend: Backend, change: Callable[[Model], None], ran: list[Any]
) -> None:
    model, x = asked_often(backend)
    assert_ran(2, ran, backend)  # it was asked six times; the fourth wrote the program
    for _ in range(2):
        change(model)
        for _ in range(6):
            assert_close(model.predict(x), expected(model), backend, dtype="float64")
    assert_ran(6, ran, backend)


@pytest.mark.only("numpy", "torch")
def test_parameters_changed_in_place_are_seen(backend: Backend, ran: list[Any]) -> None:
    model, x = asked_often(backend)
    weight = model.params["0"]["weight"]
    if not writable(weight):
        pytest.skip("arrays of this variant are read-only")
    weight[0, 0] = 7.0
    assert_close(model.predict(x), expected(model), backend, dtype="float64")
    assert_ran(3, ran, backend)


def test_of_many_kinds_few_are_kept(backend: Backend) -> None:
    model, x = asked_often(backend)
    for rows in range(1, 200):
        for _ in range(5):
            model.predict(backend.asarray(np.ones((rows, 5))))
    assert len(model._answers._times) <= 64
    assert len(model._answers._calls) <= 64
    assert_close(model.predict(x), expected(model), backend, dtype="float64")


def test_another_network_is_seen(backend: Backend) -> None:
    model, x = asked_often(backend)
    model.net = Sequential(Linear(4), lambda x: x, Linear(2))
    host = backend.to_host
    first = X @ host(model.params["0"]["weight"]) + host(model.params["0"]["bias"])
    want = first @ host(model.params["2"]["weight"]) + host(model.params["2"]["bias"])
    assert_close(model.predict(x), want, backend, dtype="float64")


def test_rows_of_other_shapes_and_bad_ones(backend: Backend, ran: list[Any]) -> None:
    model, x = asked_often(backend)
    assert_close(model.predict(x[:1, ...]), expected(model, X[:1]), backend, dtype="float64")
    assert_ran(2, ran, backend)
    with pytest.raises(ValueError, match="expected finite numbers"):
        model.predict(x * np.nan)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_have_answers_of_their_own(backend: Backend, copied: Callable[[Any], Any]) -> None:
    model, x = asked_often(backend)
    twin = copied(model)
    other_array(twin)
    for each in (model, twin, model):
        assert_close(each.predict(x), expected(each), backend, dtype="float64")


def test_layers_that_read_what_changes_are_asked_every_time(backend: Backend) -> None:
    factor = {"is": 0.0}
    x = backend.asarray(X)
    net = Sequential(Linear(2), lambda x: x * factor["is"])
    model = Model(net, net.init(0, x))
    for number in range(7):
        factor["is"] = float(number)
        host = backend.to_host(net(model.params, x))
        assert_close(model.predict(x), host, backend)


@pytest.mark.only("numpy")
def test_layers_of_other_libraries_functions(backend: Backend) -> None:
    x = backend.asarray(X)
    net = Sequential(lambda x: np.tanh(x), Linear(2))
    model = Model(net, net.init(0, x))
    for _ in range(6):
        assert_close(model.predict(x), net(model.params, x), backend)
    given: dict[str, Any] = {"epochs": 2, "progress": False}
    eager = fit(net, x, X[:, :2], engine="eager", **given)
    with pytest.warns(RuntimeWarning, match="runs without compiling: .*ufuncs"):
        calls = fit(net, x, X[:, :2], engine="calls", **given)
    assert calls.history == eager.history


def test_many_threads(backend: Backend) -> None:
    model, _ = asked_often(backend)
    rows = [backend.asarray(np.random.RandomState(i).randn(3, 5)) for i in range(4)]
    want = [expected(model, backend.to_host(x)) for x in rows]

    def ask(i: int) -> bool:
        answers = [backend.to_host(model.predict(rows[i])) for _ in range(50)]
        return all(np.allclose(answer, want[i]) for answer in answers)

    with ThreadPoolExecutor(4) as pool:  # it passes on what a thread raises
        assert all(pool.map(ask, range(4)))
