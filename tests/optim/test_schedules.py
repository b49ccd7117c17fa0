"""Schedules: optax's, PyTorch's and scikit-learn's values; in optimizers, on every library."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_array, assert_close
from tests.optim.trees import GRADIENTS, PARAMS, assert_trees_close, placed
from tinynn import tree
from tinynn.optim import (
    SGD,
    Adadelta,
    Adam,
    AdamW,
    Chain,
    ClipByGlobalNorm,
    Constant,
    CosineDecay,
    ExponentialDecay,
    InverseScaling,
    Lion,
    NAdam,
    OneCycle,
    Optimizer,
    PiecewiseConstant,
    PolynomialDecay,
    ReduceOnPlateau,
    RMSprop,
    Schedule,
    Warmup,
)
from tinynn.trace import namespace

SCHEDULES: dict[str, Schedule] = {
    "constant": Constant(0.3),
    "piecewise": PiecewiseConstant((0.3, 0.2, 0.1), boundaries=(5, 12)),
    "exponential": ExponentialDecay(0.8, rate=0.5, steps=7, minimum=0.2),
    "staircase": ExponentialDecay(0.8, rate=0.5, steps=7, staircase=True),
    "linear": PolynomialDecay(0.5, steps=10, end=0.1),
    "polynomial": PolynomialDecay(0.5, steps=10, end=0.1, power=2.5),
    "cosine": CosineDecay(0.4, steps=10, end=0.1),
    "restarts": CosineDecay(0.4, steps=4, end=0.1, restarts=2, growth=2.0),
    "one cycle": OneCycle(0.1, steps=20, rising=0.25),
    "inverse": InverseScaling(0.1, power=0.7),
    "warm-up": Warmup(CosineDecay(0.4, steps=10), steps=4, start=0.02),
    "warm-up to a number": Warmup(0.3, steps=4),
}
STEPS = range(30)


@pytest.mark.parametrize("name", SCHEDULES)
def test_arrays_and_numbers_agree(name: str, backend: backends.Backend, float_dtype: Any) -> None:
    schedule = SCHEDULES[name]
    for step in STEPS:
        given = backend.asarray(float(step), dtype=float_dtype)
        number = schedule(step)
        assert isinstance(number, float)
        assert_close(
            schedule(given), number, backend, dtype=float_dtype, shape=(), rtol=3e-6, atol=1e-7
        )


@pytest.mark.only("jax-x64")
def test_values_are_optaxs(backend: backends.Backend) -> None:
    import optax

    pairs: list[tuple[Schedule, Any]] = [
        (SCHEDULES["constant"], optax.constant_schedule(0.3)),
        (
            PiecewiseConstant((0.4, 0.2, 0.1), boundaries=(5, 12)),
            optax.piecewise_constant_schedule(0.4, {5: 0.5, 12: 0.5}),
        ),
        (SCHEDULES["exponential"], optax.exponential_decay(0.8, 7, 0.5, end_value=0.2)),
        (SCHEDULES["staircase"], optax.exponential_decay(0.8, 7, 0.5, staircase=True)),
        (SCHEDULES["linear"], optax.linear_schedule(0.5, 0.1, 10)),
        (SCHEDULES["polynomial"], optax.polynomial_schedule(0.5, 0.1, 2.5, 10)),
        (SCHEDULES["cosine"], optax.cosine_decay_schedule(0.4, 10, alpha=0.25)),
        (
            Warmup(CosineDecay(0.4, steps=10, end=0.1), steps=4, start=0.02),
            optax.warmup_cosine_decay_schedule(0.02, 0.4, 4, 14, end_value=0.1),
        ),
    ]
    for ours, theirs in pairs:
        for step in STEPS:
            assert ours(step) == pytest.approx(float(theirs(step)), rel=1e-6), (ours, step)


@pytest.mark.only("torch")
def test_values_are_pytorchs(backend: backends.Backend) -> None:
    import torch.optim.lr_scheduler as schedulers

    pairs: list[tuple[Schedule, Callable[[Any], Any]]] = [
        (
            PiecewiseConstant((0.3, 0.03, 0.003), boundaries=(5, 12)),
            lambda o: schedulers.MultiStepLR(o, [5, 12]),
        ),
        (ExponentialDecay(0.3, rate=0.9), lambda o: schedulers.ExponentialLR(o, 0.9)),
        (
            PolynomialDecay(0.3, steps=10, power=2.0),
            lambda o: schedulers.PolynomialLR(o, 10, power=2.0),
        ),
        (
            CosineDecay(0.3, steps=4, end=0.1, restarts=9, growth=2.0),
            lambda o: schedulers.CosineAnnealingWarmRestarts(o, 4, 2, eta_min=0.1),
        ),
        (
            OneCycle(0.3, steps=31, rising=0.4, start_divisor=10.0, end_divisor=500.0),
            lambda o: schedulers.OneCycleLR(
                o, 0.3, 31, pct_start=0.4, div_factor=10.0, final_div_factor=50.0
            ),
        ),
    ]
    for ours, make in pairs:
        optimizer = torch_sgd(0.3)
        theirs = make(optimizer)
        for step in STEPS:
            assert ours(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9), (ours, step)
            optimizer.step()
            theirs.step()


def torch_sgd(rate: float) -> Any:
    import torch

    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)


def test_inverse_scaling_is_scikit_learns() -> None:
    """Its first step is 1: eta0 / pow(t, power_t)."""
    assert [InverseScaling(0.1, power=0.7)(step) for step in range(5)] == pytest.approx(
        [0.1 / t**0.7 for t in range(1, 6)]
    )


# In optimizers.

RATE = CosineDecay(0.1, steps=6, end=0.01)
SHARE = PolynomialDecay(0.9, steps=4, end=0.5)
SCHEDULED: list[Optimizer] = [
    SGD(RATE, momentum=SHARE),
    SGD(RATE, momentum=SHARE, nesterov=True),
    Adam(RATE, beta1=SHARE, beta2=SHARE, epsilon=ExponentialDecay(1e-3, rate=0.5)),
    Adam(RATE, beta2=SHARE, amsgrad=True),
    AdamW(RATE, weight_decay=SHARE),
    NAdam(RATE, beta1=SHARE, beta2=SHARE),
    RMSprop(RATE, decay=SHARE, momentum=SHARE, centered=True, epsilon=1e-3),
    Adadelta(RATE, decay=SHARE),
    Lion(RATE, beta1=SHARE, beta2=SHARE, weight_decay=SHARE),
    Chain(ClipByGlobalNorm(RATE), SGD(1.0)),
]


@pytest.mark.parametrize("optimizer", SCHEDULED, ids=str)
def test_dtypes_are_kept(optimizer: Optimizer, backend: backends.Backend, float_dtype: Any) -> None:
    params = placed(PARAMS, backend, float_dtype)
    state = optimizer.init(params)
    for gradients in GRADIENTS[:2]:
        gradients = placed(gradients, backend, float_dtype)
        params, state = optimizer.update(gradients, state, params)
    for path, leaf in tree.paths((params, state)):
        counter = path.endswith("step")
        assert_array(leaf, backend, dtype="int32" if counter else float_dtype)


def by_hand(optimizer: Any, p: Any, g: Any, s: Any, t: int) -> Any:
    """A step of the formula with the values that the hyperparameters have at it."""
    from types import SimpleNamespace

    from tests.optim.test_optimizers import OPTIMIZERS

    formula = {type(row[0]): row[1] for row in OPTIMIZERS.values()}[type(optimizer)]
    values = {
        name: value(t - 1) if isinstance(value, Schedule) else value
        for name, value in vars(optimizer).items()
    }
    return formula(SimpleNamespace(**values), p, g, s, t)


@pytest.mark.only("numpy")
@pytest.mark.parametrize("optimizer", SCHEDULED[:-1], ids=str)
def test_every_hyperparameter_takes_one(optimizer: Optimizer, backend: backends.Backend) -> None:
    params = placed(PARAMS, backend, None)
    state = optimizer.init(params)
    expected = [np.asarray(leaf) for leaf in tree.leaves(PARAMS)]
    kept: list[Any] = [{} for _ in expected]
    for t, gradients in enumerate(GRADIENTS, start=1):
        params, state = optimizer.update(placed(gradients, backend, None), state, params)
        rows = zip(expected, tree.leaves(gradients), kept, strict=True)
        expected = [by_hand(optimizer, p, g, s, t) for p, g, s in rows]
        for leaf, want in zip(tree.leaves(params), expected, strict=True):
            np.testing.assert_allclose(leaf, want, rtol=1e-10)


@pytest.mark.parametrize("optimizer", [SCHEDULED[2], SCHEDULED[-1]], ids=str)
def test_recorded_steps_follow_the_schedule(
    optimizer: Optimizer, backend: backends.Backend, float64: Any
) -> None:
    params = eager = placed(PARAMS, backend, float64)
    state = kept = optimizer.init(params)
    step = tinynn.compile(optimizer.update)
    for gradients in GRADIENTS[:3]:
        gradients = placed(gradients, backend, float64)
        params, state = step(gradients, state, params)
        eager, kept = optimizer.update(gradients, kept, eager)
    assert_trees_close(params, tree.map(backend.to_host, eager), backend, rtol=1e-12)


def test_a_function_of_the_step(backend: backends.Backend) -> None:
    def halved(step: Any) -> Any:
        return 1.0 / (1.0 + step)

    params = [backend.asarray([0.0], dtype="float32")]
    optimizer = SGD(halved)
    state = optimizer.init(params)
    for _ in range(3):
        params, state = optimizer.update([namespace(params[0]).ones_like(params[0])], state, params)
    assert_close(params[0], [-(1 + 1 / 2 + 1 / 3)], backend, dtype="float32")


# ReduceOnPlateau.

LOSSES = [
    5.0,
    4.0,
    4.1,
    4.2,
    3.9999,
    4.5,
    4.5,
    4.4,
    4.3,
    2.0,
    2.0,
    2.0,
    2.0,
    2.0,
    2.0,
    1.0,
    *[1.0] * 9,
]
PLATEAUS = [
    {"factor": 0.5, "patience": 1},
    {"factor": 0.1, "patience": 2, "cooldown": 2, "threshold": 0.3},
    {"factor": 0.3, "patience": 0, "minimum": 0.02},
]


def rates(schedule: ReduceOnPlateau, losses: list[float], backend: backends.Backend) -> list[float]:
    """What an SGD's rates were after each loss."""
    params, optimizer = [backend.asarray([0.0], dtype="float32")], SGD(schedule)
    state, gone = optimizer.init(params), []
    for loss in losses:
        value = backend.asarray(loss, dtype="float32")
        new, state = optimizer.update(
            [namespace(params[0]).ones_like(params[0])], state, params, value=value
        )
        gone.append(-backend.to_host(new[0])[0])
    return gone


@pytest.mark.only("torch")
@pytest.mark.parametrize("settings", PLATEAUS, ids=str)
def test_plateaus_are_pytorchs(settings: dict[str, Any], backend: backends.Backend) -> None:
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    names = {"minimum": "min_lr"}
    optimizer = torch_sgd(0.1)
    given = {names.get(name, name): value for name, value in settings.items()}
    theirs = ReduceLROnPlateau(optimizer, eps=0.0, **given)
    expected = []
    for loss in LOSSES:
        theirs.step(loss)
        expected.append(theirs.get_last_lr()[0])
    ours = rates(ReduceOnPlateau(0.1, **settings), LOSSES, backend)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_plateaus_of_means(backend: backends.Backend) -> None:
    """Every second loss has a look, at the mean of two; and the rate is a schedule's as well."""
    twice = [value + shift for value in LOSSES for shift in (0.5, -0.5)]
    single = rates(ReduceOnPlateau(0.1, factor=0.5, patience=1), LOSSES, backend)
    double = rates(ReduceOnPlateau(0.1, factor=0.5, patience=1, every=2), twice, backend)
    np.testing.assert_allclose(double[1::2], single, rtol=1e-5)
    falling = PolynomialDecay(0.1, steps=50)
    both = rates(ReduceOnPlateau(falling, factor=0.5, patience=1), LOSSES, backend)
    expected = [rate / 0.1 * falling(step) for step, rate in enumerate(single)]
    np.testing.assert_allclose(both, expected, rtol=1e-5)


def test_recorded_plateaus_are_the_eager_ones(backend: backends.Backend, float64: Any) -> None:
    optimizer = SGD(ReduceOnPlateau(0.1, factor=0.5, patience=1, every=2))
    params = eager = placed(PARAMS, backend, float64)
    state = kept = optimizer.init(params)
    step = tinynn.compile(lambda g, s, p, loss: optimizer.update(g, s, p, value=loss))
    for loss in LOSSES[:12]:
        value = backend.asarray(loss, dtype=float64)
        params, state = step(params, state, params, value)
        eager, kept = optimizer.update(eager, kept, eager, value=value)
    assert float(backend.to_host(state["schedules"]["learning_rate"]["scale"])) < 1.0
    assert_trees_close((params, state), tree.map(backend.to_host, (eager, kept)), backend)


def test_plateaus_need_the_loss(backend: backends.Backend) -> None:
    params, optimizer = [backend.asarray([0.0])], Adam(ReduceOnPlateau(0.1))
    assert optimizer.needs == {"value"}
    assert Adam(RATE).needs == frozenset()
    assert Chain(ClipByGlobalNorm(1.0), optimizer).needs == {"value"}
    with pytest.raises(TypeError, match="expected update to be given value, got nothing beside"):
        optimizer.update(params, optimizer.init(params), params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineDecay(float("nan"), steps=3), "initial"),
        (
            lambda: CosineDecay(0.1, steps=0),
            "CosineDecay: expected steps to be a whole number",
        ),
        (lambda: CosineDecay(0.1, steps=3, restarts=-1), "restarts"),
        (lambda: CosineDecay(0.1, steps=3, growth=0.5), "growth"),
        (lambda: PiecewiseConstant((0.1, 0.2), boundaries=(5, 3)), "values to be 3 numbers"),
        (lambda: PiecewiseConstant((0.1, 0.2, 0.3), boundaries=(5, 3)), "boundaries to be rising"),
        (lambda: ExponentialDecay(0.1, rate=0.0), "rate to be a number above 0"),
        (lambda: PolynomialDecay(0.1, steps=3, power=0.0), "power"),
        (lambda: OneCycle(0.1, steps=3, rising=1.5), "rising"),
        (lambda: InverseScaling(0.1, power=-1.0), "power"),
        (lambda: Warmup("fast", steps=3), "after"),
        (lambda: Warmup(ReduceOnPlateau(0.1), steps=3), "a schedule without a state"),
        (lambda: ReduceOnPlateau(0.1, factor=1.0), "factor"),
        (lambda: ReduceOnPlateau(0.1, patience=-1), "patience"),
        (lambda: Adam(beta1=ReduceOnPlateau(0.1)), "Adam: expected beta1 to be a number or a sch"),
    ],
)
def test_schedules_out_of_range(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
