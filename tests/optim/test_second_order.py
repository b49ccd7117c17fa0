"""Levenberg-Marquardt, Gauss-Newton, the natural gradient and Newton-CG under `fit`."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_close
from tinynn import tree
from tinynn.functional import tanh
from tinynn.layers import BatchNorm, Layer, Linear, Sequential
from tinynn.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    Huber,
    Poisson,
    SoftmaxCrossEntropy,
    SquaredError,
)
from tinynn.optim import LBFGS, Averaged, GaussNewton, LevenbergMarquardt, NaturalGradient, NewtonCG
from tinynn.optim.flat import Flat
from tinynn.optim.second_order.linearized import Dual
from tinynn.optim.second_order.objective import Surface
from tinynn.trace import namespace
from tinynn.training import choose_optimizer, prepare

pytestmark = pytest.mark.reads_scalars

X = np.linspace(-1.0, 1.0, 24).reshape(-1, 1)
Y = np.sin(3.0 * X)
NET = Sequential(Linear(5), tanh, Linear(1))


def given(backend: backends.Backend, *arrays: Any) -> tuple[Any, ...]:
    return tuple(backend.asarray(a, dtype="float64") for a in arrays)


@pytest.mark.only("numpy")
@pytest.mark.parametrize("engine", ["eager", "calls"])
@pytest.mark.parametrize(
    ("optimizer", "epochs", "least"),
    [
        (LevenbergMarquardt(), 40, 1e-5),
        (LevenbergMarquardt(solver="cg", cg_tolerance=1e-3), 12, 2e-3),
        (GaussNewton(0.5), 25, 1e-2),
        (NaturalGradient(0.5, damping=1e-2), 25, 1e-2),
        (NewtonCG(), 25, 1e-2),
    ],
    ids=lambda v: type(v).__name__ + getattr(v, "solver", "") if hasattr(v, "needs") else "",
)
def test_a_network_is_fitted(
    optimizer: Any, epochs: int, least: float, engine: str, backend: backends.Backend
) -> None:
    model = tinynn.fit(NET, X, Y, optimizer=optimizer, epochs=epochs, engine=engine)
    assert min(model.history["loss"]) < least


@pytest.mark.parametrize(
    "optimizer",
    [
        LevenbergMarquardt(),
        LevenbergMarquardt(solver="cg"),
        GaussNewton(0.5),
        NaturalGradient(0.5, damping=1e-2),
        NewtonCG(),
    ],
    ids=lambda v: type(v).__name__ + getattr(v, "solver", ""),
)
def test_every_library_takes_numpys_steps(
    optimizer: Any, backend: backends.Backend, float64: Any
) -> None:
    x, y = given(backend, X, Y)
    # Of JAX's compiler one case: it takes seconds for each.
    engine = "jit" if backend.name == "jax" and optimizer == LevenbergMarquardt() else "calls"
    given_too = {"optimizer": optimizer, "epochs": 3}
    ours = tinynn.fit(NET, x, y, engine=engine, **given_too)
    theirs = tinynn.fit(NET, X, Y, engine="eager", **given_too)
    np.testing.assert_allclose(ours.history["loss"], theirs.history["loss"], rtol=1e-6)
    pairs = zip(tree.leaves(ours.params), tree.leaves(theirs.params), strict=True)
    for our, their in pairs:
        assert_close(our, their, backend, dtype=float64, rtol=1e-6, atol=1e-8)


@pytest.mark.only("numpy")
def test_rows_that_look_at_each_other_are_found(backend: backends.Backend) -> None:
    """At a start where they do not yet, and where a layer takes all rows or none."""

    @dataclass(frozen=True)
    class Mixing(Layer):
        def forward(self, scope: Any, x: Any) -> Any:
            gate = scope("gate", Linear(1), 0.0 * x)  # 0 at the start
            return scope("line", Linear(1), x) + gate * namespace(x).mean(x * x, axis=0)

    @dataclass(frozen=True)
    class Numbered(Layer):
        def forward(self, scope: Any, x: Any) -> Any:
            out = scope("line", Linear(1), x)
            return namespace(out).add(out, X**3)  # which is of all rows

    for net in (Mixing(), Numbered()):
        problem = prepare(net, X, Y, optimizer=LevenbergMarquardt())
        assert not problem.step.by_row
        runs = [
            tinynn.fit(net, X, Y, optimizer=optimizer, epochs=30).history["loss"][-1]
            for optimizer in (LevenbergMarquardt(), NewtonCG())
        ]
        assert runs[0] == pytest.approx(runs[1], rel=1e-4)


def test_auto_reads_iterators_once(backend: backends.Backend, float64: Any) -> None:
    x, y = given(backend, X, Y)

    def batches() -> Any:
        return ((x[i : i + 8, :], y[i : i + 8, :]) for i in (0, 8, 16))

    fitted = {"loss": "squared_error", "epochs": 1}
    ours = tinynn.fit(NET, batches(), optimizer="auto", **fitted)
    theirs = tinynn.fit(NET, batches(), optimizer="adam", **fitted)
    assert ours.history == theirs.history
    ours = tinynn.fit(NET, x, y, validation=batches(), optimizer="auto", **fitted)
    theirs = tinynn.fit(NET, x, y, validation=batches(), optimizer="levenberg_marquardt", **fitted)
    assert ours.history == theirs.history


def test_auto_takes_no_matrices_where_processes_share_the_rows(
    backend: backends.Backend, float64: Any
) -> None:
    problem = prepare(NET, *given(backend, X, Y))
    assert choose_optimizer(problem).optimizer == LevenbergMarquardt()
    shared = replace(problem, communicator=SimpleNamespace(rank=0, size=2))
    assert choose_optimizer(shared).optimizer == LBFGS()


def test_a_singular_metric_is_damped(backend: backends.Backend, float64: Any) -> None:
    """Three equal columns; a damping below rounding would leave the matrix singular."""
    x, y = given(backend, np.repeat(X, 3, axis=1), Y)
    model = tinynn.fit(Linear(1), x, y, optimizer=NaturalGradient(damping=1e-30), epochs=3)
    exact = np.linalg.lstsq(np.c_[X, np.ones(24)], Y, rcond=None)
    assert model.history["loss"][-1] == pytest.approx(exact[1][0] / 24, rel=1e-6)


def test_an_average_takes_all_samples_too(backend: backends.Backend, float64: Any) -> None:
    x, y = given(backend, np.tile(X, (2, 1)), np.tile(Y, (2, 1)))
    assert prepare(NET, x, y, optimizer=Averaged(LevenbergMarquardt())).batches.steps == 1


@pytest.mark.only("numpy")
def test_a_run_at_its_end_stays_there_and_new_data_begin_another(
    backend: backends.Backend, tmp_path: Any
) -> None:
    from tinynn.sklearn import NetworkRegressor

    asked = {"optimizer": LevenbergMarquardt(), "checkpoint": tmp_path / "run.safetensors"}
    ended = tinynn.fit(Linear(1), X, Y, epochs=50, **asked)
    assert len(ended.history["loss"]) < 50
    again = tinynn.fit(Linear(1), X, Y, epochs=60, resume=True, **asked)
    assert again.history == ended.history
    estimator = NetworkRegressor(
        network=Linear(1), loss="squared_error", solver=LevenbergMarquardt(), alpha=0.0, tol=None,
        warm_start=True, max_iter=20,
    )  # fmt: skip
    for y in (2.0 * X[:, 0], 5.0 - X[:, 0]):
        np.testing.assert_allclose(estimator.fit(X, y).predict(X), y, atol=1e-6)


@pytest.mark.only("numpy")
def test_tolerances_hold_below_zero(backend: backends.Backend) -> None:
    """The log-likelihood of large counts is below 0, where a share of it is no fall."""
    y = np.arange(24.0) + 50
    epochs = {}
    for tolerance in (None, 1e-3):
        optimizer = LevenbergMarquardt(value_tolerance=tolerance)
        model = tinynn.fit(Linear(1), X, y, loss="poisson", optimizer=optimizer, epochs=40)
        assert model.history["loss"][-1] == pytest.approx(-192.211, abs=0.2)
        epochs[tolerance] = len(model.history["loss"])
    assert epochs[1e-3] < epochs[None] - 2


@pytest.mark.only("numpy")
def test_engines_agree(backend: backends.Backend) -> None:
    for optimizer in (LevenbergMarquardt(l2=1e-3), NewtonCG(), GaussNewton(damping=0.1)):
        runs = [
            tinynn.fit(NET, X, Y, optimizer=optimizer, epochs=8, engine=engine).history["loss"]
            for engine in ("eager", "calls")
        ]
        np.testing.assert_allclose(*runs, rtol=1e-7)


@pytest.mark.only("numpy")
def test_a_network_is_scipys(backend: backends.Backend) -> None:
    """The minimum of a convex problem, a linear model with a weighted loss, is least squares'."""
    rng = np.random.RandomState(0)
    x, w = rng.randn(30, 3), rng.rand(30)
    y = x @ [[1.0], [-2.0], [0.5]] + 0.1 * rng.randn(30, 1)
    model = tinynn.fit(
        Linear(1, bias=False), x, y, sample_weight=w, optimizer=LevenbergMarquardt(), epochs=30
    )
    root = np.sqrt(w)[:, None]
    exact = np.linalg.lstsq(root * x, root * y, rcond=None)[0]
    np.testing.assert_allclose(model.params["weight"], exact, rtol=1e-8)
    assert len(model.history["loss"]) < 30  # it ended where it had converged


@pytest.mark.only("numpy")
def test_penalties_are_part_of_the_squares(backend: backends.Backend) -> None:
    """Ridge regression in closed form, by the optimizer's penalty and by the estimator's."""
    from tinynn.sklearn import NetworkRegressor

    rng = np.random.RandomState(1)
    x = rng.randn(20, 3)
    y = x @ [1.0, -2.0, 0.5]
    matrix = x.T @ x / 10 + 0.3 * np.eye(3)  # of mean((x w - y)^2) + 0.15 |w|^2
    exact = np.linalg.solve(matrix, x.T @ y / 10)
    net, optimizer = Linear(1, bias=False), LevenbergMarquardt(l2=0.3)
    model = tinynn.fit(net, x, y, optimizer=optimizer, epochs=30)
    np.testing.assert_allclose(model.params["weight"][:, 0], exact, rtol=1e-7)
    estimator = NetworkRegressor(
        network=net, loss="squared_error", solver=LevenbergMarquardt(), alpha=0.3 * 20, tol=None,
        batch_size=None, max_iter=30,
    )  # fmt: skip
    estimator.fit(x, y)
    np.testing.assert_allclose(estimator.model_.params["weight"][:, 0], exact, rtol=1e-6)


LOSSES = [
    (SquaredError(), Y[:, 0]),
    (SquaredError(reduction="sum"), Y[:, 0]),
    (Huber(0.2), Y[:, 0]),
    (Poisson(), np.arange(24.0) % 3),
    (BinaryCrossEntropy(class_weight=(1.0, 2.0)), np.arange(24.0) % 2),
    (SoftmaxCrossEntropy(label_smoothing=0.1), np.arange(24) % 3),
]


@pytest.mark.only("numpy")
@pytest.mark.parametrize(("loss", "y"), LOSSES, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("mixing", [False, True])
def test_the_matrix_is_gauss_newtons(
    loss: Any, y: Any, mixing: bool, backend: backends.Backend
) -> None:
    """J^T H J by derivatives of everything, with rows that count for each other and without."""
    outputs = 3 if isinstance(loss, SoftmaxCrossEntropy) else 1
    middle = [BatchNorm()] if mixing else []
    net = Sequential(Linear(3), *middle, tanh, Linear(outputs))
    owner = LevenbergMarquardt(solver="dense")
    problem = prepare(net, X, y, loss=loss, optimizer=owner)
    assert problem.step.by_row is not mixing
    batch = problem.batches.dataset.between(0, 24)
    carry = problem.start
    objective = problem.step._extras(None, carry, batch, None)["objective"]
    surface = Surface(owner, objective, carry.params)
    point = Flat.of(carry.params).vector(carry.params)

    def answers(vector: Any) -> Any:
        out = objective.predict(surface.flat.tree(vector))
        return out.__array_namespace__().reshape(out, (-1,))

    shape = (24, outputs)
    jac = tinynn.jacobian(answers)(point)

    def cost(flat: Any) -> Any:
        return objective.cost(flat.__array_namespace__().reshape(flat, shape))

    curve = tinynn.hessian(cost)(answers(point))
    near = surface.linearized(point)
    np.testing.assert_allclose(near.matrix, jac.T @ curve @ jac, atol=1e-12)  # type: ignore[attr-defined]
    np.testing.assert_allclose(near.gradient, tinynn.grad(surface.value)(point), atol=1e-12)
    by_products = Surface(LevenbergMarquardt(solver="cg"), objective, carry.params)
    product = by_products.linearized(point).product  # type: ignore[attr-defined]
    direction = np.random.RandomState(0).randn(*point.shape)
    np.testing.assert_allclose(product(direction), near.matrix @ direction, atol=1e-12)  # type: ignore[attr-defined]


@pytest.mark.only("numpy")
@pytest.mark.parametrize("penalty", [0.0, 0.1])
@pytest.mark.parametrize(("loss", "y"), LOSSES, ids=lambda v: type(v).__name__)
def test_fewer_answers_than_parameters_have_the_same_step(
    loss: Any, y: Any, penalty: float, backend: backends.Backend
) -> None:
    """By a system of the answers, it is the damped minimum that the whole matrix has."""
    outputs = 3 if isinstance(loss, SoftmaxCrossEntropy) else 1
    net = Sequential(Linear(20), tanh, Linear(outputs))
    owner = LevenbergMarquardt(solver="dense")
    problem = prepare(net, X, y, loss=loss, optimizer=owner)
    batch, carry = problem.batches.dataset.between(0, 24), problem.start
    objective = problem.step._extras(None, carry, batch, None)["objective"]
    surface = Surface(owner, objective.penalized(penalty, carry.params), carry.params)
    point = surface.flat.vector(carry.params)
    near: Any = surface.linearized(point)
    assert isinstance(near, Dual) is (outputs == 1 or surface.flat.size > 72)
    own = near.pull if near.pull is not None else 0.0 * point
    strengths = near.strengths if near.strengths is not None else 0.0 * point
    matrix = near.jac.T @ near.curved + np.diag(strengths)
    np.testing.assert_allclose(near.gradient, near.slope @ near.jac + own, atol=1e-12)
    np.testing.assert_allclose(near.gradient, tinynn.grad(surface.value)(point), atol=1e-12)
    np.testing.assert_allclose(near.diagonal, np.diag(matrix), atol=1e-12)
    scale, second = 1.0 + near.diagonal, np.cos(np.arange(len(near.slope)))
    damped = matrix + 0.01 * np.diag(scale)
    expected = -np.linalg.solve(damped, near.gradient)
    np.testing.assert_allclose(near.step(0.01, scale), expected, rtol=1e-8, atol=1e-10)
    bend = -np.linalg.solve(damped, 0.5 * second @ near.curved)
    np.testing.assert_allclose(near.bend(second, 0.01, scale), bend, rtol=1e-8, atol=1e-10)


@pytest.mark.only("numpy", "array_api_strict", "torch")
def test_classes(backend: backends.Backend, float64: Any) -> None:
    """A cross-entropy falls far below what a gradient's steps leave of it."""
    (x,) = given(backend, np.concatenate([X, X**2], axis=1))
    labels = backend.asarray((np.abs(X[:, 0]) > 0.5).astype("int64"))
    net = Sequential(Linear(4), tanh, Linear(2))
    model = tinynn.fit(net, x, labels, optimizer=LevenbergMarquardt(l2=1e-4), epochs=15)
    assert model.history["loss"][-1] < 0.02


@pytest.mark.only("numpy")
class TestBadInput:
    """Errors before training, that say what to do."""

    def test_a_loss_that_is_no_sum_of_squares(self, backend: backends.Backend) -> None:
        for loss in (
            AbsoluteError(),
            lambda prediction, y: namespace(prediction).mean(prediction - y),
        ):
            with pytest.raises(ValueError, match=r"convex in the.*To fix it: take NewtonCG"):
                tinynn.fit(NET, X, Y, loss=loss, optimizer=LevenbergMarquardt(), epochs=2)

    def test_a_loss_that_a_layer_adds(self, backend: backends.Backend) -> None:
        @dataclass(frozen=True)
        class Penalized(Layer):
            def forward(self, scope: Any, x: Any) -> Any:
                out = scope("inner", Linear(1), x)
                scope.add_loss("size", namespace(out).sum(out * out))
                return out

        with pytest.raises(ValueError, match=r"layers add size.*To fix it"):
            tinynn.fit(Penalized(), X, Y, optimizer=LevenbergMarquardt(), epochs=2)
        assert tinynn.fit(Penalized(), X, Y, optimizer=NewtonCG(), epochs=2)

    def test_memory(self, backend: backends.Backend) -> None:
        optimizer = LevenbergMarquardt(solver="dense", memory_limit=1e4)
        with pytest.raises(
            ValueError, match=r"24 outputs by 16 parameters.*take LevenbergMarquardt\(solver='cg'"
        ):
            tinynn.fit(NET, X, Y, optimizer=optimizer, epochs=2)

    def test_no_damping(self, backend: backends.Backend) -> None:
        with pytest.raises(ValueError, match="singular"):
            GaussNewton(damping=0.0)

    def test_in_a_chain(self, backend: backends.Backend) -> None:
        from tinynn.optim import L2, Chain, KeepZeros

        with pytest.raises(TypeError, match="Chain: expected an optimizer that takes gradients"):
            Chain(L2(1e-3), LevenbergMarquardt())
        for search in (LevenbergMarquardt(), LBFGS()):  # which would try what is then undone
            with pytest.raises(TypeError, match="KeepZeros: expected an optimizer that takes grad"):
                KeepZeros(search)


@pytest.mark.only("numpy")
def test_parameters_of_any_tree_stay_what_they_are(backend: backends.Backend) -> None:
    """Dtypes and shapes of the params are kept in float32."""
    x, y = X.astype("float32"), Y.astype("float32")
    model = tinynn.fit(NET, x, y, optimizer=LevenbergMarquardt(), epochs=60)
    assert {leaf.dtype for leaf in tree.leaves(model.params)} == {np.dtype("float32")}
    assert min(model.history["loss"]) < 1e-4
    assert_close(model.predict(x), Y, backend, dtype="float32", atol=0.05)


def chosen(backend: backends.Backend, net: Any, rows: int, **options: Any) -> str:
    x, y = given(backend, np.ones((rows, 2)), np.linspace(0.0, 1.0, rows))
    batch_size = options.pop("batch_size", "auto")
    found = choose_optimizer(prepare(net, x, y, **options), batch_size)
    assert found.reason.startswith(type(found.optimizer).__name__)
    return type(found.optimizer).__name__


def test_auto(backend: backends.Backend, float64: Any) -> None:
    """By parameters, rows and loss; the model says which."""
    small = Sequential(Linear(3), tanh, Linear(1))
    assert chosen(backend, small, 50) == "LevenbergMarquardt"
    assert chosen(backend, small, 50, batch_size=10) == "Adam"
    x, y = given(backend, np.ones((50, 2)), np.linspace(0.0, 1.0, 50))
    model = tinynn.fit(small, x, y, loss="absolute_error", optimizer="auto", epochs=2)
    assert isinstance(model.optimizer, LBFGS)


@pytest.mark.only("numpy")
def test_auto_of_larger_networks_and_estimators(backend: backends.Backend) -> None:
    from tinynn.layers import Dropout
    from tinynn.sklearn import NetworkClassifier, NetworkRegressor

    wide = Sequential(Linear(30), tanh, Linear(1))  # 121 parameters: residuals of 50 rows vanish
    assert chosen(backend, wide, 50) == "LevenbergMarquardt"
    assert chosen(backend, wide, 200) == "LBFGS"
    assert chosen(backend, Sequential(Linear(400), tanh, Linear(1)), 50) == "LBFGS"
    assert chosen(backend, Sequential(Linear(4), Dropout(0.5), Linear(1)), 50) == "Adam"
    for kind, y in ((NetworkRegressor, Y[:, 0]), (NetworkClassifier, Y[:, 0] > 0)):
        found = kind((4,), "tanh", solver="auto", max_iter=60, tol=None, random_state=0).fit(X, y)
        expected = "LevenbergMarquardt" if kind is NetworkRegressor else "LBFGS"
        assert type(found.solver_).__name__ == expected  # a step of classes costs too much
        assert found.score(X, y) > 0.99
    named = NetworkRegressor((4,), "tanh", solver="levenberg_marquardt", max_iter=60, tol=None)
    assert named.set_params(random_state=0).fit(X, Y[:, 0]).score(X, Y[:, 0]) > 0.99
    assert not hasattr(found.set_params(solver="adam", max_iter=1).fit(X, y), "solver_")
    with pytest.raises(ValueError, match=r"partial_fit.*got solver='auto'"):
        NetworkRegressor(solver="auto").partial_fit(X, Y[:, 0])
