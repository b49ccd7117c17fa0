"""The answers of other libraries on the same problems: `nox -s peers` installs them all.

A library that is not installed is a skip, which says so. In nox's session none is missing.
"""

import importlib
import os
import warnings
from typing import Any

import numpy as np
import pytest

import tinynn
from tinynn import Model, ModelStack, tree
from tinynn.functional import tanh
from tinynn.layers import Linear, Sequential
from tinynn.losses import SoftmaxCrossEntropy, SquaredError
from tinynn.trace import namespace

pytestmark = [
    pytest.mark.reads_scalars,
    pytest.mark.filterwarnings("ignore"),  # of theirs, old and new
]

RNG = np.random.default_rng(0)
X, NEW = RNG.normal(size=(30, 2)), RNG.normal(size=(5, 2))
Y = X @ [[1.0], [-2.0]] + 0.3 * RNG.normal(size=(30, 1))
LABELS = np.arange(30) % 3
NET = Sequential(Linear(3), tanh, Linear(1))


def library(name: str) -> Any:
    """The library, or a skip; an error in the session that has installed all of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            if os.environ.get("TINYNN_PEERS"):
                raise
            pytest.skip(f"{name} is not installed: nox -s peers does it")


def test_least_squares_is_jaxopts() -> None:
    """A network of 13 parameters with a penalty: one minimum, but for the order of its units."""
    jaxopt, jax = library("jaxopt"), library("jax")
    start = NET.init(0, X)[0]
    leaves, structure = tree.flatten(start)
    sizes = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def residuals(vector: Any) -> Any:
        xp = namespace(vector)
        parts = [vector[a:b] for a, b in zip([0, *sizes], [*sizes, 13], strict=True)]
        shaped = [xp.reshape(p, leaf.shape) for p, leaf in zip(parts, leaves, strict=True)]
        errors = NET(structure.unflatten(shaped), xp.asarray(X)) - xp.asarray(Y)
        return xp.concat([xp.reshape(errors, (-1,)), 0.1 * vector])

    vector = np.concatenate([leaf.reshape(-1) for leaf in leaves])
    found = tinynn.least_squares(residuals, vector, max_steps=200)
    with jax.enable_x64(True):
        solver = jaxopt.LevenbergMarquardt(
            residuals, maxiter=500, tol=1e-10, xtol=1e-12, gtol=1e-12
        )
        theirs = np.asarray(solver.run(jax.numpy.asarray(vector)).params)
    np.testing.assert_allclose(np.sum(residuals(theirs) ** 2), 2 * found.value, rtol=1e-8)


def rosenbrock(x: Any) -> Any:
    """Of 10 numbers: a valley that bends, whose minimum is at ones."""
    xp = namespace(x)
    return xp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def ridge(x: Any) -> Any:
    """The squares of a linear model's errors with a penalty: 2 numbers, one minimum."""
    xp = namespace(x)
    errors = xp.asarray(X) @ x - xp.asarray(Y[:, 0])
    return 0.5 * xp.sum(errors * errors) + 0.1 * xp.sum(x * x)


def penalized(x: Any) -> Any:
    """A network of 13 parameters with a penalty."""
    xp = namespace(x)
    hidden = xp.tanh(xp.asarray(X) @ xp.reshape(x[:6], (2, 3)) + x[6:9])
    errors = hidden @ x[9:12] + x[12] - xp.asarray(Y[:, 0])
    return xp.mean(errors * errors) + 0.01 * xp.sum(x * x)


def in_order(params: Any) -> Any:
    """The network's parameters with its units in order, which may be any in a minimum."""
    units = params[:12].reshape(4, 3)
    return np.append(units[:, np.argsort(units[0])], params[12])


@pytest.mark.parametrize(
    ("function", "start"),
    [
        (rosenbrock, np.where(np.arange(10) % 2, 1.0, -1.2)),
        (ridge, np.zeros(2)),
        (penalized, np.sin(1.0 + np.arange(13.0))),
    ],
    ids=["rosenbrock", "ridge", "network"],
)
def test_the_minima_of_lbfgs_are_optaxs(function: Any, start: Any) -> None:
    """The same history and, of the gradient, the same tolerance."""
    optax, jax = library("optax"), library("jax")
    settings = tinynn.optim.LBFGS(gradient_tolerance=1e-9, value_tolerance=0.0)
    found = tinynn.minimize(function, start, settings)
    with jax.enable_x64(True):
        solver, params = optax.lbfgs(memory_size=10), jax.numpy.asarray(start)
        state, value_and_grad = solver.init(params), optax.value_and_grad_from_state(function)

        @jax.jit
        def step(params: Any, state: Any) -> Any:
            value, gradient = value_and_grad(params, state=state)
            updates, state = solver.update(
                gradient, state, params, value=value, grad=gradient, value_fn=function
            )
            return optax.apply_updates(params, updates), state, gradient

        for _ in range(500):
            params, state, gradient = step(params, state)
            if float(jax.numpy.max(jax.numpy.abs(gradient))) <= 1e-9:
                break
        theirs = np.asarray(params)
    np.testing.assert_allclose(found.value, function(theirs), rtol=1e-9, atol=1e-14)
    ours, theirs = (in_order(p) if function is penalized else p for p in (found.params, theirs))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("subset", "classes"),
    [("last_layer", False), ("last_layer", True), ("all", False), ("all", True)],
)
def test_the_laplace_approximation_is_laplace_torchs(subset: str, classes: bool) -> None:
    """Variances, probabilities by the probit approximation, and the marginal likelihood."""
    torch, peer = library("torch"), library("laplace")
    outputs = 3 if classes else 1
    net = Sequential(Linear(3), tanh, Linear(outputs))
    loss, y = (SoftmaxCrossEntropy(), LABELS) if classes else (SquaredError(), Y)
    params = net.init(1, X)[0]
    theirs = torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, outputs)
    ).double()
    with torch.no_grad():
        for place in ("0", "2"):
            layer = theirs[int(place)]
            layer.weight.copy_(torch.as_tensor(params[place]["weight"].T.copy()))
            layer.bias.copy_(torch.as_tensor(params[place]["bias"]))
    data = torch.utils.data.TensorDataset(torch.as_tensor(X), torch.as_tensor(y))
    noise = {} if classes else {"sigma_noise": 0.5}
    exact = library("laplace.curvature").BackPackGGN  # the default's matrix is off by 4e-6
    posterior = peer.Laplace(
        theirs, "classification" if classes else "regression", subset_of_weights=subset,
        hessian_structure="full", prior_precision=2.0, backend=exact, **noise,
    )  # fmt: skip
    posterior.fit(torch.utils.data.DataLoader(data, batch_size=30))
    given = {} if classes else {"noise": 0.25}
    found = Model(net, params, loss=loss).laplace(
        X, y, last_layer=subset == "last_layer", prior_precision=2.0, **given
    )
    new = torch.as_tensor(NEW)
    if classes:
        p = posterior(new, pred_type="glm", link_approx="probit").detach()
        np.testing.assert_allclose(found.predict_proba(NEW), p, rtol=1e-7)
    else:
        mean, variance = (each.detach() for each in posterior(new, pred_type="glm"))
        answer = found.predict(NEW)
        np.testing.assert_allclose(answer.mean, mean, rtol=1e-9)
        np.testing.assert_allclose(answer.epistemic, variance[:, 0], rtol=1e-9)
    evidence = float(posterior.log_marginal_likelihood())
    assert float(found.log_marginal_likelihood) == pytest.approx(evidence, rel=1e-8)


def test_the_posterior_of_a_linear_model_is_gpytorchs() -> None:
    """Bayesian regression is the Gaussian process of the linear kernel."""
    torch, peer = library("torch"), library("gpytorch")

    class Process(peer.models.ExactGP):  # type: ignore[misc, name-defined]
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.mean_module = peer.means.ZeroMean()
            self.covar_module = peer.kernels.LinearKernel()
            self.covar_module.variance = 0.5  # a prior precision of 2

        def forward(self, x: Any) -> Any:
            return peer.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    likelihood = peer.likelihoods.GaussianLikelihood()
    process = Process(torch.as_tensor(X), torch.as_tensor(Y[:, 0]), likelihood).double()
    likelihood.double().noise = 0.09
    evidence = peer.mlls.ExactMarginalLogLikelihood(likelihood, process)
    process.train()
    log = float(evidence(process(torch.as_tensor(X)), torch.as_tensor(Y[:, 0]))) * 30
    process.eval()
    with torch.no_grad():
        theirs = process(torch.as_tensor(NEW))
    weight = np.linalg.solve(X.T @ X / 0.09 + 2.0 * np.eye(2), X.T @ Y / 0.09)
    model = Model(Linear(1, bias=False), {"weight": weight}, loss=SquaredError())
    found = model.laplace(X, Y, prior_precision=2.0, noise=0.09)
    answer = found.predict(NEW)
    np.testing.assert_allclose(answer.mean[:, 0], theirs.mean, rtol=1e-6)
    np.testing.assert_allclose(answer.epistemic[:, 0], theirs.variance, rtol=1e-5)
    assert float(found.log_marginal_likelihood) == pytest.approx(log, rel=1e-6)


SMALL: dict[str, Any] = {"hidden_layer_sizes": (3,), "solver": "lbfgs", "max_iter": 30, "tol": None}


def test_split_intervals_and_sets_are_mapies() -> None:
    """Around estimators of tinynn, which it takes as any of scikit-learn's."""
    mapie = library("mapie.regression"), library("mapie.classification")
    from tinynn.sklearn import NetworkClassifier, NetworkRegressor

    fitted = NetworkRegressor(**SMALL, random_state=0).fit(X[:10], Y[:10, 0])
    theirs = mapie[0].SplitConformalRegressor(fitted, confidence_level=0.8, prefit=True)
    theirs.conformalize(X[10:], Y[10:, 0])
    estimate, bounds = theirs.predict_interval(NEW)
    found = fitted.calibrate(X[10:], Y[10:, 0]).predict(NEW, interval=0.8)
    np.testing.assert_allclose(np.stack(found), [estimate, *bounds[:, :, 0].T], rtol=1e-12)
    classes = NetworkClassifier(**SMALL, random_state=0).fit(X[:10], LABELS[:10])
    sets = mapie[1].SplitConformalClassifier(
        classes, confidence_level=0.8, prefit=True, conformity_score="lac"
    )
    sets.conformalize(X[10:], LABELS[10:])
    expected = sets.predict_set(NEW)[1][:, :, 0]
    classes.calibrate(X[10:], LABELS[10:])
    np.testing.assert_array_equal(classes.predict_set(NEW, 0.8), expected)


@pytest.mark.parametrize("folds", [5, 30])
def test_intervals_by_folds_are_mapies(folds: int) -> None:
    """CV+, and with a fold for each row the jackknife+, of ridge regressions."""
    regression = library("mapie.regression")
    linear, select = library("sklearn.linear_model"), library("sklearn.model_selection")
    splitter = select.KFold(folds)
    ridge = linear.Ridge(0.1, fit_intercept=False)
    theirs = regression.CrossConformalRegressor(
        ridge, confidence_level=0.9, method="plus", cv=splitter
    )
    theirs.fit_conformalize(X, Y[:, 0])
    bounds = theirs.predict_interval(NEW)[1][:, :, 0]
    of_row, weights = np.empty(30, int), []
    for fold, (train, held) in enumerate(splitter.split(X)):
        of_row[held] = fold
        weights.append(ridge.fit(X[train], Y[train, 0]).coef_)
    params = {"weight": np.stack(weights)[..., None]}
    stack = ModelStack(Linear(1, bias=False), params, {}, loss=SquaredError(), folds=of_row)
    stack.calibrate(X, Y)
    found = stack.predict(NEW, interval=0.9)
    np.testing.assert_allclose(np.concatenate([found.lower, found.upper], 1), bounds, rtol=1e-9)
