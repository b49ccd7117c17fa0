"""`least_squares` and `minimize`: NIST's certified values, published minima, SciPy's; bad input."""

from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests import nist_sets
from tests.checks import assert_close
from tests.mgh import (
    bard,
    beale,
    biggs,
    box,
    brown_almost_linear,
    brown_dennis,
    broyden_tridiagonal,
    freudenstein_roth,
    gaussian,
    helical_valley,
    jennrich_sampson,
    kowalik_osborne,
    powell_singular,
    rosenbrock,
    trigonometric,
    variably_dimensioned,
    watson,
    wood,
)
from tinynn.optim import LBFGS, LevenbergMarquardt, NewtonCG
from tinynn.trace import namespace

pytestmark = pytest.mark.reads_scalars

# Their certified values have residuals below rounding: six digits is what all methods give.
NEARLY_EXACT = ("Lanczos1", "Lanczos2", "Lanczos3")


@pytest.mark.only("numpy")
@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("name", nist_sets.MODELS)
def test_certified_values(name: str, start: int, backend: backends.Backend) -> None:
    """Seven digits of eleven, from both starts; of the nearly exact ones six."""
    given = nist_sets.read(name)
    residuals = nist_sets.residuals(name, given.rows, backend, None)
    found = tinynn.least_squares(residuals, np.asarray(given.starts[start]))
    digits = 1e-6 if name in (*NEARLY_EXACT, "ENSO") else 1e-7
    np.testing.assert_allclose(found.params, given.certified, rtol=digits)
    if name != "Lanczos1":
        assert 2 * found.value == pytest.approx(given.squares, rel=1e-8)
    assert found.converged


def test_certified_values_on_every_library(backend: backends.Backend, float64: Any) -> None:
    given = nist_sets.read("Misra1a")
    residuals = nist_sets.residuals("Misra1a", given.rows, backend, float64)
    start = backend.asarray(given.starts[1], dtype=float64)
    found = tinynn.least_squares(residuals, start)
    assert_close(found.params, given.certified, backend, dtype=float64, rtol=1e-7)
    assert found.converged


#: Residuals, start and least sum of squares of Moré, Garbow and Hillstrom 1981, ACM TOMS 7.
PUBLISHED = [
    (rosenbrock, [-1.2, 1], 0.0),
    (freudenstein_roth, [0.5, -2], 48.98425367924),
    (beale, [1, 1], 0.0),
    (jennrich_sampson, [0.3, 0.4], 124.3621823556),
    (helical_valley, [-1, 0, 0], 0.0),
    (bard, [1, 1, 1], 8.21487730657e-3),
    (gaussian, [0.4, 1, 0], 1.12793276961e-8),
    (box, [0, 10, 20], 0.0),
    (powell_singular, [3, -1, 0, 1], 0.0),
    (wood, [-3, -1, -3, -1], 0.0),
    (kowalik_osborne, [0.25, 0.39, 0.415, 0.39], 3.07505603849e-4),
    (brown_dennis, [25, 5, -5, -1], 85822.20162635),
    (biggs, [1, 2, 1, 1, 1, 1], 0.0),  # and 5.6557e-3, a local one
    (watson, [0] * 6, 2.28767005355e-3),
    (variably_dimensioned, [1 - (i + 1) / 10 for i in range(10)], 0.0),
    (trigonometric, [0.2] * 5, 0.0),
    (brown_almost_linear, [0.5] * 10, 0.0),
    (broyden_tridiagonal, [-1] * 10, 0.0),
]


@pytest.mark.only("numpy")
@pytest.mark.parametrize(
    ("residuals", "start", "least"), PUBLISHED, ids=[row[0].__name__ for row in PUBLISHED]
)
def test_published_minima(
    residuals: Any, start: list[float], least: float, backend: backends.Backend
) -> None:
    method: Any = "levenberg-marquardt"
    if residuals is brown_dennis:  # of large residuals, where the default takes thousands of steps
        method = LevenbergMarquardt(gradient_tolerance=0.0)
    found = tinynn.least_squares(residuals, np.asarray(start, dtype=float), method)
    assert 2 * found.value == pytest.approx(least, rel=1e-9, abs=1e-12)
    assert found.converged


@pytest.mark.only("numpy")
@pytest.mark.parametrize("residuals", [beale, bard, kowalik_osborne], ids=lambda f: f.__name__)
def test_scipys_minima(residuals: Any, backend: backends.Backend) -> None:
    """The same parameters as SciPy's, by both methods and by conjugate gradients."""
    from scipy import optimize

    start = np.asarray(next(row[1] for row in PUBLISHED if row[0] is residuals), dtype=float)
    jac = tinynn.jacobian(residuals)
    theirs = optimize.least_squares(
        residuals, start, jac=jac, method="lm", xtol=1e-12, ftol=1e-15, gtol=1e-15
    )
    ours = tinynn.least_squares(residuals, start)
    np.testing.assert_allclose(ours.params, theirs.x, rtol=1e-6)
    by_products = LevenbergMarquardt(solver="cg", cg_tolerance=1e-8, gradient_tolerance=1e-9)
    found = tinynn.least_squares(residuals, start, by_products)
    np.testing.assert_allclose(found.value, theirs.cost, rtol=1e-6, atol=1e-14)
    if residuals is bard:
        np.testing.assert_allclose(
            tinynn.least_squares(residuals, start, "gauss-newton").params, theirs.x, rtol=1e-7
        )


def valley(p: Any) -> Any:
    x = p["x"]
    xp = namespace(x)
    return xp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


@pytest.mark.parametrize("method", ["lbfgs", "newton-cg"])
def test_minimize(method: str, backend: backends.Backend, float64: Any) -> None:
    far = [-1.2, 1.0, 0.5] if backend.name == "numpy" else [0.8, 0.7]
    start = {"x": backend.asarray(far, dtype=float64)}
    found = tinynn.minimize(valley, start, method)
    assert_close(found.params["x"], [1.0] * len(far), backend, dtype=float64, atol=1e-4)
    assert found.converged
    assert found.value < 1e-8
    assert found.evaluations > found.iterations > 2


@pytest.mark.only("numpy")
def test_scipys_newton(backend: backends.Backend) -> None:
    """From many starts the minimum of SciPy's trust-ncg, in no more than twice its steps."""
    from scipy import optimize

    def function(x: Any) -> Any:
        return valley({"x": x})

    def product(x: Any, p: Any) -> Any:
        return tinynn.hvp(function, (x,), (p,))

    options = {"gtol": 1e-8}
    for seed in range(3):
        start = np.random.RandomState(seed).randn(6)
        theirs = optimize.minimize(
            function,
            start,
            jac=tinynn.grad(function),
            hessp=product,
            method="trust-ncg",
            options=options,
        )
        ours = tinynn.minimize(function, start, "newton-cg")
        np.testing.assert_allclose(ours.value, theirs.fun, atol=1e-10)
        assert ours.iterations <= 2 * theirs.nit


@pytest.mark.only("numpy", "array_api_strict", "torch")
def test_a_saddle_is_left(backend: backends.Backend, float64: Any) -> None:
    """The Hessian is indefinite at the start, and the gradient points to the saddle all but."""

    def function(p: Any) -> Any:
        return p[0] ** 2 + 0.25 * p[1] ** 4 - 0.5 * p[1] ** 2

    start = backend.asarray([1.0, 1e-6], dtype=float64)
    found = tinynn.minimize(function, start, "newton-cg")
    assert found.value == pytest.approx(-0.25, abs=1e-9)
    assert float(found.params[1]) == pytest.approx(1.0, abs=1e-5)


def test_float32_and_trees(backend: backends.Backend) -> None:
    """Residuals and params may be trees; tolerances are those of the dtype."""
    a = backend.asarray([1.0, 2.0], dtype="float32")
    start = {"a": backend.xp.zeros_like(a), "b": (backend.asarray(0.5, dtype="float32"),)}

    def residuals(p: Any) -> Any:
        return {"one": p["a"] - a, "two": [p["b"][0] ** 2 - 9.0]}

    found = tinynn.least_squares(residuals, start)
    assert_close(found.params["a"], [1.0, 2.0], backend, dtype="float32", rtol=1e-5)
    assert_close(found.params["b"][0], 3.0, backend, dtype="float32", rtol=1e-5)
    assert found.converged


@pytest.mark.parametrize("method", ["lbfgs", "newton-cg"])
@pytest.mark.parametrize("power", [1, 2])
def test_a_function_without_a_bottom_is_an_error(
    method: str, power: int, backend: backends.Backend
) -> None:
    """At once, and not after all steps: in the default dtype of the library."""
    start = backend.asarray([1.0, 2.0])
    with pytest.raises(ValueError, match=r"minimize: expected a function that has a minimum.*-"):
        tinynn.minimize(lambda x: -namespace(x).sum(x**power), start, method)


@pytest.mark.only("numpy", "torch")
def test_a_low_value_within_bounds_is_a_minimum(backend: backends.Backend, float64: Any) -> None:
    """With bounds on both sides there is one; with one that is left out there is none here."""
    start = backend.asarray([0.5, 0.25], dtype="float64")

    def line(x: Any) -> Any:
        return -1e25 * namespace(x).sum(x)

    found = tinynn.minimize(line, start, bounds=(0.0, 1.0))
    assert found.converged
    assert found.value == pytest.approx(-2e25)
    with pytest.raises(ValueError, match=r"a minimum above -1e\+20, got one that falls to.*scale"):
        tinynn.minimize(line, start, bounds=(0.0, None), max_steps=5)


@pytest.mark.only("numpy")
class TestBadInput:
    """Errors say where, what was expected, what came, and what to do."""

    start = np.asarray([1.0, 2.0])

    def test_a_singular_jacobian(self, backend: backends.Backend) -> None:
        def residuals(p: Any) -> Any:
            return [p["x"][0] + p["x"][1] - 3.0, 2.0 * (p["x"][0] + p["x"][1])]

        with pytest.raises(ValueError, match=r"singular one: what 'x' changes at entry 1.*To fix"):
            tinynn.least_squares(residuals, {"x": self.start}, "gauss-newton")
        found = tinynn.least_squares(residuals, {"x": self.start})  # which is as good as any
        assert found.converged
        assert found.value == pytest.approx(3.6, rel=1e-9)

    def test_memory_is_named_before_it_is_taken(self, backend: backends.Backend) -> None:
        method = LevenbergMarquardt(solver="dense", memory_limit=1e3)

        def residuals(p: Any) -> Any:
            return namespace(p).concat([p, p[:-1] * p[1:]])

        with pytest.raises(ValueError, match=r"199 outputs by 100 param.*0.000558 GB.*'cg'"):
            tinynn.least_squares(residuals, np.ones(100), method)

    def test_nothing_finite_at_the_start(self, backend: backends.Backend) -> None:
        for method in ("levenberg-marquardt", "gauss-newton"):
            with pytest.raises(ValueError, match="least_squares: expected a finite value"):
                tinynn.least_squares(lambda p: p * float("inf"), self.start, method)

    def test_methods(self, backend: backends.Backend) -> None:
        with pytest.raises(ValueError, match=r"'lbfgs' or 'newton-cg'.*got 'bfgs'"):
            tinynn.minimize(valley, {"x": self.start}, "bfgs")
        with pytest.raises(ValueError, match=r"tinynn\.least_squares"):
            tinynn.minimize(valley, {"x": self.start}, LevenbergMarquardt())
        with pytest.raises(ValueError, match=r"tinynn\.minimize"):
            tinynn.least_squares(beale, self.start, NewtonCG())

    def test_nothing_to_search(self, backend: backends.Backend) -> None:
        for search in (tinynn.minimize, tinynn.least_squares):
            with pytest.raises(ValueError, match="params: expected a number at least"):
                search(valley, np.ones(0))
            with pytest.raises(ValueError, match="max_steps: expected a whole number of 1 or mo"):
                search(beale, self.start, max_steps=0)
        for method in ("levenberg-marquardt", "gauss-newton"):
            for residuals in (lambda p: [], lambda p: np.asarray([1, 2])):
                with pytest.raises(TypeError, match="residuals: expected arrays of a real float"):
                    tinynn.least_squares(residuals, self.start, method)

    def test_a_gradient_that_is_not_finite(self, backend: backends.Backend) -> None:
        def root(p: Any) -> Any:
            return namespace(p).sqrt(p) - 3.0

        start = np.asarray([0.0, 1.0])
        for method in ("levenberg-marquardt", "gauss-newton"):
            with pytest.raises(ValueError, match="least_squares: expected a finite gradient"):
                tinynn.least_squares(root, start, method)
        for method in ("lbfgs", "newton-cg"):
            with pytest.raises(ValueError, match="minimize: expected a finite gradient"):
                tinynn.minimize(lambda p: namespace(p).sum(root(p) ** 2), start, method)

    def test_a_hessian_that_is_not_finite(self, backend: backends.Backend) -> None:
        """Newton-CG follows the gradient then, and does not say that it has arrived."""

        def valley(
            p: Any,
        ) -> Any:  # at x = 0 the gradient is 0, and the second derivative no number
            xp = namespace(p["x"])
            return xp.abs(p["x"]) ** 1.5 + (p["y"] - 1.0) ** 2

        start = {"x": np.asarray(0.0), "y": np.asarray(0.0)}
        with np.errstate(all="ignore"):
            hessian = tinynn.hessian(lambda x: namespace(x).abs(x) ** 1.5)(start["x"])
        assert not np.isfinite(hessian)
        found = tinynn.minimize(valley, start, "newton-cg")
        assert found.value < 1e-12
        assert float(found.params["y"]) == pytest.approx(1.0, abs=1e-6)

    def test_integers(self, backend: backends.Backend) -> None:
        with pytest.raises(TypeError, match="real floating-point dtype"):
            tinynn.least_squares(beale, np.asarray([1, 1]))
        with pytest.raises(TypeError, match=r"residuals: expected a function of .* got 'a'"):
            tinynn.least_squares("a", self.start)
        with pytest.raises(TypeError, match="function: expected a function of the params, got 1"):
            tinynn.minimize(1, self.start)

    def test_steps_run_out(self, backend: backends.Backend) -> None:
        found = tinynn.minimize(valley, {"x": self.start}, LBFGS(), max_steps=2)
        assert not found.converged
        assert found.message == "not converged after 2 steps"
