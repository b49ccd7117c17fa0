"""`least_squares` and `minimize` within bounds: SciPy's minima, what is held, and errors."""

from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests import mgh
from tests.checks import assert_close
from tinynn.optim import LevenbergMarquardt
from tinynn.trace import namespace

pytestmark = pytest.mark.reads_scalars

# The boxes are Gay's 1984, "A trust-region approach to linearly constrained optimization", where it
# has them; in each at least one bound holds the minimum.
PROBLEMS: dict[str, tuple[Any, ...]] = {
    "wood": (mgh.wood, [-3, -1, -3, -1], [-10] * 4, [0, 10, 10, 10]),
    "beale": (mgh.beale, [1, 1], [-5, -5], [5, 0.3]),
    "bard": (mgh.bard, [1, 1, 1], [0.5] * 3, [2] * 3),
    "gaussian": (mgh.gaussian, [0.4, 1, 0], [0.398, 1, -0.5], [4.2, 2, 0.1]),
    "kowalik_osborne": (
        mgh.kowalik_osborne, [0.25, 0.39, 0.415, 0.39], [0.1, -1, 0.13, 0.12], [0.5, 1, 1, 2]
    ),
    "box": (mgh.box, [0, 10, 19], [0, 5, 0], [2, 9.5, 20]),
    "biggs": (mgh.biggs, [1, 2, 1, 1, 1, 1], [0] * 6, [2, 8, 1, 7, 5, 5]),
    "freudenstein_roth": (mgh.freudenstein_roth, [0.5, -2], [0, -30], [20, -0.9]),
    "jennrich_sampson": (mgh.jennrich_sampson, [0.3, 0.4], [0.26, 0], [10, 20]),
}  # fmt: skip


def given(name: str) -> tuple[Any, ...]:
    residuals, start, lower, upper = PROBLEMS[name]
    lower, upper = np.asarray(lower, dtype=float), np.asarray(upper, dtype=float)
    return residuals, np.clip(np.asarray(start, dtype=float), lower, upper), lower, upper


def half_squares(residuals: Any) -> Any:
    def cost(x: Any) -> Any:
        return 0.5 * namespace(x).sum(residuals(x) ** 2)

    return cost


@pytest.mark.only("numpy")
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("solver", ["dense", "cg"])
def test_scipys_minima(name: str, solver: str, backend: backends.Backend) -> None:
    from scipy import optimize

    residuals, start, lower, upper = given(name)
    jac = tinynn.jacobian(residuals)
    inside = np.clip(start, lower + 1e-3 * (upper - lower), upper - 1e-3 * (upper - lower))
    theirs = optimize.least_squares(
        lambda x: np.asarray(residuals(x)), inside, jac=jac, bounds=(lower, upper),
        xtol=1e-15, ftol=1e-15, gtol=1e-12, max_nfev=500,
    )  # fmt: skip
    method = LevenbergMarquardt(
        gradient_tolerance=0.0, memory=0.7, solver=solver, cg_tolerance=1e-8
    )
    ours = tinynn.least_squares(residuals, start, method, bounds=(lower, upper))
    assert ours.converged
    assert np.all((lower <= ours.params) & (ours.params <= upper))
    assert ours.value <= theirs.cost * (1 + 1e-7) + 1e-12
    np.testing.assert_allclose(ours.params, theirs.x, rtol=1e-3, atol=1e-4)
    held = np.abs(jac(ours.params).T @ residuals(ours.params)) > 1e-3
    assert np.all(((ours.params == lower) | (ours.params == upper))[held])


@pytest.mark.only("numpy")
@pytest.mark.parametrize("name", [name for name in PROBLEMS if name not in ("wood", "biggs")])
def test_minimize_is_scipys(name: str, backend: backends.Backend) -> None:
    """Wood's and Biggs's have several minima, of which a path finds one."""
    from scipy import optimize

    residuals, start, lower, upper = given(name)
    cost = half_squares(residuals)
    vg = tinynn.value_and_grad(cost)
    theirs = optimize.minimize(
        vg, start, jac=True, method="L-BFGS-B", bounds=list(zip(lower, upper, strict=True))
    )
    ours = tinynn.minimize(cost, start, bounds=(lower, upper))
    assert ours.converged
    assert np.all((lower <= ours.params) & (ours.params <= upper))
    assert ours.value == pytest.approx(theirs.fun, rel=1e-5, abs=1e-7)
    assert ours.evaluations <= 4 * theirs.nfev + 10


def test_trees_on_every_library(backend: backends.Backend, float64: Any) -> None:
    """A curve whose size is held at its upper bound; one number for all, and None."""
    from scipy import optimize

    times = backend.asarray([0.0, 1.0, 2.0, 3.0], dtype="float64")

    def residuals(p: Any) -> Any:
        xp = namespace(p["rate"])
        return p["size"] * xp.exp(-p["rate"] * times) - 5.0 * xp.exp(-0.5 * times)

    start = {name: backend.asarray(1.0, dtype="float64") for name in ("rate", "size")}
    upper = {"rate": backend.asarray(2.0, dtype="float64"), "size": 4.0}
    t = np.arange(4.0)
    exact = optimize.minimize_scalar(
        lambda rate: float(np.sum((4.0 * np.exp(-rate * t) - 5.0 * np.exp(-0.5 * t)) ** 2)),
        (0.1, 0.5),
    )
    found = tinynn.least_squares(residuals, start, bounds=(0.0, upper))
    assert_close(found.params["size"], 4.0, backend, dtype=float64, atol=0.0)
    assert_close(found.params["rate"], exact.x, backend, dtype=float64, atol=1e-6)
    other = tinynn.minimize(
        lambda p: half_squares(lambda _: residuals(p))(p["rate"]), start, bounds=(None, upper)
    )
    assert_close(other.params["rate"], float(found.params["rate"]), backend, atol=1e-4)
    assert other.value == pytest.approx(found.value, rel=1e-6)


@pytest.mark.only("numpy")
def test_bounds_that_hold_nothing_change_nothing(backend: backends.Backend) -> None:
    start = np.asarray([1.0, 1.0])
    for search in (tinynn.least_squares, tinynn.minimize):
        function = mgh.beale if search is tinynn.least_squares else half_squares(mgh.beale)
        found = search(function, start, bounds=(-10.0, None))
        np.testing.assert_allclose(found.params, [3.0, 0.5], atol=1e-4)
    # Equal bounds hold a parameter where it is.
    fixed = tinynn.least_squares(
        mgh.beale, start, bounds=tuple(np.asarray([[-9.0, 1.0], [9.0, 1.0]]))
    )
    assert fixed.params[1] == 1.0


@pytest.mark.only("numpy")
class TestBadInput:
    start = np.asarray([1.0, 1.0])

    @pytest.mark.parametrize(
        ("bounds", "said"),
        [
            (((0.0, 0.0), (0.5, 2.0)), r"start within the bounds, got entry 0 of 'the parameter'"),
            ((2.0, None), r"start within the bounds.*1\.0 and bounds 2\.0 and inf"),
            ((3.0, 2.0), "lower bound that is not above the upper one"),
            ((0.0, float("nan")), "lower bound that is not above"),
            ((np.zeros(3), None), r"shape \(2,\), got \(3,\)"),
            (({"x": 0.0}, None), "tree like the params"),
            (4.0, r"expected a pair \(lower, upper\)"),
        ],
    )
    def test_bounds(self, bounds: Any, said: str, backend: backends.Backend) -> None:
        if isinstance(bounds, tuple):
            bounds = tuple(np.asarray(b) if isinstance(b, tuple) else b for b in bounds)
        with pytest.raises(ValueError, match=f"(?s)least_squares: .*{said}.*To fix it"):
            tinynn.least_squares(mgh.beale, self.start, bounds=bounds)

    def test_methods(self, backend: backends.Backend) -> None:
        with pytest.raises(ValueError, match=r"expected 'levenberg-marquardt'.*'gauss-newton'"):
            tinynn.least_squares(mgh.beale, self.start, "gauss-newton", bounds=(0.0, 5.0))
        with pytest.raises(ValueError, match=r"expected 'lbfgs'.*got 'newton-cg'"):
            tinynn.minimize(half_squares(mgh.beale), self.start, "newton-cg", bounds=(0.0, 5.0))

    def test_nothing_finite(self, backend: backends.Backend) -> None:
        def root(x: Any) -> Any:
            return namespace(x).sqrt(x - 2.0)

        for search in (tinynn.least_squares, tinynn.minimize):
            f = root if search is tinynn.least_squares else half_squares(root)
            with pytest.raises(ValueError, match="expected a finite value"):
                search(f, self.start, bounds=(0.0, 5.0))

    def test_slopes_that_overflow_are_no_convergence(self, backend: backends.Backend) -> None:
        def steep(x: Any) -> Any:
            xp = namespace(x)
            return xp.finfo(x.dtype).max * 0.01 * xp.sum((x - 3.0) ** 2)

        for bounds in (None, (0.0, 5.0)):
            with pytest.raises(ValueError, match=r"finite gradient, and square of it.*scale the"):
                tinynn.minimize(steep, self.start, bounds=bounds)


@pytest.mark.only("numpy")
def test_params_of_several_dtypes(backend: backends.Backend) -> None:
    """The sum is of the widest: that of float32 alone says nothing of the others' small steps."""
    params = {"a": np.asarray(0.5, dtype="float32"), "b": np.asarray(1.2)}
    bounds = (-np.inf, {"a": np.asarray(0.7), "b": np.asarray(np.inf)})
    found = tinynn.least_squares(lambda p: [p["a"] - 3.0, p["b"] - 1.0], params, bounds=bounds)
    assert found.params["a"] == np.float32(0.7)
    np.testing.assert_allclose(found.params["b"], 1.0, rtol=1e-6)
