"""The emitter `loops` computes what the step, as it is written, computes."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends import Backend
from tinynn import fit, tree, while_loop
from tinynn.compiler import worth
from tinynn.compiler.codegen.operations import OPERATIONS
from tinynn.compiler.loops import Loops
from tinynn.compiler.worth import worth_compiling
from tinynn.functional import elu, gelu, leaky_relu, relu, sigmoid, silu, softplus, tanh
from tinynn.layers import BatchNorm, Dropout, Flatten, LayerNorm, Linear, Sequential
from tinynn.losses import AbsoluteError, BinaryCrossEntropy, Huber, SquaredError
from tinynn.optim import (
    L1,
    L2,
    SGD,
    Accumulate,
    AdamW,
    Chain,
    ClipByGlobalNorm,
    ClipByValue,
    RMSprop,
)
from tinynn.trace import namespace
from tinynn.transforms.record import record

pytestmark = [
    pytest.mark.only("numpy", "cupy"),
    pytest.mark.reads_scalars,
    pytest.mark.usefixtures("compiler_of_loops"),
]
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((50, 6)).astype("float32")
LABELS = RANDOM.integers(0, 3, 50)
NUMBERS = RANDOM.standard_normal((50, 2)).astype("float32")
WEIGHTS = RANDOM.random(50).astype("float32")
PLAIN = Sequential(Linear(5), relu, Linear(3))


@pytest.fixture(autouse=True)
def no_warnings() -> Any:
    """Falling back is announced by a warning, and must not happen here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def agree(backend: Backend, net: Any, y: Any = LABELS, x: Any = X, **settings: Any) -> None:
    x, y = backend.asarray(x), backend.asarray(y)
    if "sample_weight" in settings:
        settings["sample_weight"] = backend.asarray(settings["sample_weight"])
    settings = {"epochs": 3, "batch_size": 25, "seed": 3, "progress": False} | settings
    eager = fit(net, x, y, engine="eager", **settings)
    loops = fit(net, x, y, engine="loops", **settings)
    np.testing.assert_allclose(loops.history["loss"], eager.history["loss"], rtol=1e-4)
    for (path, a), (same, b) in zip(
        tree.paths(eager.params), tree.paths(loops.params), strict=True
    ):
        assert path == same
        assert a.dtype == b.dtype
        a, b = backend.to_host(a), backend.to_host(b)
        np.testing.assert_allclose(
            b, a, rtol=1e-3, atol=2e-4 * float(np.abs(a).max()), err_msg=path
        )


NETS = {
    "one layer": Linear(3),
    "batch norm": Sequential(Linear(5, bias=False), BatchNorm(), tanh, Linear(3)),
    "layer norm": Sequential(Linear(5), LayerNorm(), gelu, Linear(3)),
    "dropout": Sequential(Linear(5), silu, Dropout(0.3), Linear(3)),
    "deep": Sequential(Flatten(), Sequential(Linear(4), elu, Linear(3), leaky_relu), Linear(3)),
    "smooth": Sequential(Linear(5), softplus, Linear(1), sigmoid, Linear(3)),
}


@pytest.mark.parametrize("name", NETS)
def test_layers(backend: Backend, name: str) -> None:
    agree(backend, NETS[name], optimizer=SGD(0.1))


OPTIMIZERS = [
    SGD(0.05, momentum=0.9),
    SGD(0.05, momentum=0.9, nesterov=True),
    AdamW(0.01),
    RMSprop(0.01),
    Chain(ClipByGlobalNorm(0.5), L2(0.01), SGD(0.1)),
    Chain(ClipByValue(0.05), L1(0.01), SGD(0.1)),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_optimizers(backend: Backend, optimizer: Any) -> None:
    agree(backend, Linear(3), optimizer=optimizer)


def test_a_sum_that_is_read_after_parts_of_the_next_one_are_known(backend: Backend) -> None:
    """The sum's new value is one of parts, and moves the parameters in one piece before."""
    net = Sequential(Linear(3), tanh, Linear(3), tanh, Linear(3))
    agree(backend, net, optimizer=Accumulate(SGD(0.1), steps=3), batch_size=5)


LOSSES = [
    SquaredError(),
    SquaredError(reduction="sum"),
    SquaredError(reduction="half_sum"),
    AbsoluteError(),
    Huber(),
]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_losses(backend: Backend, loss: Any) -> None:
    agree(backend, Linear(2), NUMBERS, loss=loss, optimizer=SGD(0.001))


def test_binary_loss(backend: Backend) -> None:
    agree(backend, Linear(1), LABELS == 1, loss=BinaryCrossEntropy(), optimizer=SGD(0.1))


HOW = {
    "shuffled, with a rest": {"batch_size": 16},
    "in order, with a rest": {"batch_size": 16, "shuffle": False},
    "in order": {"shuffle": False},
    "all at once": {"batch_size": None, "epochs": 50},
    "one by one": {"batch_size": 1},
    "weights": {"sample_weight": WEIGHTS},
    "held out": {"validation": 0.2, "metrics": "accuracy"},
}


@pytest.mark.parametrize("how", HOW)
def test_ways_of_training(backend: Backend, how: str) -> None:
    agree(backend, PLAIN, **HOW[how])


def test_float64(backend: Backend) -> None:
    agree(backend, PLAIN, x=X.astype("float64"))


def test_dropout_with_a_rest(backend: Backend) -> None:
    agree(backend, Sequential(Dropout(0.3), Linear(3)), batch_size=16)


def test_goes_on_from_given_parameters(backend: Backend) -> None:
    start = PLAIN.init(7, backend.asarray(X))[0]
    before = [backend.to_host(leaf).copy() for leaf in tree.leaves(start)]
    agree(backend, PLAIN, params=start)
    for leaf, kept in zip(tree.leaves(start), before, strict=True):
        np.testing.assert_array_equal(backend.to_host(leaf), kept)


# What cannot be emitted, and what is kept.


def test_falling_back_is_announced(backend: Backend) -> None:
    def sorted_features(x: Any) -> Any:
        return namespace(x).sort(x, axis=1)

    net = Sequential(sorted_features, Linear(3))
    given = backend.asarray(X), backend.asarray(LABELS)
    settings: dict[str, Any] = {"epochs": 1, "progress": False}
    with pytest.warns(RuntimeWarning, match=r'engine="calls" instead: sort\(') as said:
        model = fit(net, *given, engine="loops", **settings)
    assert len(said) == 1
    again = fit(net, *given, engine="calls", **settings)
    np.testing.assert_allclose(model.history["loss"], again.history["loss"])


@pytest.mark.only("numpy")
def test_llvm_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from backends import numpy as here

    monkeypatch.setattr(here, "find_spec", lambda name: None)
    with pytest.raises(backends.BackendUnavailable, match=r"pip install tinynn-xp\[loops\]"):
        fit(PLAIN, X, LABELS, engine="loops", progress=False)


@pytest.mark.only("cupy")
def test_a_kernel_that_does_not_compile(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATIONS, "log", replace(OPERATIONS["log"], cuda="no_such({0})"))
    given = backend.asarray(X), backend.asarray(LABELS)
    said = 'engine="calls" instead: CUDA.s compiler refuses the kernel: .*no_such'
    with pytest.warns(RuntimeWarning, match=said):
        model = fit(PLAIN, *given, engine="loops", epochs=1, progress=False)
    again = fit(PLAIN, *given, engine="calls", epochs=1, progress=False)
    assert model.history == again.history


@pytest.mark.only("numpy")
def test_llvm_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is said what failed, and calls run instead: for one network, many, and one compiled."""
    llvm = pytest.importorskip("backends.llvm")

    def refuse(source: str) -> None:
        raise RuntimeError("LLVM IR parsing error\n<string>:3:1: error: no such thing")

    monkeypatch.setenv("TINYNN_CACHE", str(tmp_path))
    monkeypatch.setattr(llvm, "_compiled", refuse)
    monkeypatch.setattr(worth, "_COMPILING", 0.0)
    monkeypatch.setattr(worth, "_COMPILING_CALL", 1e-7)
    why = r"LLVM, by llvmlite [\d.]+, refuses the kernel: .*3:1: error: no such thing"
    settings: dict[str, Any] = {"epochs": 150, "progress": False}
    calls = fit(PLAIN, X, LABELS, engine="calls", **settings)
    for engine in ("loops", "auto"):
        with pytest.warns(RuntimeWarning, match=f'fit: .*engine="calls" instead: {why}'):
            assert fit(PLAIN, X, LABELS, engine=engine, **settings).history == calls.history
    with pytest.warns(RuntimeWarning, match=f'fit_many: .*engine="calls" instead: {why}'):
        tinynn.fit_many(PLAIN, X, LABELS, networks=2, engine="loops", **settings)
    with pytest.warns(RuntimeWarning, match=f"compile: .*library's calls instead: {why}"):
        compiled = calls.compile(X)
    np.testing.assert_array_equal(compiled(X), calls.predict(X))
    assert not list(tmp_path.iterdir())


@pytest.mark.only("numpy")
def test_a_network_too_large_for_a_kernel_runs_in_calls() -> None:
    net, wide = Sequential(Linear(600), tanh, Linear(2)), np.ones((4, 600))
    model = tinynn.Model(net, *net.init(0, wide))
    compiled = model.compile(wide)
    assert ".dot(" in compiled.source  # a kernel would be shown in loops
    np.testing.assert_allclose(compiled(wide), model.predict(wide))


@pytest.fixture
def loops_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for each run of loops."""
    turns: list[int] = []
    run = Loops.run

    def counted(self: Loops, batches: Any, times: int = 1) -> Any:
        turns.append(times)
        return run(self, batches, times)

    monkeypatch.setattr(Loops, "run", counted)
    return turns


@pytest.mark.only("numpy")
def test_auto_takes_loops_for_long_runs_alone(
    loops_run: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"epochs": 150, "progress": False}
    fit(PLAIN, X, LABELS, **settings)
    assert not loops_run  # compiling would take longer
    monkeypatch.setattr(worth, "_COMPILING", 0.0)
    monkeypatch.setattr(worth, "_COMPILING_CALL", 1e-7)
    fit(PLAIN, X, LABELS, callbacks=lambda run: None, **settings)
    assert not loops_run  # it might be ended at once
    model = fit(PLAIN, X, LABELS, **settings)
    assert loops_run
    again = fit(PLAIN, X, LABELS, engine="calls", **settings)
    np.testing.assert_allclose(model.history["loss"], again.history["loss"], rtol=1e-4)


@pytest.mark.only("numpy")
def test_auto_does_without_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    from backends import numpy as here

    monkeypatch.setattr(worth, "_COMPILING", 0.0)
    monkeypatch.setattr(worth, "_COMPILING_CALL", 1e-7)
    settings: dict[str, Any] = {"epochs": 150, "progress": False}
    calls = fit(PLAIN, X, LABELS, engine="calls", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(here, "find_spec", lambda name: None)  # without a word about LLVM
        assert fit(PLAIN, X, LABELS, **settings).history == calls.history
    cannot = Sequential(lambda x: x.__array_namespace__().sort(x, axis=1), Linear(3))
    calls = fit(cannot, X, LABELS, engine="calls", **settings)
    assert fit(cannot, X, LABELS, **settings).history == calls.history


@pytest.mark.only("numpy")
def test_what_is_worth_compiling() -> None:
    def graph(width: int) -> Any:
        x = np.zeros(width)
        return record(lambda x: x * 2 + 1, x)

    assert not worth_compiling(graph(4), 100_000)
    assert worth_compiling(graph(4), 100_000_000)
    assert not worth_compiling(graph(2**19), 100_000_000)  # there the work counts, not the calls

    def powers(n: int) -> Any:
        return record(lambda x: namespace(x).pow(x, x), np.zeros(n))

    assert worth_compiling(powers(4), 100_000_000)
    assert not worth_compiling(powers(2**12), 100_000_000)  # a library's are quicker

    def turns(bound: int, n: int = 4) -> Any:
        def halved(x: Any) -> Any:
            return while_loop(lambda x: namespace(x).max(x) > 1, lambda x: x / 2, x, bound=bound)

        return record(halved, np.zeros(n))

    assert not worth_compiling(turns(1), 200_000)
    assert worth_compiling(turns(100), 200_000)  # each of its turns makes the calls again
    assert not worth_compiling(turns(2**64), 2_000)  # such a bound is only a guard
    assert not worth_compiling(turns(100, 2**19), 200_000)
