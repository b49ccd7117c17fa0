"""What lowerings write, against the standard's own calls: every row, dtype and kind of argument."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tinynn
from backends import Backend
from tinynn.layers import Linear
from tinynn.rules import special
from tinynn.trace import namespace

DTYPES = ("float32", "complex128", "int32", "bool")
TOLERANCE = {"float32": 1e-5, "complex64": 1e-5}
SHAPES: tuple[tuple[int, ...], ...] = ((), (3, 4), (0, 2))
AXES: tuple[Any, ...] = (None, 0, -1, (1,), (-1, 0), ())
NUMBERS = (2, 0.5, True, float("inf"))
PRODUCTS = (
    *(((3,), (3,)), ((3,), (3, 4)), ((3, 1), (1, 4)), ((2, 3), (3,)), ((2, 3), (3, 4))),
    *(((0, 3), (3, 2)), ((2, 0), (0, 3)), ((3,), (2, 3, 4)), ((2, 2, 3), (3,)), ((3,), (3, 1))),
    *(((2, 2, 3), (3, 4)), ((2, 1, 3), (2, 3, 2)), ((3, 1, 2, 3), (2, 3, 1))),
)
ONE = """abs acos acosh asin asinh atan atanh bitwise_invert ceil conj cos cosh exp expm1 floor
isfinite isinf isnan log log1p log2 log10 logical_not negative positive reciprocal sign signbit sin
sinh sqrt square tan tanh trunc"""
TWO = """add atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor
copysign divide equal floor_divide greater greater_equal hypot less less_equal logaddexp
logical_and logical_or logical_xor maximum minimum multiply nextafter not_equal pow remainder
subtract"""

pytestmark = [
    pytest.mark.only("numpy", "torch", "cupy"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


def array(backend: Backend, shape: tuple[int, ...], dtype: str, seed: int = 0) -> Any:
    """Values that most functions take, in the order of columns."""
    draw = np.random.default_rng(seed)
    host = draw.uniform(0.2, 0.9, shape[::-1])
    if dtype.startswith("int"):
        host = draw.integers(1, 4, shape[::-1])
    elif dtype == "bool":
        host = host > 0.5
    elif dtype == "complex128":
        host = host + 1j * draw.uniform(0.2, 0.9, shape[::-1])
    x = backend.asarray(np.asarray(host, dtype))
    return x if len(shape) < 2 else backend.xp.permute_dims(x, tuple(range(len(shape)))[::-1])


def assert_same(backend: Backend, f: Callable[..., Any], *given: Any) -> None:
    """The compiled function gives what the function gives, wherever its result lies."""

    def before(x: Any) -> Any:
        """A value that the program may write over."""
        xp = namespace(x)
        return xp.logical_not(x) if "bool" in str(x.dtype) else xp.multiply(x, x)

    def kept(*given: Any) -> Any:
        y = f(*given)
        return namespace(y).stack([y, y])

    def over(*given: Any) -> Any:
        return kept(*[before(x) if hasattr(x, "dtype") else x for x in given])

    for each in (kept, over, f):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                want = each(*given)
        except Exception:  # the library has no such call
            continue
        compiled = tinynn.compile(each)
        for _ in range(2):
            found, host = backend.to_host(compiled(*given)), backend.to_host(want)
            assert (found.dtype, found.shape) == (host.dtype, host.shape), compiled.source
            tolerance = TOLERANCE.get(host.dtype.name, 1e-12)
            np.testing.assert_allclose(found, host, rtol=tolerance, err_msg=compiled.source)


def pairs(backend: Backend) -> Iterator[tuple[Any, Any]]:
    """Arrays of one dtype or two, with axes or without, and numbers on either side.

    On CuPy a kernel is compiled for each: every dtype meets another of the numbers.
    """
    for place, dtype in enumerate(DTYPES):
        x = array(backend, (3, 4), dtype)
        yield x, array(backend, (3, 4), dtype, 1)
        yield x, array(backend, (4,), dtype, 1)
        yield array(backend, (), dtype), x
        yield array(backend, (), dtype), array(backend, (), dtype, 1)
        for number in NUMBERS[place : place + 1] if backend.name == "cupy" else NUMBERS:
            yield x, number
            yield number, x
    for left, right in (("float32", "float64"), ("int64", "int32"), ("float64", "complex128")):
        for shapes in (((), (3,)), ((3,), ())):
            yield array(backend, shapes[0], left), array(backend, shapes[1], right, 1)


@pytest.mark.parametrize("name", ONE.split())
def test_functions_of_one_array(backend: Backend, name: str) -> None:
    for dtype in DTYPES:
        for shape in SHAPES:
            x = array(backend, shape, dtype)
            assert_same(backend, lambda x: getattr(namespace(x), name)(x), x)


def test_sign_of_what_is_no_number(backend: Backend) -> None:
    x = backend.asarray([float("nan"), -0.0, float("inf"), -2.0])
    assert_same(backend, lambda x: namespace(x).sign(x), x)


@pytest.mark.parametrize("name", TWO.split())
def test_functions_of_two_arrays(backend: Backend, name: str) -> None:
    def f(x: Any, y: Any) -> Any:
        return getattr(namespace(x if hasattr(x, "dtype") else y), name)(x, y)

    for x, y in pairs(backend):
        assert_same(backend, f, x, y)


@pytest.mark.parametrize("name", ["sum", "max", "min", "mean"])
def test_reductions(backend: Backend, name: str) -> None:
    for dtype in DTYPES[:2] if name == "mean" else DTYPES:
        for shape in SHAPES:
            for axis in AXES:
                for kwargs in ({}, {"keepdims": True}):
                    given = {**kwargs, **({} if axis is None else {"axis": axis})}
                    x = array(backend, shape, dtype)
                    assert_same(backend, lambda x, s=given: getattr(namespace(x), name)(x, **s), x)


@pytest.mark.parametrize("shapes", PRODUCTS, ids=str)
def test_matrix_products(backend: Backend, shapes: Any) -> None:
    for dtypes in (("float32",) * 2, ("complex128",) * 2, ("int64",) * 2, ("float32", "float64")):
        given = [array(backend, s, d) for s, d in zip(shapes, dtypes, strict=True)]
        assert_same(backend, lambda x, y: namespace(x).matmul(x, y), *given)


@pytest.mark.parametrize("f", [special.sigmoid, special.erf], ids=["sigmoid", "erf"])
def test_special_functions(backend: Backend, f: Callable[..., Any]) -> None:
    for dtype in ("float32", "float64"):
        for shape in SHAPES:
            assert_same(backend, f, array(backend, shape, dtype))
    assert_same(backend, f, backend.asarray([float("nan"), -0.0, float("inf"), -1e3, 1e3]))


def test_logsumexp(backend: Backend) -> None:
    inf, nan = float("inf"), float("nan")
    rows = [[inf, 1.0, 2.0], [-inf] * 3, [nan, 1.0, -inf], [inf, -inf, inf], [1e4, 1e4, -1e4]]
    large = np.random.default_rng(0).normal(0, 30, (3, 1500))
    for host in (rows, large):
        for dtype in ("float32", "float64"):
            x = backend.asarray(np.asarray(host, dtype))
            for axis in (None, 0, -1, (1,), (-1, 0)):
                for keepdims in (False, True):
                    given = {"axis": axis, "keepdims": keepdims}
                    assert_same(backend, lambda x, s=given: special.logsumexp(x, **s), x)


def test_taking_by_index(backend: Backend) -> None:
    indices = backend.asarray(np.asarray([2, 0, -1, 2]))
    for dtype in DTYPES:
        x = array(backend, (3, 4), dtype)
        for axis in (0, 1, -1):
            assert_same(backend, lambda x, i, a=axis: namespace(x).take(x, i, axis=a), x, indices)
        assert_same(backend, lambda x, i: namespace(x).take(x[:, 1], i), x, indices)


def test_products_of_what_lies_in_another_order(backend: Backend) -> None:
    for dtype in ("float32", "complex128", "int32"):
        x, y = array(backend, (3, 4), dtype), array(backend, (2, 4, 3), dtype, 1)
        xp = backend.xp
        assert_same(backend, lambda x: namespace(x).matmul(x.mT, x), x)
        assert_same(backend, lambda x, y: namespace(x).matmul(y, x), x, y)
        assert_same(backend, lambda x, y: namespace(x).matmul(y.mT, x.mT), x, y)
        assert_same(backend, lambda y: namespace(y).matmul(y.mT, y), y)
        assert_same(backend, lambda y: namespace(y).matmul(y, y[:1, :, :].mT), y)
        for a, b in ((x[:, 1], x[:, 2]), (x[0, ...], x[1, ...]), (x[::2, 0], x[1:, 3])):
            assert_same(backend, lambda a, b: namespace(a).vecdot(a, b), a, b)
            assert_same(backend, lambda a, b: namespace(a).matmul(a, b), a, b)
        assert_same(backend, lambda x: namespace(x).vecdot(x, x), xp.asarray(x, copy=True))


def test_choices_and_casts(backend: Backend) -> None:
    for dtype in DTYPES:
        x, y = array(backend, (3, 4), dtype), array(backend, (4,), dtype, 1)
        for a, b in ((x, y), (y, x), (x, 2), (0.5, x), (x, x[0, 0, ...])):
            assert_same(
                backend, lambda x, a, b: namespace(x).where(namespace(x).equal(x, x), a, b), x, a, b
            )
        for other in DTYPES:
            new = backend.dtypes()[other]
            assert_same(backend, lambda x, d=new: namespace(x).astype(x, d), x)


def test_what_is_joined_takes_no_new_memory(backend: Backend) -> None:
    def joined(x: Any, y: Any, axis: int | None = 0) -> Any:
        return namespace(x, y).concat([x, y, x], axis=axis)

    for dtype in DTYPES:
        x, y = array(backend, (3, 4), dtype), array(backend, (3, 4), dtype, 1)
        for axis in (0, 1, -1, None):
            assert_same(backend, lambda x, y, a=axis: joined(x, y, a), x, y)
        assert_same(backend, joined, x, y[:0, :])
    assert_same(
        backend, joined, array(backend, (2, 4), "float32"), array(backend, (4,) * 2, "int32")
    )
    x = array(backend, (3, 4), "float32")
    compiled = tinynn.compile(lambda x: namespace(x).exp(joined(x, x[1:, :])))
    compiled(x)
    assert "concat(x, v0, x, axis=0, out=" in compiled.source


def test_entries_are_in_the_memory_of_their_array(backend: Backend) -> None:
    # A scan writes what it gives to them. Their rows are no multiple of a processor's lines.
    for shape in ((3,), (3, 5), (2, 3, 5), (2, 0)):
        x = backend.xp.zeros(shape, device=backend.device)
        for entry in backend.lowering.entries(x):
            entry[...] = 1
        assert (backend.to_host(x) == 1).all()


def test_floats_that_are_inputs(backend: Backend) -> None:
    for dtype in DTYPES:
        x = array(backend, (3, 4), dtype)
        assert_same(backend, lambda x, rate: namespace(x).exp(x * rate) * rate - rate / x, x, 0.5)
        assert_same(backend, lambda x, rate: namespace(x).maximum(x, rate), x, 0.5)


# What PyTorch follows itself.


def weighed(x: Any, w: Any) -> Any:
    xp = namespace(x, w)
    return xp.tanh(xp.exp(xp.matmul(x, w)) * 0.1)


@pytest.mark.only("torch")
def test_results_are_ordinary_and_followed_where_the_function_would_be(backend: Backend) -> None:
    import torch

    x, w = array(backend, (4, 3), "float32"), array(backend, (3, 2), "float32")
    f = tinynn.compile(weighed)
    y, followed = f(x, w), w.clone().requires_grad_()
    assert "out=" in f.source
    assert not y.is_inference()
    assert not y.requires_grad
    (want,) = torch.autograd.grad(weighed(x, followed).sum(), [followed])
    (found,) = torch.autograd.grad(f(x, followed).sum(), [followed])
    torch.testing.assert_close(found, want)
    with torch.no_grad():
        assert not f(x, followed).requires_grad
    inside = tinynn.compile(lambda x: weighed(x, followed))  # an array from outside
    torch.testing.assert_close(torch.autograd.grad(inside(x).sum(), [followed])[0], want)
    for transform in (torch.func.jacrev, torch.func.vmap, torch.func.jacrev):
        compiled, plain = (transform(lambda x, g=g: g(x, w)) for g in (f, weighed))
        torch.testing.assert_close(compiled(x), plain(x))
    torch.testing.assert_close(f(x, w), y)
    with torch.autocast(x.device.type, torch.bfloat16):
        assert f(x, w).dtype == weighed(x, w).dtype
    torch.testing.assert_close(f(x, w), y)


@pytest.mark.only("torch")
@pytest.mark.reads_scalars
def test_training_on_what_is_followed_runs_as_it_is_written(backend: Backend) -> None:
    x = array(backend, (4, 3), "float32").requires_grad_()
    with pytest.warns(RuntimeWarning, match="without compiling: the library follows its arrays"):
        model = tinynn.fit(Linear(2), x, x[:, :2].detach(), epochs=1, engine="calls")
    assert model.params["weight"].requires_grad
    model = tinynn.fit(Linear(2), x.detach(), x[:, :2].detach(), epochs=1, engine="calls")
    assert not model.params["weight"].is_inference()
