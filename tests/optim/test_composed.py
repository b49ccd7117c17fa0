"""Groups, masks, accumulation and averages; names and settings of optimizers."""

import copy
import json
import pickle
import warnings
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from inspect import Parameter, signature
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_close, assert_equal
from tests.optim.trees import GRADIENTS, PARAMS, assert_trees_close, placed
from tinynn import optim, tree
from tinynn.layers import Layer, Linear
from tinynn.losses import Loss, SquaredError
from tinynn.optim import (
    L2,
    LBFGS,
    SGD,
    Accumulate,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    Averaged,
    Chain,
    ClipByValue,
    CosineDecay,
    ExponentialDecay,
    GradientTransformation,
    Groups,
    InverseScaling,
    Lion,
    Masked,
    NAdam,
    OneCycle,
    Optimizer,
    PiecewiseConstant,
    PolynomialDecay,
    ReduceOnPlateau,
    RMSprop,
    Schedule,
    Warmup,
    averaged_params,
    freeze,
)

WHOLE = [
    freeze(AdamW(0.1, weight_decay=0.5), "*.bias"),
    Groups({"*.bias": SGD(0.1, momentum=0.9), "2*": None, "*": Adam(0.1)}),
    AdamW(0.1, weight_decay=0.5, mask=("*.weight", "2.*")),
    Accumulate(Adam(0.1), steps=2),
    Averaged(Chain(ClipByValue(0.5), SGD(0.1)), decay=PolynomialDecay(0.9, steps=9, end=0.5)),
    Chain(Masked(L2(0.5), "*.weight"), Accumulate(Averaged(SGD(0.1)), steps=3)),
]


def trained(
    optimizer: Optimizer, backend: backends.Backend, dtype: Any = None, update: Any = None
) -> tuple[Any, Any]:
    params = placed(PARAMS, backend, dtype)
    state, update = optimizer.init(params), update or optimizer.update
    for gradients in GRADIENTS:
        params, state = update(placed(gradients, backend, dtype), state, params)
    return params, state


@pytest.mark.parametrize("optimizer", WHOLE, ids=str)
def test_recorded_steps_are_the_eager_ones(
    optimizer: Optimizer, backend: backends.Backend, float64: Any
) -> None:
    eager = trained(optimizer, backend, float64)
    recorded = trained(optimizer, backend, float64, tinynn.compile(optimizer.update))
    assert_trees_close(recorded, tree.map(backend.to_host, eager), backend, rtol=1e-12)


IN_ENGINES = [
    *WHOLE[:5],
    Adam(Warmup(CosineDecay(0.1, steps=9, restarts=1), steps=3), beta1=PiecewiseConstant(
        (0.9, 0.5), boundaries=(5,))),
    SGD(OneCycle(0.1, steps=15), momentum=ExponentialDecay(0.9, rate=0.9, staircase=True)),
    NAdam(InverseScaling(0.1)),
    Adagrad(0.1),
    Adadelta(decay=PolynomialDecay(0.9, steps=9, power=2.0)),
    RMSprop(0.1, momentum=0.5, centered=True),
    Lion(0.01, weight_decay=0.1),
    Adam(0.1, amsgrad=True),
]  # fmt: skip


@pytest.mark.parametrize("optimizer", IN_ENGINES, ids=str)
@pytest.mark.only("numpy", "cupy")
@pytest.mark.reads_scalars
def test_engines_agree(optimizer: Optimizer, backend: backends.Backend) -> None:
    """The step of a network, recorded with its loop, does as NumPy's eager one."""
    data = [np.random.RandomState(seed).randn(40, count) for seed, count in ((0, 4), (1, 3))]
    here = list(map(backend.asarray, data))
    net = tinynn.layers.Sequential(Linear(5), tinynn.functional.tanh, Linear(3))
    settings = {"optimizer": optimizer, "loss": SquaredError(), "epochs": 3, "batch_size": 8}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a step that an engine does not take would say so
        eager = tinynn.fit(net, *data, engine="eager", **settings)
        # On CuPy a kernel is compiled for each chain of calls: tests/test_engines.py has them.
        engines = ("calls", "loops") if backend.name == "numpy" else ("loops",)
        compiled = [tinynn.fit(net, *here, engine=engine, **settings) for engine in engines]
    for model in compiled:
        for (_, a), (_, b) in zip(tree.paths(eager.params), tree.paths(model.params), strict=True):
            np.testing.assert_allclose(backend.to_host(b), a, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("optimizer", IN_ENGINES, ids=str)
@pytest.mark.only("numpy")
def test_states_keep_their_structure(optimizer: Optimizer, backend: backends.Backend) -> None:
    """The order of their keys as well: a loop takes the new values in the place of the old."""
    params = placed(PARAMS, backend, None)
    state = optimizer.init(params)
    after = optimizer.update(params, state, params)
    assert tree.flatten(after)[1] == tree.flatten((params, state))[1]


def test_frozen_parameters_do_not_move_by_a_bit(backend: backends.Backend) -> None:
    start = placed(PARAMS, backend, None)
    params, state = trained(WHOLE[0], backend)
    assert_equal(params["0"]["bias"], backend.to_host(start["0"]["bias"]), backend)
    assert list(state) == ["*"]
    alone, _ = trained(AdamW(0.1, weight_decay=0.5), backend)
    assert_equal(params["0"]["weight"], backend.to_host(alone["0"]["weight"]), backend)


def test_groups_are_their_optimizers_apart(backend: backends.Backend) -> None:
    params, _ = trained(WHOLE[1], backend)
    by_sgd, _ = trained(SGD(0.1, momentum=0.9), backend)
    by_adam, _ = trained(Adam(0.1), backend)
    assert_equal(params["0"]["bias"], backend.to_host(by_sgd["0"]["bias"]), backend)
    assert_equal(params["0"]["weight"], backend.to_host(by_adam["0"]["weight"]), backend)
    assert_equal(params["2"][0], 1.5, backend)


@pytest.mark.parametrize("kind", [AdamW, Lion])
def test_decay_leaves_out_what_the_mask_does(kind: Any, backend: backends.Backend) -> None:
    masked, _ = trained(kind(0.1, weight_decay=0.5, mask="*.weight"), backend)
    decayed, _ = trained(kind(0.1, weight_decay=0.5), backend)
    plain, _ = trained(kind(0.1, weight_decay=0.0), backend)
    assert_close(masked["0"]["weight"], backend.to_host(decayed["0"]["weight"]), backend)
    assert_close(masked["0"]["bias"], backend.to_host(plain["0"]["bias"]), backend)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (freeze(Adam(), "1.*"), r"expected pattern '1\.\*' to match a parameter, got no match"),
        (freeze(Adam(), "*"), "expected pattern '\\*' to match a parameter that no pattern before"),
        (Groups({"*.bias": SGD()}), "expected every parameter to match a pattern, got no match "
                                    r"for '0.weight', '2.0'"),
        (AdamW(mask="*.kernel"), r"the parameters are '0.weight', '0.bias', '2.0'"),
        (Chain(Masked(L2(0.1), "kernel"), SGD()), "expected pattern 'kernel'"),
    ],
    ids=str,
)  # fmt: skip
def test_patterns_without_parameters(
    optimizer: Optimizer, message: str, backend: backends.Backend
) -> None:
    with pytest.raises(ValueError, match=message):
        optimizer.init(placed(PARAMS, backend, None))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Masked(Adam(), "*"), "for an optimizer use Groups"),
        (lambda: Masked(L2(0.1), 3), "Masked: expected mask to be a pattern"),
        (lambda: AdamW(mask=()), "AdamW: expected mask to be a pattern"),
        (lambda: Groups({"*": L2(0.1)}), "Groups: expected a dict of patterns and optimizers"),
        (lambda: Groups({}), "Groups: expected a dict"),
        (lambda: Groups("*"), "Groups: expected a dict"),
        (lambda: Accumulate(L2(0.1), steps=2), "Accumulate: expected an optimizer"),
        (lambda: Averaged(Adam), "Averaged: expected an optimizer"),
        (lambda: Chain(ClipByValue(1.0), LBFGS()), "which evaluates the loss itself"),
        (lambda: Groups({"*": LBFGS()}), "which evaluates the loss itself"),
        (lambda: Accumulate(LBFGS(), steps=2), "which evaluates the loss itself"),
    ],
)
def test_what_does_not_go_together(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_accumulated_steps_are_steps_on_means(backend: backends.Backend) -> None:
    halves = GRADIENTS[:4]
    params = start = placed(PARAMS, backend, None)
    optimizer = Accumulate(Adam(0.1), steps=2)
    state = optimizer.init(params)
    for place, gradients in enumerate(halves):
        before = params
        params, state = optimizer.update(placed(gradients, backend, None), state, params)
        if place % 2 == 0:
            assert_trees_close(params, tree.map(backend.to_host, before), backend, rtol=0, atol=0)
    expected, kept = start, Adam(0.1).init(start)
    for pair in (halves[:2], halves[2:]):
        mean = placed(tree.map(lambda a, b: (a + b) / 2, *pair), backend, None)
        expected, kept = Adam(0.1).update(mean, kept, expected)
    assert_trees_close(params, tree.map(backend.to_host, expected), backend, rtol=2e-5, atol=1e-6)


@pytest.mark.only("torch")
def test_averages_are_pytorchs(backend: backends.Backend) -> None:
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    module = torch.nn.Linear(3, 2, dtype=torch.float64)
    averaged = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    averaged.update_parameters(module)  # the first call copies
    params = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer, theirs = Averaged(SGD(0.1), decay=0.9), torch.optim.SGD(module.parameters(), lr=0.1)
    state = optimizer.init(params)
    for t in range(1, 6):
        gradients = {name: (p - 1.0) * t for name, p in params.items()}
        for name, p in module.named_parameters():
            p.grad = gradients[name].clone()
        theirs.step()
        averaged.update_parameters(module)
        params, state = optimizer.update(gradients, state, params)
    found = averaged_params(state)
    for name, p in averaged.module.named_parameters():
        assert_close(found[name], backend.to_host(p.detach()), backend, dtype="float64")


def test_averages_are_found_inside(backend: backends.Backend) -> None:
    _, state = trained(WHOLE[5], backend)
    assert tree.flatten(averaged_params(state))[1] == tree.flatten(PARAMS)[1]
    _, state = trained(SGD(), backend)
    with pytest.raises(ValueError, match="expected the state of an optimizer with Averaged in it"):
        averaged_params(state)


@pytest.mark.only("jax-x64")
def test_accumulating_is_optaxs(backend: backends.Backend) -> None:
    import jax
    import optax

    theirs = optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2, accumulator_dtype="float64")
    params = placed(PARAMS, backend, None)
    state, update = theirs.init(params), jax.jit(theirs.update)
    for gradients in GRADIENTS:
        updates, state = update(placed(gradients, backend, None), state, params)
        params = optax.apply_updates(params, updates)
    expected = dict(tree.paths(tree.map(backend.to_host, params)))
    numpy = backends.get("numpy")  # JAX compiles each shape of each call of ours
    for path, leaf in tree.paths(trained(Accumulate(SGD(0.1, momentum=0.9), steps=2), numpy)[0]):
        np.testing.assert_allclose(leaf, expected[path], rtol=1e-12, err_msg=path)


# Names and settings.


@pytest.mark.parametrize("name", optim._NAMES)
def test_optimizers_by_name(name: str) -> None:
    assert isinstance(optim.get(name), Optimizer)


def test_names_that_are_unknown() -> None:
    with pytest.raises(ValueError, match=r"adagrad.*sgd\), got 'Adm'. To fix it: did you mean 'ad"):
        optim.get("Adm")
    with pytest.raises(ValueError, match="got 'quux'"):
        optim.get("quux")


MANY = [
    *WHOLE,
    Adam(CosineDecay(0.1, steps=9), beta1=Warmup(0.9, steps=3)),
    SGD(ReduceOnPlateau(0.1)),
    LBFGS(5),
]


@pytest.mark.parametrize("optimizer", MANY, ids=str)
def test_settings_as_json_and_back(optimizer: Optimizer) -> None:
    text = json.dumps(optim.to_config(optimizer))
    assert optim.from_config(json.loads(text)) == optimizer
    assert copy.deepcopy(optimizer) == optimizer
    assert pickle.loads(pickle.dumps(optimizer)) == optimizer


def test_settings_of_ones_own() -> None:
    written = optim.to_config(Chain(ClipByValue(1.0), Halving()))
    with pytest.raises(ValueError, match="no class is known as 'Halving'"):
        optim.from_config(written)
    assert optim.from_config(written, {"Halving": Halving}) == Chain(ClipByValue(1.0), Halving())


@dataclass(frozen=True)
class Halving(Optimizer):
    learning_rate: float = 0.5
    _: KW_ONLY
    other: int = 1


def test_shown_as_it_is_written() -> None:
    assert str(WHOLE[1]) == (
        "Groups({'*.bias': SGD(learning_rate=0.1, momentum=0.9), '2*': None, "
        "'*': Adam(learning_rate=0.1)})"
    )
    assert str(Chain(L2(0.1), WHOLE[0])).startswith("Chain(L2(0.1), Groups({'*.bias': None, '*': ")


@pytest.mark.parametrize("name", [n for n, kind in optim._KNOWN.items() if kind is not Chain])
def test_all_but_the_first_by_name(name: str) -> None:
    positional = [
        p.name
        for p in signature(optim._KNOWN[name]).parameters.values()
        if p.kind is Parameter.POSITIONAL_OR_KEYWORD
    ]
    assert len(positional) <= (2 if name == "Masked" else 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(0.1, 0.9), r"SGD: expected 1 argument by position .learning_rate., got 2"),
        (lambda: SGD(momentun=0.9), "SGD: .* got 'momentun'. To fix it: write momentum="),
        (lambda: SGD(quux=0.9), "SGD: expected arguments from learning_rate, momentum, nesterov"),
        (lambda: CosineDecay(0.1), "missing 1 required keyword-only argument: 'steps'"),
    ],
)
def test_settings_that_do_not_fit(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize("base", [Optimizer, GradientTransformation, Schedule, Layer, Loss])
def test_subclasses_that_are_no_dataclasses(base: Any) -> None:
    class Plain(base):
        pass

    class Forgotten(base):
        extra: float = 1.0

    assert repr(Plain()) == "Plain()"
    with pytest.raises(TypeError, match="Forgotten: expected a frozen dataclass, got a plain cla"):
        Forgotten()
