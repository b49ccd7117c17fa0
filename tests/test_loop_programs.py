"""Programs of one kind of call each: loops give what the calls, as they are written, give.

On every library that has a compiler of loops, and by the interpreter of their language.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import backends
from backends import Backend
from tests.engines import Interpreted, InterpretedSerially
from tinynn import grad
from tinynn.compiler.codegen.language import Gemm, walk
from tinynn.compiler.loops import CannotEmit, Loops
from tinynn.compiler.pipelines import decompositions
from tinynn.trace import namespace
from tinynn.transforms.record import record

pytestmark = [
    pytest.mark.only("numpy", "cupy"),
    pytest.mark.usefixtures("compiler_of_loops", "current_device"),
]
NUMPY = backends.get("numpy")
RANDOM = np.random.default_rng(0)
PICKS = (
    lambda x: x[1:3, ::2],
    lambda x: x[0, ...] * x[-1, ...],
    lambda x: x[:, None, 1],
    lambda x: x[::-1, :-1],
)


@pytest.fixture
def current_device(backend: Backend) -> Iterator[None]:
    """The device under test is the library's current one, as it is in `fit`."""
    with backend.scope():
        yield


Emit = Callable[..., Loops]


@pytest.fixture(params=["compiled", "interpreted by threads", "interpreted"])
def kind(request: pytest.FixtureRequest, backend: Backend) -> type[Loops]:
    """Loops, as they are compiled and as the interpreter carries them out."""
    if request.param == "compiled":
        return Loops
    if not isinstance(backend, type(NUMPY)):
        pytest.skip("the interpreter takes NumPy's arrays")
    return Interpreted if request.param == "interpreted by threads" else InterpretedSerially


@pytest.fixture
def emitted(backend: Backend, kind: type[Loops]) -> Emit:
    """`emitted(f, *given)`: loops and `f(xp, *given)`, as it is written, give the same arrays."""

    def emit(f: Any, *given: Any, rtol: float = 3e-6) -> Loops:
        def step(values: Any, given: Any) -> tuple[Any, Any]:
            xp = given[0].__array_namespace__()
            return f(xp, *given), xp.sum(given[0][:1, ...] * 0)

        lowering = backend.lowering
        assert lowering is not None
        arrays = list(map(backend.asarray, given))
        with backend.scope(), np.errstate(all="ignore"):
            expected = list(map(backend.xp.asarray, f(backend.xp, *arrays)))
            start = [0 * each if each.dtype != bool else ~each & each for each in expected]
            graph = record(step, start, arrays, decompositions=decompositions(lowering))
        loops = kind(graph, len(start), backend, [])
        loops.load(start)
        loops.run(loops.steps(1, arrays), 2)
        for got, wanted in zip(loops.values(), expected, strict=True):
            assert got.dtype == wanted.dtype
            found, wanted = backend.to_host(got), backend.to_host(wanted)
            np.testing.assert_allclose(found, wanted, rtol=rtol, atol=rtol)
        return loops

    return emit


def numbers(*shape: int, dtype: str = "float32") -> Any:
    return (RANDOM.standard_normal(shape) * 2).astype(dtype)


SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-38, 89.0, -104.0, 88.5, 1, -1, 700, 0.5, 2.5]
ONES = """abs acosh asinh atan ceil cos cosh exp expm1 floor isfinite isinf isnan log log1p log2
log10 negative positive reciprocal round sign sin sinh sqrt square tan tanh trunc""".split()
TWOS = """add atan2 copysign divide equal floor_divide greater greater_equal hypot less less_equal
logaddexp maximum minimum multiply not_equal remainder subtract""".split()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_of_numbers(emitted: Emit, dtype: str) -> None:
    x = np.asarray(SPECIAL * len(SPECIAL), dtype=dtype)
    y = np.repeat(np.asarray(SPECIAL, dtype=dtype), len(SPECIAL))

    def each(xp: Any, x: Any, y: Any) -> list[Any]:
        ones = [getattr(xp, name)(x) for name in ONES]
        twos = [getattr(xp, name)(x, y) for name in TWOS]
        return [*ones, *twos, xp.where(x > y, x, y), xp.clip(x, -1.0, 2.0), xp.pow(xp.abs(x), 1.5)]

    with np.errstate(all="ignore"):
        emitted(each, x, y, rtol=3e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "uint32"])
def test_functions_of_integers(emitted: Emit, dtype: str) -> None:
    limits = np.iinfo(dtype)
    special = [0, 1, 2, 7, limits.max, limits.min, limits.max - 1]
    x = np.asarray(special * len(special), dtype=dtype)
    y = np.repeat(np.asarray(special, dtype=dtype), len(special))

    def each(xp: Any, x: Any, y: Any) -> list[Any]:
        few = xp.bitwise_and(y, 7)
        two = [getattr(xp, f"bitwise_{name}")(x, y) for name in ("and", "or", "xor")]
        moved = [xp.bitwise_left_shift(x, few), xp.bitwise_right_shift(x, few), ~x]
        sums = [x + y, x - y, x * y, x + 3, x < y, xp.maximum(x, y), xp.astype(x, xp.float32)]
        odd = xp.bitwise_or(y, 1)
        sums += [xp.floor_divide(x, odd), xp.remainder(x, odd), xp.pow(x, xp.bitwise_and(y, 3))]
        sums += [xp.abs(x), xp.negative(x), xp.sign(x), xp.square(x), xp.isfinite(x), xp.floor(x)]
        return [*two, *moved, *sums, xp.sum(x), xp.max(x), xp.min(y), xp.any(x == y), x > 2]

    emitted(each, x, y)


SHAPES = [(4, 3, 5), (1, 7, 64), (6, 64, 10), (9, 17, 33), (5, 4, 1), (1, 9, 1), (4, 1, 40)]


def from_size(backend: Backend, monkeypatch: pytest.MonkeyPatch, multiplications: int) -> None:
    """Leave products of so many multiplications or more to BLAS."""
    native = backend.native()
    for products in (InterpretedSerially.products, native.products if native else {}):
        for dtype in products:
            monkeypatch.setitem(products, dtype, multiplications)  # type: ignore[arg-type]


PRODUCTS = [("loops", "float32", shape) for shape in SHAPES]
PRODUCTS += [("BLAS", dtype, (9, 17, 33)) for dtype in ("float32", "float64")]


@pytest.mark.parametrize(("how", "dtype", "shape"), PRODUCTS, ids=str)
def test_products(
    emitted: Emit,
    backend: Backend,
    kind: type[Loops],
    how: str,
    dtype: str,
    shape: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    m, k, n = shape
    a, b, c, d = (numbers(*each, dtype=dtype) for each in ((m, k), (k, n), (n, k), (k, m)))
    from_size(backend, monkeypatch, 1 if how == "BLAS" else 2**60)

    def each(xp: Any, a: Any, b: Any, c: Any, d: Any) -> list[Any]:
        product = a @ b
        chained = product @ xp.matrix_transpose(b)
        return [product, a @ c.mT, d.mT @ b, (d.mT @ c.mT) * 2, chained, product.mT @ a]

    loops = emitted(each, a, b, c, d, rtol=2e-4 if dtype == "float32" else 1e-13)
    blas = how == "BLAS" and dtype in kind.compiler(loops).products
    products = [each for each in walk(loops.function.body) if isinstance(each, Gemm)]
    assert len(products) == (6 if blas else 0)


@pytest.mark.parametrize("large", [1, 2**60], ids=["BLAS", "loops"])
def test_products_of_stacks_vectors_and_integers(
    emitted: Emit, backend: Backend, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_size(backend, monkeypatch, large)
    a, b, v = numbers(3, 4, 6), numbers(6, 5), numbers(6)

    def each(xp: Any, a: Any, b: Any, v: Any, i: Any) -> list[Any]:
        long = xp.concat([b[:, 0]] * 20)
        dots = v @ v, long @ (long + 1.0)
        return [a @ b, a @ v, v @ b, *dots, xp.matrix_transpose(a) @ a, i @ i.mT]

    emitted(each, a, b, v, np.arange(12, dtype="int32").reshape(3, 4), rtol=1e-4)


def rowwise(x: Any, rows: Any) -> Any:
    return namespace(x).take(x, rows, axis=0) ** 2


def test_what_is_picked_by_numbers_known_beforehand(emitted: Emit, backend: Backend) -> None:
    x, some = numbers(4, 5), backend.asarray(np.asarray([3, -1]))

    def each(xp: Any, x: Any, rows: Any) -> list[Any]:
        parts = x[1:, ::2], xp.take(x, rows, axis=0), xp.take(x, some, axis=1)
        gradients = [grad(lambda x, p=p: namespace(x).sum(p(x) ** 2))(x) for p in PICKS]
        along = grad(lambda x: namespace(x).sum(namespace(x).take(x[:, 0], rows) ** 2))(x)
        return [*parts, *gradients, along, grad(lambda x: namespace(x).sum(rowwise(x, rows)))(x)]

    emitted(each, x, np.asarray([0, 2, 2, -4, 1]))


def loops_of(backend: Backend, kind: type[Loops], step: Any, kept: list[Any], *given: Any) -> Loops:
    """Loops of a step, which start from these arrays."""
    kept = list(map(backend.asarray, kept))
    loops = kind(record(step, *kept, *map(backend.asarray, given)), len(kept), backend, [])
    loops.load(kept)
    return loops


def test_indices_out_of_range_are_refused_before_loops_run(
    backend: Backend, kind: type[Loops]
) -> None:
    def step(w: Any, rows: Any) -> tuple[Any, Any]:
        return w * 0.5, namespace(w).sum(rowwise(w, rows))

    rows, some = backend.asarray(np.asarray([0, 3])), [numbers(4, 2)]
    loops = loops_of(backend, kind, step, some, rows)
    batches = loops.steps(1, [rows])
    for wrong in (4, -5):  # whatever is changed after the batches were made
        loops.run(batches)
        rows[0] = wrong
        with pytest.raises(IndexError, match=f"rows: expected indices from -4 to 3, got .*{wrong}"):
            loops.run(batches)
        rows[0] = 0
    outside = backend.asarray(np.asarray([0, 3]))
    more = backend.asarray(numbers(2))
    loops = loops_of(backend, kind, lambda w, x: (w + x, step(w, outside)[1]), some, more)
    batches = loops.steps(1, [more])
    loops.run(batches)
    outside[:] = 9
    with pytest.raises(IndexError, match="outside: expected indices from -4 to 3, got 9 to 9"):
        loops.run(batches)


def test_indices_that_the_step_computes_are_left_to_calls(
    backend: Backend, kind: type[Loops]
) -> None:
    def step(w: Any, x: Any) -> tuple[Any, Any]:
        xp = x.__array_namespace__()
        best = xp.astype(xp.round(xp.abs(x)), xp.int64)
        return w * 0.5, xp.sum(xp.take(w, best, axis=0))

    with pytest.raises(CannotEmit, match=r"take\(.*test_loop.*the step computes its indices"):
        loops_of(backend, kind, step, [numbers(9, 2)], numbers(3))


def test_data_that_lies_in_steps(backend: Backend, kind: type[Loops]) -> None:
    def step(w: Any, x: Any) -> tuple[Any, Any]:
        xp = x.__array_namespace__()
        return w * 0.5 + x + every, xp.sum(x)

    every, x = backend.asarray(numbers(3, 2))[:, 0], backend.asarray(numbers(6, 4))[:, 1]
    loops = loops_of(backend, kind, step, [np.zeros(3, "float32")], x[:3])
    loops.run(loops.batches(3, [x], ()))
    found = backend.to_host(loops.values()[0])
    y, z = map(backend.to_host, (x, every))
    np.testing.assert_allclose(found, (y[:3] + z) * 0.5 + y[3:] + z, rtol=1e-6)


def test_reductions(emitted: Emit) -> None:
    x, y = numbers(4, 3, 5), numbers(5)

    def each(xp: Any, x: Any, y: Any) -> list[Any]:
        out = []
        for axis in (None, 0, 1, 2, (0, 1), (0, 2), (1, 2)):
            out += [xp.sum(x * y, axis=axis), xp.max(x, axis=axis, keepdims=True)]
            out += [xp.prod(x, axis=axis), xp.any(x > 3, axis=axis), xp.min(x + y, axis=axis)]
        return out

    emitted(each, x, y, rtol=2e-5)


def test_views(emitted: Emit) -> None:
    x, y = numbers(4, 6), numbers(3, 1, 8)

    def each(xp: Any, x: Any, y: Any) -> list[Any]:
        turned = xp.reshape(xp.exp(xp.permute_dims(y, (2, 0, 1))), (6, 4))
        part = x[1:3, ::2] + turned[:2, 1:]
        wide = xp.broadcast_to(x[:, :1], (4, 3)) * xp.expand_dims(part[0, :], axis=0)
        flat = xp.reshape(xp.matrix_transpose(x), (-1,))
        joined = xp.concat([xp.exp(flat), flat[:5]], axis=0)
        beside = xp.concat([x, x * 2], axis=1)
        return [turned, part, wide, flat, joined, beside, xp.moveaxis(y, 0, -1) * 2]

    emitted(each, x, y)


def test_new_values_that_are_the_old_ones_of_others(backend: Backend, kind: type[Loops]) -> None:
    def step(a: Any, b: Any, c: Any, d: Any, e: Any, x: Any) -> Any:
        xp = namespace(x)
        new = a * 0.5 + b.mT + xp.sum(c)
        return b, a + 1.0, xp.matrix_transpose(c) + new, e, d * 2.0, xp.sum(new * x)

    start = [*[numbers(3, 3) for _ in range(3)], np.float32(1.5), np.float32(2.5)]
    start = list(map(np.asarray, start))
    x = numbers(4, 3, 3)
    loops = loops_of(backend, kind, step, start, x[0])
    outs = loops.run(loops.batches(3, [backend.asarray(x.reshape(-1, 3))], ()))
    values, wanted = start, []
    for each in x:
        *values, out = step(*values, each)
        wanted.append(out)
    np.testing.assert_allclose(backend.to_host(outs), wanted, rtol=1e-4)
    for got, value in zip(loops.values(), values, strict=True):
        np.testing.assert_allclose(backend.to_host(got), value, rtol=1e-4, atol=1e-5)


def test_what_is_defined_by_other_calls(emitted: Emit) -> None:
    """It has no words of its own in loops."""
    x, y, i = numbers(4, 3), numbers(4, 3), np.arange(6, dtype="int64").reshape(2, 3)

    def each(xp: Any, x: Any, y: Any, i: Any) -> list[Any]:
        spread = [xp.var(x, axis=0), xp.std(x, correction=1), xp.mean(x, axis=-1, keepdims=True)]
        products = [xp.vecdot(x, y), xp.tensordot(x, y, axes=((0,), (0,)))]
        filled = xp.zeros_like(i) + i, xp.full_like(i, 7) * i, xp.ones_like(i > 2), xp.zeros_like(x)
        return [*spread, *products, xp.diff(x, axis=0), xp.tile(x, (2, 1)), *filled]

    emitted(each, x, y, i, rtol=1e-5)


def test_what_has_no_loops_is_named(emitted: Emit) -> None:
    with pytest.raises(CannotEmit, match="cumulative_sum"):
        emitted(lambda xp, x: [xp.cumulative_sum(x)], numbers(5))
