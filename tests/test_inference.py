"""Model.predict by a few programs: the same output, whatever becomes of the model and its rows."""

import copy
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from backends import Backend
from tests.checks import assert_close
from tinynn import Model, fit
from tinynn.functional import elu, relu, softmax
from tinynn.initializers import glorot_uniform
from tinynn.layers import BatchNorm, Lambda, LayerNorm, Linear, Residual, Scope, Sequential
from tinynn.trace import namespace
from tinynn.training import inference
from tinynn.training.inference import Inference, _Rows, steps
from tinynn.transforms.record import RecordingError

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.reads_scalars]
NET = Sequential(Linear(4), relu, Linear(2))
X = np.random.RandomState(0).randn(300, 5)
SIZES = (1, 2, 3, 5, 8, 31, 33, 100, 300)


@pytest.fixture
def small_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of 64 rows at most, so that small batches are split."""
    monkeypatch.setattr(inference, "PASS_BYTES", 1)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the programs that are made."""
    sizes: list[int] = []
    make = Inference._made

    def counted(self: Inference, inputs: Any) -> Any:
        sizes.append(inputs[0].shape[0])
        return make(self, inputs)

    monkeypatch.setattr(Inference, "_made", counted)
    return sizes


def of(backend: Backend, net: Any = NET, x: Any = X) -> tuple[Model, Any]:
    x = backend.asarray(x)
    return Model(net, *net.init(0, x)), x


def expected(model: Model, x: Any = X) -> Any:
    """By NumPy, from the parameters as they are."""
    host = model.backend.to_host
    w, b, v, c = (host(model.params[i][kind]) for i in "02" for kind in ("weight", "bias"))
    return np.maximum(x @ w + b, 0) @ v + c


def eager(model: Model, x: Any) -> Any:
    """The network called on the whole batch."""
    return model.backend.to_host(model.net.apply(model.params, model.state, x)[0])


# Sizes.


def test_a_batch_is_passed_in_few_sizes() -> None:
    used = set()
    for count in range(1, 3000):
        plan = steps(count, 512)
        used |= {step.size for step in plan}
        assert [step.start for step in plan] == [0, *[step.stop for step in plan[:-1]]]
        assert plan[-1].stop == count
        assert all(0 < step.stop - step.start <= step.size for step in plan)
        rows = sum(step.size for step in plan)
        assert rows <= (2 * count if count <= 32 else count + max(count // 3, 32))
    assert used == {2**power for power in range(10)}


def test_without_padding_the_passes_are_of_the_rows_there_are() -> None:
    assert [step.size for step in steps(300, 128, padded=False)] == [128, 128, 44]
    assert [step.size for step in steps(300, 7, padded=False)] == [7] * 42 + [6]


@pytest.mark.usefixtures("small_passes")
def test_batches_of_all_sizes(backend: Backend, made: list[int]) -> None:
    model, x = of(backend)
    for _ in range(3):
        for rows in SIZES:
            got = model.predict(x[:rows, ...])
            assert_close(got, expected(model, X[:rows]), backend, dtype="float64")
    assert set(made) <= {1, 2, 4, 8, 16, 32, 64}
    if backend.lowering is not None:
        assert len(made) == len(set(made))


@pytest.mark.usefixtures("small_passes")
@pytest.mark.parametrize("batch_size", [1, 7, 64, 299, 300, 1000])
def test_sizes_that_are_asked_for(backend: Backend, batch_size: int) -> None:
    model, x = of(backend)
    got = model.predict(x, batch_size=batch_size)
    assert_close(got, expected(model), backend, dtype="float64")


@pytest.mark.parametrize("holding", [Residual, Lambda])
def test_functions_that_layers_hold_run_as_they_are_written(
    backend: Backend, holding: Callable[[Any], Any]
) -> None:
    """One that picks by values, as `fit` trains it, and reads what changes from call to call."""
    factor = [1.0]

    def picking(x: Any) -> Any:
        picked = namespace(x).abs(x)
        return x * (factor[0] * picked[picked >= 0][0])

    net = Sequential(Linear(2), holding(picking))
    x = backend.asarray(X[:80])
    model = Model(net, *net.init(0, x[:1, ...]))
    for rows in (1, 80):
        for factor[0] in (1.0, 2.0):
            assert_close(model.predict(x[:rows, ...]), eager(model, x[:rows, ...]), backend)


def test_initializers_of_the_users_own_change_nothing(backend: Backend) -> None:
    """Once a network with one, or with a function of ours that has settings, had no programs."""
    net = Sequential(Linear(2, weight_init=lambda *given: glorot_uniform(*given)))
    parts = (*net.layers, partial(elu, alpha=0.5), Residual(partial(elu, alpha=0.5)))
    x = backend.asarray(X[:8])
    inferences = (Inference(each, *each.init(0, x), backend) for each in (net, Sequential(*parts)))
    assert all(each.programs for each in inferences)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True, "all"])
def test_bad_sizes(backend: Backend, batch_size: Any) -> None:
    model, x = of(backend)
    for function in (model.predict, lambda x, **s: model.evaluate(x, x[:, :2], **s)):
        with pytest.raises(ValueError, match="batch_size: expected 1 or more, or None, got"):
            function(x, batch_size=batch_size)


@pytest.mark.usefixtures("small_passes")
@pytest.mark.only("numpy", "torch", "cupy")
def test_padded_rows_change_nothing(backend: Backend) -> None:
    """Bit by bit: rows in a padded pass are what they are among any other rows of that pass."""
    model, x = of(backend, Sequential(Linear(4), LayerNorm(), relu, Linear(2), softmax))
    whole = backend.to_host(model.predict(x[:64, ...]))
    for rows in (33, 49, 50, 63):
        plan = steps(rows, 64)
        part = backend.to_host(model.predict(x[:rows, ...]))
        if len(plan) == 1:
            assert (part == whole[:rows]).all()
        again = backend.xp.concat([x[:rows, ...], x[200:201, ...]], axis=0)
        assert_close(model.predict(again)[:rows, ...], part, backend, dtype="float64")


def test_the_same_rows_give_the_same_bits(backend: Backend) -> None:
    model, x = of(backend)
    first = backend.to_host(model.predict(x))
    assert all((backend.to_host(model.predict(x)) == first).all() for _ in range(5))


# What rows are.


@dataclass(frozen=True)
class TwoHeads(Linear):
    def forward(self, scope: Scope, *inputs: Any) -> Any:
        a, b = (inputs[0]["a"], inputs[0]["b"]) if len(inputs) == 1 else inputs
        xp = namespace(a, b)
        y = super().forward(scope, xp.concat([a, b], axis=1))
        return {"y": y, "first": y[:, 0]}


@pytest.mark.usefixtures("small_passes")
@pytest.mark.parametrize("given", [lambda a, b: (a, b), lambda a, b: {"a": a, "b": b}])
@pytest.mark.parametrize("compiled", [False, True])
def test_trees(backend: Backend, given: Callable[..., Any], compiled: bool) -> None:
    x = backend.asarray(X)
    inputs = given(x[:, :2], x[:, 2:])
    net = TwoHeads(3)
    model = Model(net, *net.init(0, *(inputs if type(inputs) is tuple else (inputs,))))
    want = X @ backend.to_host(model.params["weight"]) + backend.to_host(model.params["bias"])
    answer = model.compile(inputs) if compiled else model.predict
    for _ in range(2):
        got = answer(inputs)
        assert_close(got["y"], want, backend, dtype="float64")
        assert_close(got["first"], want[:, 0], backend, dtype="float64")


@pytest.mark.usefixtures("small_passes")
def test_lists_and_sparse_matrices(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = of(backend)
    held = np.where(X > 0.5, X, 0.0)
    assert_close(model.predict(X.tolist()), expected(model), backend, dtype="float64")
    rows: list[int] = []
    dense = sparse.csr_matrix.toarray
    monkeypatch.setattr(
        sparse.csr_matrix, "toarray", lambda self: rows.append(self.shape[0]) or dense(self)
    )
    for _ in range(2):
        got = model.predict(sparse.csr_matrix(held))
        assert_close(got, expected(model, held), backend, dtype="float64")
    assert max(rows) == 64  # never the whole of it


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_bad_values_are_refused_every_time(backend: Backend, spoilt: float) -> None:
    model, x = of(backend)
    answer = model.compile(x[:2, ...])
    bad = backend.asarray(np.where(np.arange(5) == 3, spoilt, X[:2]))
    for function in (model.predict, answer):
        for _ in range(2):
            function(x[:2, ...])
            error = pytest.raises(ValueError, match="column 3: expected finite numbers, got 2")
            with backend.quiet(), np.errstate(invalid="ignore"), error:
                function(bad)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("spoilt", [np.nan, np.inf, -np.inf])
def test_a_bad_value_anywhere_shows(backend: Backend, rows: int, spoilt: float) -> None:
    """In one column of the first product, be its weights 0, and though relu makes 0 of -inf."""
    model, x = of(backend)
    weight = backend.to_host(model.params["0"]["weight"]).copy()
    weight[:, 0] = [0, 0, 1, -1, 2]
    model.params["0"]["weight"] = backend.asarray(weight)
    for _ in range(2):
        assert_close(model.predict(x[:rows, ...]), expected(model, X[:rows]), backend)
    for place in range(rows * 5):
        bad = X[:rows].copy()
        bad.flat[place] = spoilt
        with (
            backend.quiet(),
            np.errstate(invalid="ignore"),
            pytest.raises(ValueError, match="finite"),
        ):
            model.predict(backend.asarray(bad))


def test_large_values_are_no_bad_ones(backend: Backend) -> None:
    model, x = of(backend)
    x = x[:2, ...] * 1e200  # whose squares are infinite
    with backend.quiet(), np.errstate(over="ignore"):
        for _ in range(2):
            got = backend.to_host(model.predict(x))
            np.testing.assert_allclose(got, expected(model, 1e200 * X[:2]), rtol=1e-12)


# Parameters.


def other_array(model: Model) -> None:
    model.params["0"]["weight"] = 2 * model.params["0"]["weight"]


def other_layer(model: Model) -> None:
    model.params["2"] = {name: 3 * a for name, a in model.params["2"].items()}


def other_parameters(model: Model) -> None:
    model.params = {i: {n: 1 + a for n, a in layer.items()} for i, layer in model.params.items()}


@pytest.mark.parametrize("change", [other_array, other_layer, other_parameters])
def test_other_parameters_are_seen(backend: Backend, change: Callable[[Model], None]) -> None:
    model, x = of(backend)
    answer, before = model.compile(x), expected(model)
    for _ in range(3):
        assert_close(model.predict(x), expected(model), backend, dtype="float64")
        change(model)
        assert_close(model.predict(x), expected(model), backend, dtype="float64")
    assert_close(answer(x), before, backend, dtype="float64")  # it is of those that were there


def test_other_parameters_of_the_same_shapes_need_no_other_programs(
    backend: Backend, made: list[int]
) -> None:
    model, x = of(backend)
    for _ in range(3):
        assert_close(model.predict(x), expected(model), backend, dtype="float64")
        other_parameters(model)
    assert len(made) == len(steps(300, 2**12))


@pytest.mark.only("numpy", "torch")
def test_parameters_changed_in_place_are_seen(backend: Backend) -> None:
    model, x = of(backend)
    weight, answer = model.params["0"]["weight"], model.compile(x)
    model.predict(x)
    if not getattr(getattr(weight, "flags", None), "writeable", True):
        pytest.skip("arrays of this variant are read-only")
    weight[0, 0] = 7.0
    for function in (model.predict, answer):
        assert_close(function(x), expected(model), backend, dtype="float64")


def test_another_network_is_seen(backend: Backend) -> None:
    model, x = of(backend)
    model.predict(x)
    model.net = Sequential(Linear(4), lambda x: x, Linear(2))
    host = backend.to_host
    first = X @ host(model.params["0"]["weight"]) + host(model.params["0"]["bias"])
    want = first @ host(model.params["2"]["weight"]) + host(model.params["2"]["bias"])
    assert_close(model.predict(x), want, backend, dtype="float64")


@pytest.mark.only("numpy", "torch", "array_api_strict")
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_have_programs_of_their_own(backend: Backend, copied: Callable[[Any], Any]) -> None:
    model, x = of(backend)
    model.predict(x)
    twin = copied(model)
    assert twin._inference is None
    other_array(twin)
    for each in (model, twin, model):
        assert_close(each.predict(x), expected(each), backend, dtype="float64")
    assert_close(copied(model.compile(x))(x), expected(model), backend, dtype="float64")


# Layers of the user's.


def centred(x: Any) -> Any:
    return x - namespace(x).mean(x, axis=0)


@pytest.mark.usefixtures("small_passes")
@pytest.mark.parametrize("compiled", [False, True])
def test_rows_that_meet_pass_together(backend: Backend, compiled: bool) -> None:
    model, x = of(backend, Sequential(Linear(4), centred, Linear(2)))
    answer = model.compile(x[:3, ...]) if compiled else model.predict
    for rows in (3, 5, 64, 65, 300):
        want = eager(model, x[:rows, ...])
        assert_close(answer(x[:rows, ...]), want, backend, dtype="float64")
    y = backend.asarray(X[:, :2])
    model.loss, whole = "squared_error", ((eager(model, x) - X[:, :2]) ** 2).mean()
    model.loss = lambda p, t: namespace(p).mean((p - t) ** 2)
    assert model.evaluate(x, y)["loss"] == pytest.approx(whole)


def test_rows_that_meet_are_not_split(backend: Backend) -> None:
    model, x = of(backend, Sequential(Linear(4), centred, Linear(2)))
    model.loss = lambda p, t: namespace(p).mean((p - t) ** 2)
    assert model.predict(x, batch_size=300).shape == (300, 2)
    for function in (model.predict, lambda x, **s: model.evaluate(x, x[:, :2], **s)):
        with pytest.raises(ValueError, match=r"batch_size=100: .*depends on the others .*centred"):
            function(x, batch_size=100)


def test_validation_passes_rows_that_meet_together(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinynn.training.evaluation.ROWS_AT_ONCE", 64)
    x, y = backend.asarray(X), backend.asarray(X[:, :2])
    net = Sequential(Linear(2), centred)
    model = fit(net, x, y, epochs=1, validation=(x, y), loss="squared_error", progress=False)
    want = ((eager(model, x) - X[:, :2]) ** 2).mean()
    assert model.history["validation_loss"][-1] == pytest.approx(want)


@pytest.mark.usefixtures("small_passes")
def test_layers_that_read_what_changes_are_asked_every_time(backend: Backend) -> None:
    factor = {"is": 0.0}
    model, x = of(backend, Sequential(Linear(2), lambda x: x * factor["is"]))
    for number in range(4):
        factor["is"] = float(number)
        assert_close(model.predict(x), eager(model, x), backend, dtype="float64")


@pytest.mark.only("numpy")
def test_layers_of_other_libraries_functions(backend: Backend) -> None:
    model, x = of(backend, Sequential(lambda x: np.tanh(x), Linear(2)))
    assert_close(model.predict(x), eager(model, x), backend)
    assert_close(model.predict(x, batch_size=7), eager(model, x), backend)
    with pytest.raises(TypeError, match="ufuncs"):
        model.compile(x)
    given: dict[str, Any] = {"epochs": 2, "progress": False}
    run = fit(model.net, x, X[:, :2], engine="eager", **given)
    with pytest.warns(RuntimeWarning, match="runs without compiling: .*ufuncs"):
        calls = fit(model.net, x, X[:, :2], engine="calls", **given)
    assert calls.history == run.history


def test_a_network_that_branches_is_not_compiled(backend: Backend) -> None:
    model, x = of(backend, Sequential(Linear(2), lambda x: x if namespace(x).sum(x) > 0 else -x))
    assert_close(model.predict(x), eager(model, x), backend, dtype="float64")
    with pytest.raises(RecordingError, match=r"write xp\.where"):
        model.compile(x)


def test_state_and_a_network_without_parameters(backend: Backend) -> None:
    model, x = of(backend, Sequential(Linear(4), BatchNorm(), softmax))
    assert_close(model.predict(x), eager(model, x), backend, dtype="float64")
    alone = Model(softmax, {})
    e = np.exp(X - X.max(axis=1, keepdims=True))
    want = e / e.sum(axis=1, keepdims=True)
    assert_close(alone.predict(x), want, backend, dtype="float64")
    flat = np.exp(X[:, 0]) / np.exp(X[:, 0]).sum()
    assert_close(alone.predict(backend.asarray(X[:, 0])), flat, backend, dtype="float64")


def test_what_a_library_follows_is_followed(backend: Backend) -> None:
    model, x = of(backend)
    model.predict(x)
    if backend.name == "torch":
        given = x.clone().requires_grad_()
        model.predict(given).sum().backward()
        slope = backend.to_host(given.grad)
    elif backend.name == "jax":
        import jax

        slope = backend.to_host(jax.jit(jax.grad(lambda x: model.predict(x).sum()))(x))
    else:
        from tinynn import grad

        slope = backend.to_host(grad(lambda x: namespace(x).sum(model.predict(x)))(x))
    host = backend.to_host
    w, v = host(model.params["0"]["weight"]), host(model.params["2"]["weight"])
    want = (X @ w + host(model.params["0"]["bias"]) > 0) * v.sum(axis=1) @ w.T
    np.testing.assert_allclose(slope, want, rtol=1e-9)


# The predictor.


def test_a_predictor(backend: Backend, made: list[int]) -> None:
    model, x = of(backend)
    answer = model.compile(x[:1, ...])
    assert made == [1]
    for _ in range(3):
        assert_close(answer(x[:1, ...]), expected(model, X[:1]), backend, dtype="float64")
    assert made == [1]
    assert_close(answer(x), expected(model), backend, dtype="float64")
    assert_close(answer(X[:2].tolist()), expected(model, X[:2]), backend, dtype="float64")
    assert (answer.source is None) == (backend.lowering is None)
    with pytest.raises(ValueError, match="expected input that fits parameter"):
        answer(backend.asarray(X[:, :3]))


@pytest.mark.only("numpy")
def test_a_predictor_of_user_layers_is_a_program(backend: Backend, made: list[int]) -> None:
    model, x = of(backend, Sequential(Linear(4), lambda x: x * x, Linear(2)))
    answer = model.compile(x[:1])
    assert answer.source.count("multiply") or answer.source.startswith("def run(")
    assert_close(answer(x), eager(model, x), backend, dtype="float64")
    assert set(made) == {1, 256, 32, 16}


# Threads.


@pytest.mark.usefixtures("small_passes")
@pytest.mark.only("numpy", "torch", "jax", "array_api_strict")
@pytest.mark.parametrize("compiled", [False, True])
def test_many_threads(backend: Backend, compiled: bool) -> None:
    model, x = of(backend)
    parts = [x[start : start + rows, ...] for start in (0, 7, 100) for rows in (1, 3, 33, 100)]
    answer = model.compile(x[:1, ...]) if compiled else model.predict
    want = [backend.to_host(answer(part)) for part in parts]

    def ask(thread: int) -> bool:
        places = np.random.RandomState(thread).permutation(len(parts))
        return all(
            (backend.to_host(answer(parts[place])) == want[place]).all()
            for _ in range(10)
            for place in places
        )

    with often_switched(), ThreadPoolExecutor(8) as pool:  # it passes on what a thread raises
        assert all(pool.map(ask, range(8)))


class often_switched:
    """A context in which threads take turns a thousand times as often."""

    def __enter__(self) -> None:
        self.before = sys.getswitchinterval()
        sys.setswitchinterval(5e-6)

    def __exit__(self, *error: object) -> None:
        sys.setswitchinterval(self.before)


def test_a_program_that_another_thread_takes_meanwhile_is_no_error() -> None:
    class Emptied(list[Any]):
        """As a list is whose last item goes between a look at it and `pop`."""

        def __bool__(self) -> bool:
            return True

    rows = _Rows(None, None, {1: Emptied()})
    assert rows.taken([]).free == {1: []}
