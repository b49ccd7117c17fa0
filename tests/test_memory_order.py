"""Memory order: NumPy's convolutions with the batch innermost, and programs that keep to it."""

import random
from itertools import permutations
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends import convolution, numpy_convolution, numpy_functions
from backends.convolution import Settings
from backends.numpy_lowering import LOWERING
from tinynn import functional, layers
from tinynn.compiler.layouts import orders, reshaped
from tinynn.compiler.pipelines import applied, into_buffers
from tinynn.losses import SoftmaxCrossEntropy
from tinynn.optim import SGD
from tinynn.trace import namespace
from tinynn.transforms.record import record

SHAPES = ((4, 2, 2, 3), (2, 2, 2, 2, 3), (8, 2, 3), (16, 3), (4, 1, 4, 1, 3), (4, 4, 3, 1), (4, 12))


def drawn(draw: random.Random) -> tuple[Any, Any, Settings]:
    """A convolution of whatever settings."""
    axes = draw.choice((1, 2, 2, 3))

    def each(*choices: Any) -> Any:
        return tuple(draw.choice(choices) for _ in range(axes))

    ends = [(draw.randint(-2, 3), draw.randint(-2, 3)) for _ in range(axes)]
    groups = draw.choice((1, 1, 2, 3))
    settings = Settings(each(1, 1, 2, 3), tuple(ends), each(1, 1, 1, 2, 3), each(1, 1, 2), groups)
    inputs, outputs = draw.randint(1, 4), groups * draw.randint(1, 4)
    values = np.random.default_rng(draw.randint(0, 999))
    x = values.normal(size=(draw.randint(1, 9), *each(1, 2, 4, 5, 7), groups * inputs))
    return x, values.normal(size=(*each(1, 2, 3, 5), inputs, outputs)), settings


@pytest.mark.only("numpy")
def test_convolutions_are_those_of_the_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathered, spread and by a weight, whole and in parts, in either order of memory."""
    monkeypatch.setattr(numpy_convolution, "_COLUMNS", 1)
    draw, count = random.Random(0), 0
    while count < 400:
        x, weight, settings = drawn(draw)
        if not numpy_convolution.pays(x, weight, settings):
            continue
        monkeypatch.setattr(numpy_convolution, "_BLOCK", draw.choice((1 << 22, 5000, 1000)))
        monkeypatch.setattr(numpy_convolution, "_ADDED", draw.choice((-100, 8, 100)))
        expected = convolution.conv(np, x, weight, settings)
        y = numpy_convolution.conv(x, weight, settings)
        np.testing.assert_allclose(y, expected, atol=1e-12)
        order = numpy_convolution.order_of(x, weight, settings)
        assert y.transpose(order).flags.c_contiguous
        for room in (np.empty(y.shape), numpy_convolution.empty(y.shape, y.dtype)):
            assert numpy_convolution.conv(x, weight, settings, out=room) is room
            np.testing.assert_array_equal(room, y)
        count += 1


@pytest.mark.only("numpy")
@pytest.mark.parametrize(("dtype", "count"), [("float32", 1), ("float32", 3), ("float64", 1)])
def test_machine_code_convolves_as_the_standard_does(
    dtype: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors whole and cut, groups, gaps and strides; gradients by a weight among them."""
    pytest.importorskip("llvmlite", reason="LLVM compiles the loops")
    from backends import direct_convolution, threads

    monkeypatch.setattr(threads, "available", lambda: count)
    monkeypatch.setattr(direct_convolution, "_SHARED", 1)
    draw, seen = np.random.default_rng(0), set()
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-12}
    for _ in range(150):
        x, weight, settings = _drawn(draw, dtype)
        if not numpy_convolution.runs_pay(x, weight, settings):
            continue
        expected = convolution.conv(np, x, weight, settings)
        shape = (expected.shape[0] + 1, *expected.shape[1:])
        room = numpy_convolution.empty(shape, np.dtype(dtype))
        room[...] = 7.0  # past the batch nothing is written
        direct_convolution.conv(x, weight, settings, room[:-1])
        np.testing.assert_allclose(room[:-1], expected, **close)
        assert (room[-1] == 7.0).all()
        small = np.prod(expected.shape[1:-1]) < np.prod(weight.shape[:-2])
        seen.add((weight.ndim, settings.groups > 1, bool(small)))
    assert len(seen) == 12  # axes, groups or not, a result larger or smaller than the kernel


def _drawn(draw: np.random.Generator, dtype: str) -> tuple[Any, Any, Settings]:
    """A convolution, or the one that is the gradient of one by its weight."""

    def numbers(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(n) for n in draw.integers(low, high, axes))

    axes, groups, channels = int(draw.integers(1, 4)), int(draw.choice([1, 3])), draw.integers(1, 4)
    batch, inputs, outputs = int(draw.choice([16, 21])), int(channels), int(draw.integers(1, 15))
    places, kernel = numbers(2, 7), numbers(1, 4)
    if draw.random() < 0.4:  # the channels are the batch, and the cotangent is the kernel
        places, kernel = numbers(5, 7), numbers(3, 5)
        batch, inputs = inputs, batch
    pairs = tuple(zip(numbers(-1, 3), numbers(0, 3), strict=True))
    settings = Settings(numbers(1, 3), pairs, numbers(1, 3), numbers(1, 3), groups)
    x = draw.normal(size=(batch, *places, inputs * groups)).astype(dtype)
    return x, draw.normal(size=(*kernel, inputs, outputs * groups)).astype(dtype), settings


@pytest.mark.only("numpy")
@pytest.mark.parametrize("kinds", [(">f4", ">f4"), (">f8", "f8"), ("f4", "f8"), ("f8", "f4")])
def test_machine_code_takes_no_arrays_of_another_kind(kinds: tuple[str, str]) -> None:
    """A dtype of the other byte order has the same name."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(64, 5, 2)).astype(kinds[0])
    weight = draw.normal(size=(3, 2, 3)).astype(kinds[1])
    settings = Settings((1,), ((1, 1),), (1,), (1,), 1)
    assert numpy_functions.knows(x, weight, settings)
    expected = convolution.conv(np, x.astype("f8"), weight.astype("f8"), settings)
    room = np.empty(expected.shape)
    numpy_functions.conv(x, weight, room, **settings._asdict())
    np.testing.assert_allclose(room, expected, atol=1e-5)


@pytest.mark.only("numpy")
def test_convolutions_without_a_result_or_with_short_rows_are_left_to_others() -> None:
    plain = Settings((1,), ((0, 0),), (1,), (1,), 1)
    weight = np.ones((2, 1, 1))
    assert numpy_convolution.pays(np.ones((64, 4, 1)), weight, plain)
    assert not numpy_convolution.pays(np.ones((2, 4, 1)), weight, plain)  # rows of two
    assert not numpy_convolution.pays(np.ones((0, 4, 1)), weight, plain)
    assert not numpy_convolution.pays(np.ones((64, 1, 1)), weight, plain)  # no result
    gaps = plain._replace(groups=2, input_dilation=(2,))
    assert not numpy_convolution.pays(np.ones((64, 4, 2)), np.ones((2, 1, 2)), gaps)


def test_a_change_of_shape_keeps_an_order_or_is_no_view() -> None:
    views = 0
    for before in SHAPES:
        for order in permutations(range(len(before))):
            x = np.empty([before[axis] for axis in order]).transpose(np.argsort(order))
            for after in SHAPES:
                if np.prod(after) != np.prod(before):
                    continue
                found = reshaped(order, before, after)
                if found is not None:
                    views += 1
                    y = x.reshape(after)
                    assert np.shares_memory(x, y)
                    assert y.transpose(found).flags.c_contiguous
    assert views > 200


@pytest.mark.only("numpy")
def test_values_computed_from_a_convolution_lie_as_it_does() -> None:
    def f(x: Any, weight: Any) -> Any:
        y = functional.conv(x, weight)
        pooled = functional.max_pool(functional.relu(y * 2.0))
        xp = namespace(y)
        return pooled, xp.permute_dims(y[:, 1:, 0], (2, 0, 1)), xp.sum(y, axis=(0, 1, 2))

    graph = record(f, np.ones((32, 6, 6, 2)), np.ones((3, 3, 2, 4)), decompositions={})
    graph = applied(graph, into_buffers(LOWERING))
    found = orders(graph, LOWERING)
    assert found[id(graph.nodes[0])] == (1, 3, 2, 0)
    assert [found.get(id(o)) for o in graph.outputs] == [(1, 3, 2, 0), (2, 0, 1), None]
    assert graph.outputs[2].args[0] is graph.nodes[0]  # no matrix, which would be a copy
    assert orders(graph, None) == {}


NET = layers.Sequential(
    layers.Conv2d(6, kernel_size=5, padding=2), functional.relu, layers.MaxPool2d(),
    layers.Conv2d(8, stride=2), layers.BatchNorm(), functional.relu, layers.AvgPool2d(),
    layers.Flatten(), layers.Linear(3),
)  # fmt: skip


@pytest.mark.only("numpy")
@pytest.mark.parametrize("kind", ["long rows", "without llvmlite", "short rows"])
def test_a_compiled_step_is_the_eager_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "without llvmlite":
        monkeypatch.setattr(numpy_functions, "has_llvm", lambda: False)
    batch_size = 2 if kind == "short rows" else 32
    draw = np.random.default_rng(0)
    # Whole numbers, so that elements of a window are equal now and then.
    x, y = draw.integers(-1, 2, (64, 12, 12, 2)).astype("f8"), np.arange(64) % 3
    kinds: Any = {
        "loss": SoftmaxCrossEntropy(),
        "optimizer": SGD(0.05),
        "seed": 1,
        "progress": False,
    }
    both = [
        tinynn.fit(NET, x, y, epochs=2, batch_size=batch_size, engine=engine, **kinds)
        for engine in ("eager", "calls")
    ]
    for a, b in zip(*[tinynn.tree.leaves(model.params) for model in both], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_a_compiled_pool_gives_the_gradient_to_the_first_of_equals(
    backend: backends.Backend,
) -> None:
    xp = backend.xp
    x = backend.asarray([[[2.0, -0.0], [2.0, 0.0], [1.0, 3.0], [4.0, 3.0]]], dtype="float32")
    weight = backend.asarray([[1.0, 2.0], [3.0, 4.0]], dtype="float32")

    def f(x: Any) -> Any:
        return namespace(x).sum(functional.max_pool(x * 2.0) * weight)

    expected = [[[2.0, 4.0], [0.0, 0.0], [0.0, 8.0], [6.0, 0.0]]]
    found = tinynn.compile(tinynn.grad(f))(x)
    assert xp.all(found == backend.asarray(expected, dtype="float32"))


JOINED = {
    "twice the same": lambda xp, x: [xp.exp(x), xp.exp(x)],
    "read before": lambda xp, x: [xp.exp(x), xp.sin(xp.exp(x)) * 2.0],
    "an input": lambda xp, x: [x, xp.exp(x)],
    "numbers": lambda xp, x: [xp.exp(x), xp.zeros_like(x), xp.sin(x)],
    "a product": lambda xp, x: [x @ x, xp.exp(x) @ x],
}


@pytest.mark.parametrize("kind", JOINED)
@pytest.mark.parametrize("how", ["concat 0", "concat 1", "stack 0", "stack 2", "flat"])
def test_joined_values_are_those_of_the_library(
    kind: str, how: str, backend: backends.Backend
) -> None:
    """Whatever is written where it belongs, and read before or after that."""
    x = backend.asarray([[0.1, 0.2], [0.3, 0.4]], dtype="float32")

    def joined(x: Any) -> Any:
        xp, parts = namespace(x), JOINED[kind](namespace(x), x)
        if how == "flat":
            return xp.concat(parts, axis=None)
        name, axis = how.split()
        return getattr(xp, name)(parts, axis=int(axis))

    def f(x: Any) -> Any:
        y = joined(x * 1.5)
        z = y * y + 1.0
        return z, y - 0.5

    compiled = tinynn.compile(f)
    for _ in range(2):
        for found, expected in zip(compiled(x), f(x), strict=True):
            np.testing.assert_allclose(backend.to_host(found), backend.to_host(expected), rtol=1e-5)


@pytest.mark.only("numpy")
def test_tables_of_a_large_image_are_small() -> None:
    """A run for the left edge of each row, one for the right edge, and one for all between."""
    pytest.importorskip("llvmlite", reason="LLVM compiles the loops")
    from backends.direct_convolution import _Axis, _plan

    axes = tuple(_Axis(3, 2048, 1, 1, 1, 1, 2048, step, step) for step in (2048 * 3, 3))
    runs, places = _plan(axes, 1, (9, 3), None)
    assert len(runs) == 3 * 2048
    assert runs[:, 2].reshape(-1, 3)[1].tolist() == [1, 2046, 1]
    assert len(places) == (2 + 3 + 2) ** 2
