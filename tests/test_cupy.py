"""CuPy's own traps: reading from the device unasked, the current device, dtypes, memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends import Backend, random
from tests.checks import assert_array, assert_close, assert_equal
from tests.cudacpu import counters
from tests.rule_cases import CASES
from tests.rule_rows import Case
from tests.transfers import Transfers, as_product
from tinynn import functional as F
from tinynn import tree
from tinynn.functional import conv, relu
from tinynn.layers import Layer, Linear, Sequential
from tinynn.losses import SoftmaxCrossEntropy
from tinynn.optim import Adam
from tinynn.trace import Namespace, constant, namespace, plain
from tinynn.training import fit

pytestmark = pytest.mark.only("cupy")
reads_scalars = pytest.mark.reads_scalars  # the loss looks at the range of the labels

# Their results have shapes that depend on the values.
READ = {"nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values", "repeat"}
NAMES = sorted(name for name in CASES if isinstance(name, str))
emulated = pytest.mark.skipif(
    not counters.emulated(), reason="only the emulated device tells of every copy"
)


def arguments(case: Case, backend: Backend) -> list[Any]:
    rng = np.random.default_rng(0)
    kind = "complex128" if case.numbers == "complex" else "float64"
    pairs = zip(case.shapes, case.domains, strict=True)
    hosts = [rng.uniform(low, high, shape) for shape, (low, high) in pairs]
    # The case's own operators, too, are the namespace's.
    return [constant(backend.asarray(x, dtype=kind), Namespace(backend.xp)) for x in hosts]


@emulated
@pytest.mark.parametrize("name", NAMES)
def test_functions_of_the_standard_read_nothing(backend: Backend, name: str) -> None:
    for case in CASES[name]:
        args = arguments(case, backend)
        with counters.counting() as seen:
            case.f(Namespace(backend.xp), *args)
        assert name in READ or seen.copies_to_host == 0


@emulated
def test_what_the_standard_lacks_reads_nothing(backend: Backend) -> None:
    x = backend.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    places = backend.asarray(np.asarray([3, -1, 3]))
    with counters.counting() as seen:
        backend.erf(x), backend.sigmoid(x), backend.logsumexp(x, axis=1)
        backend.scatter_add(x, places, x[:3, :])
        backend.xp.clip(x, -1.0, x), backend.xp.sign(x), backend.xp.linalg.pinv(x)
        random.uniform(random.key(0, backend), (5,), "float64")
    assert seen.copies_to_host == 0


@emulated
def test_a_step_of_training_reads_nothing(backend: Backend) -> None:
    x = backend.asarray(np.random.default_rng(0).normal(size=(8, 3)))
    net = Sequential(Linear(5), relu, Linear(3))
    (params, _), optimizer = net.init(0, x), Adam()
    state = optimizer.init(params)
    labels = backend.asarray(np.arange(8) % 3)
    loss = SoftmaxCrossEntropy()
    with counters.counting() as seen:
        gradient = tinynn.grad(lambda params: loss(net(params, x), labels))(params)
        optimizer.update(gradient, state, params)
    assert seen.copies_to_host == 0


# The guard of tests/transfers.py sees what is planted.


def product(source: str) -> Any:
    """A function whose lines count as tinynn's own."""
    code = compile(source, as_product.__code__.co_filename.replace("tests", "tinynn"), "eval")
    return eval(code, {"__name__": "tinynn.made_up", "namespace": namespace, "np": np})


READINGS = {
    "float": product("lambda x: x * float(namespace(x).max(x))"),
    "get": product("lambda x: x * float(x.get().max())"),
    "numpy": product("lambda x: x * np.asarray(x).max()"),
    "bool": product("lambda x: x * (1 if (x > 0).all() else 2)"),
    "mask": product("lambda x: x * namespace(x).sum(x[x > 0])"),
}
ON_DEVICE_ALONE = {"mask"}  # without a frame or a method


@dataclass(frozen=True)
class Reading(Layer):
    """A layer that looks at a value, as none may."""

    how: str

    def __call__(self, params: Any, x: Any) -> Any:
        return READINGS[self.how](x)


@pytest.mark.parametrize("how", READINGS)
def test_a_layer_that_reads_is_caught(backend: Backend, transfers: Transfers, how: str) -> None:
    if how in ON_DEVICE_ALONE and not counters.emulated():
        pytest.skip("only the emulated device tells of every copy")
    x = backend.asarray(np.ones((4, 3)))
    with transfers.caught() as found:
        try:
            Reading(how)({}, x)
        except (AssertionError, TypeError):  # HostRead, or CuPy's refusal
            refused = True
        else:
            refused = False
    assert refused or found
    assert refused == (how not in ON_DEVICE_ALONE)


@emulated
def test_a_test_may_take_a_mask_as_an_index(backend: Backend) -> None:
    x = backend.asarray(np.ones((4, 3)))
    with backend.scope():
        assert_equal(x[x > 0], np.ones(12), backend)


@emulated
def test_what_cupy_reads_inside_is_caught(backend: Backend, transfers: Transfers) -> None:
    from cupyx.scipy.special import logsumexp

    with transfers.caught() as found:
        as_product(logsumexp, backend.asarray([[1.0, 2.0]]), 1)
    assert found


def test_a_layer_of_another_dtype_is_caught(backend: Backend) -> None:
    x = backend.asarray(np.ones((4, 3), "float32"))
    wide = tinynn.grad(lambda x: namespace(x).sum(x * x))(x)
    assert_array(wide, backend, dtype="float32")
    with pytest.raises(AssertionError):
        assert_array(x * backend.asarray(np.ones(3)), backend, dtype="float32")


# Every function is where its arrays are, whatever device is current.


@pytest.fixture
def second(backend: Backend) -> Iterator[Backend]:
    """The device that is not current."""
    if len(backend.devices()) < 2:
        pytest.skip("one CUDA device; CUDACPU_DEVICES=2 emulates two")
    import cupy

    with cupy.cuda.Device(0):
        yield backends.get("cupy:1")


@pytest.mark.parametrize("name", NAMES)
def test_functions_work_where_their_arrays_are(second: Backend, name: str) -> None:
    for case in CASES[name]:
        space = Namespace(second.xp)
        for leaf in tree.leaves(case.f(space, *arguments(case, second))):
            assert_array(plain(leaf), second)


@reads_scalars  # check_finite does
def test_derivatives_work_where_their_arrays_are(second: Backend) -> None:
    x = second.asarray(np.random.default_rng(0).normal(size=(4, 3)))

    def f(x: Any) -> Any:
        xp = namespace(x)
        return xp.sum(xp.exp(-x * x)[:2, ...] + xp.logaddexp(x, x.T.T)[x.shape[0] - 2 :, ...])

    found = [
        tinynn.grad(f)(x),
        tinynn.vjp(f, x)[1](second.asarray(1.0))[0],
        tinynn.jvp(f, (x,), (x,))[1],
        tinynn.vmap(lambda x: x * x)(x),
        tinynn.hessian(f)(x),
        tinynn.compile(tinynn.grad(f))(x),
        tinynn.compile(f, check_finite=True)(x),
    ]
    for leaf in found:
        assert_array(leaf, second)


def test_a_step_of_training_works_where_its_arrays_are(second: Backend) -> None:
    x = second.asarray(np.random.default_rng(0).normal(size=(8, 3)))
    net, optimizer, loss = Sequential(Linear(5), relu, Linear(3)), Adam(), SoftmaxCrossEntropy()
    params, labels = net.init(0, x)[0], second.asarray(np.arange(8) % 3)
    gradient = tinynn.grad(lambda params: loss(net(params, x), labels))(params)
    for leaf in tree.leaves(optimizer.update(gradient, optimizer.init(params), params)):
        assert_array(leaf, second)


def test_what_makes_arrays_minds_the_device(second: Backend) -> None:
    xp, there = second.xp, second.device
    x = second.asarray([1.0, 2.0])
    first = backends.get("cupy:0").asarray([1.0, 2.0])
    for made in (
        xp.zeros(2, device=there),
        xp.arange(3, device=there),
        xp.full((2,), 3.0, device=there),
        xp.linspace(0.0, 1.0, 3, device=there),
        xp.eye(2, device=there),
        xp.fft.fftfreq(4, device=there),
        xp.asarray([1.0], device=there),
        xp.asarray(first, device=there),
        xp.from_dlpack(first, device=there),
        xp.astype(first, xp.float32, device=there),
        xp.zeros_like(first, device=there),
        xp.ones_like(x),
        xp.asarray(x, dtype=xp.float32),
        xp.from_dlpack(x),
    ):
        assert_array(made, second)
    assert backends.of(xp.zeros(2)) == backends.get("cupy:0")


# Functions of our own, against NumPy's.


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "float32", "float64", "complex64"])
def test_sign(backend: Backend, dtype: str) -> None:
    whole = np.dtype(dtype).kind in "iu"
    x = np.asarray([0, 1, 2] if whole else [0.0, -0.0, 3.0, -3.0, np.nan, np.inf, -np.inf], dtype)
    if dtype == "complex64":
        x = np.asarray([0j, 3 + 4j, -2j, complex(np.nan, 1)], dtype)
    assert_close(backend.xp.sign(backend.asarray(x)), np.sign(x), backend, dtype=dtype)


def test_clip(backend: Backend) -> None:
    x = np.asarray([[-3.0, 0.0, np.nan], [np.inf, 2.0, -np.inf]])
    low, nan = np.asarray([-1.0, 1.0, 0.0]), np.asarray([np.nan, 1.0, 0.0])
    put, xp = backend.asarray, backend.xp
    assert_equal(xp.clip(put(x), -1.0, 1), np.clip(x, -1, 1), backend, dtype="float64")
    assert_equal(xp.clip(put(x), put(low), put(low + 1)), np.clip(x, low, low + 1), backend)
    assert_equal(xp.clip(put(x), max=put(nan)), np.minimum(x, nan), backend)
    assert_equal(xp.clip(put(x[0]), put(x), None), np.maximum(x[0], x), backend)
    copy = xp.clip(y := put(x))
    copy[...] = 0.0
    assert_equal(y, x, backend)
    whole = np.asarray([-128, 3, 127], "int8")
    assert_equal(xp.clip(put(whole), -1000, 100), np.clip(whole, -128, 100), backend, dtype="int8")


@pytest.mark.parametrize(
    "dtype",
    """bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64 complex64
    complex128""".split(),
)
def test_scatter_add_of_every_dtype(backend: Backend, dtype: str) -> None:
    x, new = np.asarray([[0, 1], [100, 0], [3, 4]]), np.asarray([[1, 0], [100, 1], [5, 0]])
    x, new = (x.astype(dtype), new.astype(dtype))
    if "complex" in dtype:
        x, new = x * 1j, new + 2j * new
    expected = x.copy()
    np.add.at(expected, [0, -2, 0], new)
    y = backend.scatter_add(
        backend.asarray(x), backend.asarray(np.asarray([0, -2, 0])), backend.asarray(new)
    )
    assert_equal(y, expected, backend, dtype=dtype)


def test_solve_and_pinv_of_batches(backend: Backend) -> None:
    rng, xp = np.random.default_rng(0), backend.xp
    a, b = rng.normal(size=(2, 1, 3, 3)) + 4 * np.eye(3), rng.normal(size=(5, 3, 2))
    put = backend.asarray
    assert_close(xp.linalg.solve(put(a), put(b)), np.linalg.solve(a, b), backend, rtol=1e-12)
    flat = np.linalg.solve(a, np.broadcast_to(b[0, :, :1], (2, 1, 3, 1)))[..., 0]
    assert_close(xp.linalg.solve(put(a), put(b[0, :, 0].copy())), flat, backend, rtol=1e-12)
    low = rng.normal(size=(4, 5, 2)) @ rng.normal(size=(2, 3))
    for x in (low, low + 1j * low, low[0]):
        assert_close(
            xp.linalg.pinv(put(x)), np.linalg.pinv(x, rtol=1e-14), backend, rtol=1e-9, atol=1e-12
        )


# Memory.


@emulated
@reads_scalars
def test_too_large_a_batch_is_named(backend: Backend) -> None:
    x, y = backend.asarray(np.ones((4096, 64), "float32")), backend.asarray(np.arange(4096) % 3)
    params, _ = (net := Sequential(Linear(512), relu, Linear(3))).init(0, x)
    before = backend.to_host(params["0"]["weight"])
    with (
        counters.memory_limit(4 << 20),
        pytest.raises(MemoryError, match=r"batch_size=4096.*To fix"),
    ):
        fit(net, x, y, params=params, epochs=2, batch_size=4096)
    assert_equal(params["0"]["weight"], before, backend)
    assert len(fit(net, x, y, params=params, epochs=1, batch_size=64).history["loss"]) == 1


@dataclass(frozen=True)
class Hungry(Layer):
    """Needs more memory than there is, from a given call on."""

    calls: list[None]

    def forward(self, scope: Any, x: Any) -> Any:
        if scope.training:
            self.calls.append(None)
            if len(self.calls) > 3:
                namespace(x).zeros((1 << 44,))
        return x


@reads_scalars
def test_what_was_learned_before_memory_ran_out_is_kept(backend: Backend) -> None:
    x, y = backend.asarray(np.ones((6, 2))), backend.asarray(2 * np.ones(6))
    net = Sequential(Hungry([]), Linear(1))
    with pytest.warns(
        RuntimeWarning, match=r"epoch \d: fit: batch_size=6: .*To fix it.*after this"
    ):
        model = fit(net, x, y, epochs=9, engine="eager", progress=False)
    assert 0 < len(model.history["loss"]) < 9


@emulated
def test_a_pool_is_one_launch_and_a_convolution_a_copy_and_a_product(backend: Backend) -> None:
    draw = np.random.default_rng(0)
    x, w = [backend.asarray(draw.normal(size=n)) for n in ((2, 5, 4, 3), (3, 3, 3, 4))]
    calls = {"convolution": (lambda: conv(x, w, padding="same"), 1, 1)}
    for name, pool in {
        "max": lambda x: F.max_pool(x, 3, stride=2, padding="same"),
        "avg": lambda x: F.avg_pool(x, (3, 1), stride=2, padding="same"),
        "adaptive max": lambda x: F.adaptive_max_pool(x, (2, 3)),
        "adaptive avg": lambda x: F.adaptive_avg_pool(x, (2, 3)),
        "nearest": F.upsample,
        "linear": lambda x: F.upsample(x, (2, 3), method="linear"),
    }.items():
        y, pull = tinynn.vjp(pool, x)
        calls[name] = partial(pool, x), 1, 0
        calls[f"pullback of {name}"] = partial(pull, y), 1, 0
    for name, (call, launches, products) in calls.items():
        call()
        with counters.counting() as seen:
            call()
        assert (seen.launches, seen.library_calls) == (launches, products), name
