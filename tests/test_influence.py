"""Influence of training rows, beside training again without each of them."""

import numpy as np
import pytest

import tinynn
from tinynn import Model
from tinynn.functional import tanh
from tinynn.inspection import influence
from tinynn.layers import Linear, Sequential
from tinynn.losses import SoftmaxCrossEntropy, SquaredError
from tinynn.optim import NewtonCG

RNG = np.random.default_rng(0)
X, X_NEW = RNG.normal(size=(40, 3)), RNG.normal(size=(5, 3))


def minimum(net, params, loss, x, y, l2, weight):
    """The parameters of the lowest loss, a mean over rows that are multiplied by the weight."""

    def cost(params):
        values = loss.values(net(params, x), y)
        value = values.__array_namespace__().mean(values * weight)
        for leaf in tinynn.tree.leaves(params):
            value = value + 0.5 * l2 * leaf.__array_namespace__().sum(leaf * leaf)
        return value

    return tinynn.minimize(cost, params, NewtonCG(gradient_tolerance=1e-12)).params


def test_influence_on_a_convex_loss_is_that_of_training_again():
    net, loss, l2, draw = Linear(3), SoftmaxCrossEntropy(), 0.02, np.random.default_rng(3)
    x, new = draw.normal(size=(120, 3)), np.asarray([0, 1, 2, 0, 1])
    labels = (x @ draw.normal(size=(3, 3)) + draw.normal(size=(120, 3))).argmax(axis=1)
    params = minimum(net, net.init(0, x)[0], loss, x, labels, l2, np.ones(120))
    found = influence(Model(net, params, loss=loss), x, labels, X_NEW, new, l2=l2)
    assert found.shape == (5, 120)
    before = loss.values(net(params, X_NEW), new)

    def answered(row, weight):
        weights = np.where(np.arange(120) == row, weight, 1.0)
        again = minimum(net, params, loss, x, labels, l2, weights)
        return loss.values(net(again, X_NEW), new)

    risen = [answered(row, 0.0) - before for row in range(20)]
    for mine, true in zip(found[:, :20], np.stack(risen, axis=1), strict=True):
        assert np.corrcoef(mine, true)[0, 1] > 0.995
        assert abs(mine - true).max() < 0.2 * abs(true).max()  # the first order of leaving it out
    for row in (0, 7):  # which is exact for rows that count a little less
        slope = (answered(row, 0.999) - answered(row, 1.001)) / 0.002
        np.testing.assert_allclose(found[:, row], slope, rtol=1e-3, atol=1e-7)


def test_influence_of_ridge_regression_is_known():
    x, y = np.column_stack([X, np.ones(40)]), RNG.normal(size=(40, 1))
    matrix = x.T @ x / 40 + 0.1 * np.eye(4)
    weight = np.linalg.solve(matrix, x.T @ y / 40)
    model = Model(Linear(1, bias=False), {"weight": weight}, loss=SquaredError())
    # Squared errors have the derivative 2, so that twice the penalty is the same ridge.
    found = influence(model, x, y, x[:2], y[:2] + 1.0, l2=0.2)
    residual, way = y - x @ weight, np.linalg.solve(matrix, x.T) / 40
    leverage = np.sum(x * way.T, axis=1)
    for row in range(40):
        left = np.delete(np.arange(40), row)
        again = np.linalg.solve(
            x[left].T @ x[left] / 40 + 0.1 * np.eye(4), x[left].T @ y[left] / 40
        )
        first_order = (1.0 - leverage[row]) * (again - weight)  # Cook and Weisberg: exactly
        np.testing.assert_allclose(first_order[:, 0], -way[:, row] * residual[row], atol=1e-14)
        slope = -2.0 * (y[:2] + 1.0 - x[:2] @ weight) * x[:2]
        np.testing.assert_allclose(found[:, row], slope @ first_order[:, 0], rtol=1e-9)


def network(backend=None):
    home = tinynn.data.host() if backend is None else backend
    draw = np.random.default_rng(1)
    params = {"0": {"weight": draw.normal(size=(3, 2))}, "2": {"weight": draw.normal(size=(2, 1))}}
    params = tinynn.tree.map(lambda a: home.asarray(a, dtype="float64"), params)
    net = Sequential(Linear(2, bias=False), tanh, Linear(1, bias=False))
    return Model(net, params, loss=SquaredError())


def test_both_solvers_agree_on_every_library(backend, float64):
    y = network().outputs(X[:10]) + 0.1 * RNG.normal(size=(10, 1))
    x, targets = backend.asarray(X[:10]), backend.asarray(y)
    model = network(backend)
    given = (model, x, targets, x[:2, :], targets[:2, :] + 1.0)
    dense = backend.to_host(influence(*given, damping=0.1))
    by_products = influence(*given, damping=0.1, solver="cg", tolerance=1e-10)
    np.testing.assert_allclose(backend.to_host(by_products), dense, rtol=1e-6, atol=1e-10)


def test_what_has_no_influence_is_said():
    model, y = network(), RNG.normal(size=(40, 1))
    for solver, text in (
        ("dense", "smallest eigenvalue is -"),
        ("cg", "one of negative curvature"),
    ):
        with pytest.raises(ValueError, match=f"positive definite Hessian.*{text}.*damping="):
            influence(model, X, y, X[:1], y[:1], solver=solver)
    flat = Model(Linear(1), Linear(1).init(0, X)[0], loss=SquaredError())  # no feature varies
    with pytest.raises(ValueError, match=r"damping= above \d[.\d]*e-1\d$") as caught:
        influence(flat, np.ones_like(X), y, X[:1], y[:1])
    enough = 10 * float(str(caught.value).rpartition(" ")[2])  # the Hessian is rounded, too
    influence(flat, np.ones_like(X), y, X[:1], y[:1], damping=enough)
    with pytest.raises(ValueError, match=r"tolerance 1e-06 in 2 steps, got to .*give more steps="):
        influence(model, X, y, X[:1], y[:1], damping=9.0, solver="cg", steps=2)
    with pytest.raises(ValueError, match="expected a number of 0 or more, got -1"):
        influence(model, X, y, X[:1], y[:1], damping=-1)
    with pytest.raises(ValueError, match=r'solver: expected "auto", "dense" or "cg", got .qr.'):
        influence(model, X, y, X[:1], y[:1], solver="qr")
    weighted = Model(model.net, model.params, loss=SoftmaxCrossEntropy(class_weight=[1.0, 2.0]))
    with pytest.raises(ValueError, match="without class_weight, got SoftmaxCrossEntropy"):
        influence(weighted, X, y, X[:1], y[:1])
    large = Model(Linear(1, bias=False), {"weight": np.zeros((20_000, 1))}, loss=SquaredError())
    wide = np.ones((1, 20_000))
    with pytest.raises(ValueError, match=r'20,000, which would take 8.9 GiB.*solver="cg"'):
        influence(large, wide, wide[:, :1], wide, wide[:, :1], l2=1.0, solver="dense")


@pytest.mark.parametrize("solver", ["dense", "cg"])
def test_rows_that_have_no_influence_to_be_known_are_said(solver):
    """NaN would come out as NaN, or by conjugate gradients as 0."""
    net, labels = Linear(3), RNG.integers(0, 3, 40)
    model = Model(net, net.init(0, X)[0], loss=SoftmaxCrossEntropy())
    gap = np.where(X > 1.0, np.nan, X)
    for rows, y, new, y_new, said in (
        (gap, labels, X, labels, "X: expected finite numbers, got NaN"),
        (X, labels, gap, labels, "X_new: expected finite numbers"),
        (X, labels + 1, X, labels, "expected labels from 0 to 2"),
        (X, labels, X, labels + 1, "expected labels from 0 to 2"),
        (X, labels[:5], X, labels, "X: expected 1 rows or more, and as many targets, got 40, 5"),
        (X, labels, X[:3], labels, "X_new: .* got 3, 40"),
        (X[:0], labels[:0], X, labels, "X: .* got 0, 0"),
        (X.tolist(), labels, X, labels, r"expected arrays of rows, got list.*model.prepared"),
    ):
        with pytest.raises(ValueError, match=said):
            influence(model, rows, y, new, y_new, damping=0.1, solver=solver)
    for wrong in ({"steps": 0}, {"steps": 2.5}, {"tolerance": 0.0}, {"tolerance": float("nan")}):
        with pytest.raises(ValueError, match=f"influence: {next(iter(wrong))}: expected"):
            influence(model, X, labels, X, labels, damping=0.1, solver=solver, **wrong)
    none = influence(model, X, labels, X[:0], labels[:0], damping=0.1, solver=solver)
    assert none.shape == (0, 40)
    lost = Model(net, tinynn.tree.map(lambda a: a * np.nan, model.params), loss=model.loss)
    stack = tinynn.fit_many(net, X, labels, networks=2, epochs=1, engine="eager")
    with pytest.raises(TypeError, match=r"expected one model, got <ModelStack of 2.*each of its"):
        influence(stack, X, labels, X, labels, solver=solver)
    with pytest.raises(ValueError, match="model: expected finite parameters"):
        influence(lost, X, labels, X, labels, damping=0.1, solver=solver)
