"""Namespace and Traced against the library underneath, without any transformation."""

import inspect
import operator
from typing import Any

import array_api_compat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import backends
import tinynn
from tests.checks import assert_equal
from tests.transfers import Transfers
from tinynn import Namespace, grad
from tinynn.trace import Traced, plain
from tinynn.trace.core import BASE
from tinynn.trace.standard import CREATION, FUNCTIONS, INSPECTION


@pytest.fixture
def space(xp: Any) -> Namespace:
    return Namespace(xp)


def place(backend: backends.Backend, values: Any, name: str = "float32") -> Any:
    return backend.asarray(np.asarray(values), dtype=backend.dtypes()[name])


def wrap(backend: backends.Backend, values: Any, name: str = "float32") -> Any:
    return Namespace(backend.xp).asarray(place(backend, values, name))


def assert_same(found: Any, wanted: Any, backend: backends.Backend) -> None:
    """`found` is Traced, and in all else what the library gives."""
    assert type(found) is Traced
    assert found.trace is BASE
    assert found.dtype == wanted.dtype
    assert found.shape == tuple(wanted.shape)
    assert_equal(plain(found), backend.to_host(wanted), backend, dtype=wanted.dtype)


# The namespace.


def test_there_is_one_namespace_over_each(xp: Any, space: Namespace) -> None:
    assert Namespace(xp) is space
    assert Namespace(space) is space
    assert {space: 1}[Namespace(xp)] == 1
    assert space.__name__ == f"tinynn.over.{xp.__name__}"
    assert space.__array_api_version__ == xp.__array_api_version__


def test_every_name_is_as_in_the_library_underneath(xp: Any, space: Namespace) -> None:
    names = {name for name in (*FUNCTIONS, *CREATION, *INSPECTION) if "." not in name}
    lacking = names - set(dir(space))
    assert not [name for name in lacking if hasattr(xp, name)]
    for name in names - lacking:
        assert getattr(space, name) is getattr(space, name)
    for extension in {"fft", "linalg"} & set(dir(space)):
        part = getattr(space, extension)
        assert part is getattr(space, extension)
        assert {"fft": "rfftn", "linalg": "eigh"}[extension] in dir(part)
        for name in dir(part):
            assert getattr(part, name) is getattr(part, name)
    assert space.pi == xp.pi
    assert space.newaxis is None
    assert space.float32 == xp.float32


@pytest.mark.only("array_api_strict")
def test_signatures_are_the_standards(backend: backends.Backend) -> None:
    """As array-api-strict, which holds them to the letter, has them."""

    def names(function: Any) -> list[tuple[str, bool]]:
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.kind is p.KEYWORD_ONLY) for p in parameters if p.name != "kwargs"]

    space = Namespace(backend.xp)
    for name in (*FUNCTIONS, *CREATION, *INSPECTION):
        extension, _, member = name.rpartition(".")
        ours, theirs = space, backend.xp
        if extension:
            if not hasattr(space, extension):
                continue
            ours, theirs = getattr(space, extension), getattr(theirs, extension)
        if not hasattr(theirs, member):
            continue
        assert getattr(ours, member).__name__.endswith(member)
        assert sorted(names(getattr(ours, member))) == sorted(names(getattr(theirs, member))), name


def test_array_api_compat_finds_the_namespace(backend: backends.Backend, space: Any) -> None:
    x, y = wrap(backend, [1.0]), wrap(backend, [2.0])
    assert array_api_compat.array_namespace(x, y) is space
    assert array_api_compat.is_array_api_obj(x)
    assert array_api_compat.device(x) == backend.device
    assert array_api_compat.size(x) == 1
    assert backends.is_array(x)


def test_creation_gives_arrays_that_nothing_follows(backend: backends.Backend, space: Any) -> None:
    xp, dtype, device = backend.xp, backend.dtypes()["float32"], backend.device
    on = {"dtype": dtype, "device": device}
    assert_same(space.zeros((2, 3), **on), xp.zeros((2, 3), **on), backend)
    assert_same(space.full((2,), 7.0, **on), xp.full((2,), 7.0, **on), backend)
    assert_same(space.arange(5, **on), xp.arange(5, **on), backend)
    assert_same(space.linspace(0, 1, 5, **on), xp.linspace(0, 1, 5, **on), backend)
    assert_same(space.eye(3, k=1, **on), xp.eye(3, k=1, **on), backend)
    x = wrap(backend, [[1.0, 2.0]])
    assert_same(space.ones_like(x), xp.ones_like(plain(x)), backend)
    assert_same(space.full_like(x, 3.0), xp.full_like(plain(x), 3.0), backend)


def test_inspection_takes_arrays_of_either_kind(backend: backends.Backend, space: Any) -> None:
    xp, x = backend.xp, wrap(backend, [1.0])
    assert space.result_type(x, space.complex64) == xp.result_type(plain(x), xp.complex64)
    assert space.can_cast(x, space.complex64)
    assert space.isdtype(x.dtype, "real floating")
    assert space.finfo(x.dtype).bits == 32
    assert space.iinfo(space.int8).max == 127


# Operators.

BITS = ("bool", "uint8", "int32")
NUMBERS = ("uint8", "int32", "float32", "complex64")
REALS = ("uint8", "int32", "float32")
BINARY = {
    operator.add: ("add", NUMBERS),
    operator.sub: ("subtract", NUMBERS),
    operator.mul: ("multiply", NUMBERS),
    operator.truediv: ("divide", ("float32", "complex64")),
    operator.floordiv: ("floor_divide", REALS),
    operator.mod: ("remainder", REALS),
    operator.pow: ("pow", ("float32",)),
    operator.and_: ("bitwise_and", BITS),
    operator.or_: ("bitwise_or", BITS),
    operator.xor: ("bitwise_xor", BITS),
    operator.lshift: ("bitwise_left_shift", ("uint8", "int32")),
    operator.rshift: ("bitwise_right_shift", ("uint8", "int32")),
    operator.lt: ("less", REALS),
    operator.le: ("less_equal", REALS),
    operator.gt: ("greater", REALS),
    operator.ge: ("greater_equal", REALS),
    operator.eq: ("equal", ("bool", *NUMBERS)),
    operator.ne: ("not_equal", ("bool", *NUMBERS)),
}
UNARY = {
    operator.neg: ("negative", ("int32", "float32", "complex64")),
    operator.pos: ("positive", NUMBERS),
    operator.abs: ("abs", REALS),
    operator.invert: ("bitwise_invert", BITS),
}
IN_PLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ipow: operator.pow,
    operator.iand: operator.and_,
    operator.ior: operator.or_,
    operator.ixor: operator.xor,
    operator.ilshift: operator.lshift,
    operator.irshift: operator.rshift,
}
SHAPES = (((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((), (2,)), ((0,), (1,)))


def draw(rng: Any, shape: tuple[int, ...], name: str) -> Any:
    whole = rng.integers(1, 6, shape)
    return (whole > 3 if name == "bool" else whole).astype(name)


@given(
    st.sampled_from([(op, name, dtype) for op, (name, types) in BINARY.items() for dtype in types]),
    st.sampled_from(SHAPES),
    st.integers(0, 2**32 - 1),
)
def test_operators_are_functions(
    backend: backends.Backend, row: Any, shapes: Any, seed: int
) -> None:
    (op, name, dtype), rng = row, np.random.default_rng(seed)
    a, b = [place(backend, draw(rng, shape, dtype), dtype) for shape in shapes]
    space = Namespace(backend.xp)
    x, y = space.asarray(a), space.asarray(b)
    wanted = getattr(backend.xp, name)(a, b)
    assert_same(op(x, y), wanted, backend)
    assert_same(getattr(space, name)(x, y), wanted, backend)
    assert_same(getattr(space, name)(x, b), wanted, backend)
    assert_same(getattr(space, name)(a, y), wanted, backend)
    scalar = {"bool": True, "float32": 2.0, "complex64": 2.0 + 1.0j}.get(dtype, 2)
    array = place(backend, scalar, dtype)
    assert_same(op(x, scalar), getattr(backend.xp, name)(a, array), backend)
    assert_same(op(scalar, x), getattr(backend.xp, name)(array, a), backend)


@given(
    st.sampled_from([(op, name, dtype) for op, (name, types) in UNARY.items() for dtype in types]),
    st.integers(0, 2**32 - 1),
)
def test_unary_operators_are_functions(backend: backends.Backend, row: Any, seed: int) -> None:
    op, name, dtype = row
    a = place(backend, draw(np.random.default_rng(seed), (2, 3), dtype), dtype)
    assert_same(op(Namespace(backend.xp).asarray(a)), getattr(backend.xp, name)(a), backend)


@pytest.mark.parametrize("op", IN_PLACE, ids=lambda op: op.__name__)
def test_in_place_operators_make_a_new_array(backend: backends.Backend, op: Any) -> None:
    name, types = BINARY[IN_PLACE[op]]
    rng = np.random.default_rng(1)
    a, b = [place(backend, draw(rng, (3,), types[0]), types[0]) for _ in range(2)]
    x = before = Namespace(backend.xp).asarray(a)
    x = op(x, b)
    assert_same(x, getattr(backend.xp, name)(a, b), backend)
    assert before is not x


def test_matmul_and_transposes(backend: backends.Backend) -> None:
    a, b = place(backend, [[1.0, 2.0, 3.0]]), place(backend, [[1.0], [0.0], [2.0]])
    x, y = Namespace(backend.xp).asarray(a), Namespace(backend.xp).asarray(b)
    assert_same(x @ y, backend.xp.matmul(a, b), backend)
    assert_same(x.T, backend.xp.permute_dims(a, (1, 0)), backend)
    assert_same(x.mT, backend.xp.matrix_transpose(a), backend)


# Functions whose arrays and settings come in other ways than by position and keyword.


def test_arrays_are_understood_by_keyword(backend: backends.Backend, space: Any) -> None:
    xp = backend.xp
    a, low = place(backend, [3.0, 1.0, 2.0]), place(backend, [2.0])
    x, bound = space.asarray(a), space.asarray(low)
    wanted = xp.diff(a, prepend=low)
    assert_same(space.diff(x, prepend=bound), wanted, backend)
    assert_same(space.diff(a, prepend=bound), wanted, backend)
    assert_same(space.diff(x, prepend=low), wanted, backend)
    assert_same(space.diff(x, n=2), xp.diff(a, n=2), backend)
    assert_same(space.clip(a, min=bound), xp.maximum(a, low), backend)
    assert_same(space.clip(x, 1.5, 2.5), place(backend, [2.5, 1.5, 2.0]), backend)
    assert_same(space.clip(x), a, backend)


def test_sorter_is_an_array(backend: backends.Backend, space: Any) -> None:
    a, b = place(backend, [3.0, 1.0, 2.0]), place(backend, [2.5, 1.5])
    x, order = space.asarray(a), space.argsort(space.asarray(a))
    wanted = backend.xp.searchsorted(a, b, sorter=plain(order))
    assert_same(space.searchsorted(x, b, side="left", sorter=order), wanted, backend)


def test_settings_are_understood_by_position(backend: backends.Backend, space: Any) -> None:
    xp, a = backend.xp, place(backend, [[1.0, 2.0, 3.0]])
    x = space.asarray(a)
    assert_same(space.reshape(x, (3, 1)), xp.reshape(a, (3, 1)), backend)
    assert_same(space.reshape(x, shape=(3, 1)), xp.reshape(a, (3, 1)), backend)
    assert_same(space.squeeze(x, 0), xp.squeeze(a, 0), backend)
    assert_same(space.roll(x, 1, axis=1), xp.roll(a, 1, axis=1), backend)
    assert_same(space.moveaxis(x, 0, 1), xp.moveaxis(a, 0, 1), backend)
    assert_same(space.tile(x, (2, 2)), xp.tile(a, (2, 2)), backend)
    assert_same(space.astype(x, xp.int32, copy=False), xp.astype(a, xp.int32), backend)
    assert_same(space.concat([x, a], axis=1), xp.concat([a, a], axis=1), backend)
    assert_same(space.concat((x,)), a, backend)


def test_results_of_several_arrays(backend: backends.Backend, space: Any) -> None:
    a = place(backend, [[2.0, 0.0], [0.0, 1.0]])
    values, vectors = space.linalg.eigh(space.asarray(a))
    assert_same(values, place(backend, [1.0, 2.0]), backend)
    assert vectors.shape == (2, 2)
    for part, row in zip(space.unstack(space.asarray(a)), (a[0, :], a[1, :]), strict=True):
        assert_same(part, row, backend)
    for part in space.broadcast_arrays(space.asarray(a), a[0, :]):
        assert part.shape == (2, 2)
    assert len(space.meshgrid(space.asarray(a[0, :]), a[1, :], indexing="ij")) == 2


# asarray.


def test_asarray_of_an_array_is_the_array(backend: backends.Backend, space: Any) -> None:
    x = wrap(backend, [1.0, 2.0])
    assert space.asarray(x) is x
    assert space.asarray(x, copy=True) is not x
    assert_same(space.asarray(x, copy=True), plain(x), backend)
    cast = space.asarray(x, dtype=backend.dtypes()["int32"])
    assert_same(cast, place(backend, [1, 2], "int32"), backend)
    flags = wrap(backend, [True, False], "bool")
    assert_same(space.asarray(flags, copy=True), plain(flags), backend)


def test_asarray_stacks_what_is_nested(backend: backends.Backend, space: Any) -> None:
    x = wrap(backend, [[1.0, 2.0], [3.0, 4.0]])
    swapped = space.asarray([[x[0, 1], x[0, 0]], [x[1, 1], x[1, 0]]])
    assert_same(swapped, place(backend, [[2.0, 1.0], [4.0, 3.0]]), backend)

    def f(x: Any) -> Any:
        xp = x.__array_namespace__()
        return xp.sum(xp.asarray([x[0] * x[1], 3 * x[1]]))

    slope = grad(f)(place(backend, [5.0, 7.0]))
    assert_equal(slope, [7.0, 8.0], backend, dtype="float32")


# Indexing.

INDICES = (
    (1,),
    (-1, ..., 0),
    (slice(None, 1), slice(1, None, 2)),
    (..., None, 1),
    (None, slice(None), 0, ...),
    (1, 2, 1),
)


@pytest.mark.parametrize("key", INDICES, ids=str)
def test_indices_are_the_librarys(backend: backends.Backend, key: Any) -> None:
    a = place(backend, np.arange(12.0).reshape(2, 3, 2))
    x = Namespace(backend.xp).asarray(a)
    key = key if ... in key or len(key) == 3 else (*key, ...)
    assert_same(x[key], a[key], backend)


def test_integer_arrays_and_masks_are_indices(backend: backends.Backend, space: Any) -> None:
    a = place(backend, [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    x, rows, columns = space.asarray(a), wrap(backend, [2, 0], "int32"), wrap(backend, [1], "int32")
    assert_same(x[rows, columns], place(backend, [5.0, 1.0]), backend)
    assert_same(x[rows, 1], place(backend, [5.0, 1.0]), backend)
    if backend.xp.__array_namespace_info__().capabilities()["boolean indexing"]:
        assert_same(x[x > 2.5], place(backend, [3.0, 4.0, 5.0]), backend)
    with backend.scope():  # an index of plain arrays is the library's own affair
        assert_equal(plain(x)[plain(rows), plain(columns)], [5.0, 1.0], backend)


def test_arrays_are_iterated_over_by_rows(backend: backends.Backend) -> None:
    x = wrap(backend, [[1.0, 2.0], [3.0, 4.0]])
    assert len(x) == 2
    first, second = x
    assert_same(first, place(backend, [1.0, 2.0]), backend)
    assert_same(second, place(backend, [3.0, 4.0]), backend)


# Assignment.

ASSIGNABLE = pytest.mark.only(
    "numpy", "array_api_strict", "array_api_strict-device1", "array_api_strict-no_float64", "torch",
    "dpnp", "cupy",
)  # fmt: skip


def skip_readonly(variant: Any) -> None:
    if variant.id in ("numpy-readonly", "array_api_strict-strictest"):
        pytest.skip(f"{variant.id} has no assignment, or no masks")


@ASSIGNABLE
def test_arrays_that_nothing_follows_can_be_assigned(
    backend: backends.Backend, variant: Any
) -> None:
    skip_readonly(variant)
    a = place(backend, [[1.0, 2.0], [3.0, 4.0]])
    x = Namespace(backend.xp).asarray(a)
    x[0, 1] = 7.0
    x[1, :] = wrap(backend, [8.0, 9.0])
    assert_same(x, place(backend, [[1.0, 7.0], [8.0, 9.0]]), backend)
    x[x > 7.5] = 0.0
    assert_same(x, place(backend, [[1.0, 7.0], [0.0, 0.0]]), backend)
    assert_equal(a, [[1.0, 2.0], [3.0, 4.0]], backend)


@ASSIGNABLE
def test_assignment_does_not_change_what_was_computed(
    backend: backends.Backend, variant: Any
) -> None:
    skip_readonly(variant)

    def f(x: Any) -> Any:
        xp = x.__array_namespace__()
        weights = xp.ones_like(x, device=x.device)
        y = x * weights
        weights[0] = 100.0
        return xp.sum(y)

    assert_equal(grad(f)(place(backend, [1.0, 2.0])), [1.0, 1.0], backend)


@pytest.mark.only("jax")
def test_assignment_fails_where_the_librarys_does(backend: backends.Backend) -> None:
    x = wrap(backend, [1.0])
    with pytest.raises(TypeError, match="immutable"):
        x[0] = 2.0


def test_assignment_of_what_is_followed_is_refused(backend: backends.Backend) -> None:
    def f(x: Any) -> Any:
        out = x.__array_namespace__().asarray(place(backend, [0.0, 0.0]))
        out[0] = x[0]
        return out[0]

    with pytest.raises(TypeError, match=r"cannot be changed in place.*xp\.where"):
        grad(f)(place(backend, [1.0, 2.0]))


# Leaving the namespace.


def test_values_are_exported(backend: backends.Backend, transfers: Transfers) -> None:
    x = wrap(backend, [1.0, 2.0])
    assert x.__dlpack_device__() == plain(x).__dlpack_device__()
    assert x.device == backend.device
    assert_same(x.to_device(backend.device), plain(x), backend)
    with transfers.allowed():
        if hasattr(plain(x), "__dlpack__"):
            y = backend.xp.from_dlpack(x)
            np.testing.assert_array_equal(backends.of(y).to_host(y), [1.0, 2.0])


@pytest.mark.reads_scalars
def test_numbers_are_read(backend: backends.Backend) -> None:
    assert float(wrap(backend, 2.5)) == 2.5
    assert complex(wrap(backend, 2.5)) == 2.5
    assert int(wrap(backend, 3, "int32")) == 3
    assert [10, 20][wrap(backend, 1, "int32")] == 20
    assert bool(wrap(backend, True, "bool"))


@pytest.mark.parametrize(
    ("mistake", "kind", "message"),
    [
        (lambda xp, x: xp.einsum, AttributeError, "'einsum'.*not in it"),
        (lambda xp, x: xp.linalg.lstsq, AttributeError, "'lstsq'.*not in the standard"),
        (lambda xp, x: xp.sum(x, 0), TypeError, r"sum\(x, /, \*, axis.*got 2 .* expected 1"),
        (lambda xp, x: xp.diff(x, 2, 0), TypeError, r"diff\(x, /, \*.*got 3 .* expected 1"),
        (lambda xp, x: xp.reshape(x, (1,), 0), TypeError, r"reshape\(x, /, shape.*expected 2"),
        (lambda xp, x: xp.where(x > 0, x), TypeError, "argument 'x2' is missing"),
        (lambda xp, x: xp.add(x), TypeError, "argument 'x2' is missing"),
        (lambda xp, x: len(xp.sum(x)), TypeError, "x has no axes"),
        (lambda xp, x: list(xp.sum(x)), TypeError, "x has no axes"),
        (lambda xp, x: x.T, ValueError, "expected a matrix"),
        (lambda xp, x: x.mT, ValueError, "expected a matrix or a stack"),
        (lambda xp, x: hash(x), TypeError, "unhashable"),
    ],
)
def test_mistakes_are_explained(
    backend: backends.Backend, space: Any, mistake: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        mistake(space, wrap(backend, [1.0]))


def test_followed_arrays_are_not_exported(backend: backends.Backend) -> None:
    for export in (np.asarray, lambda x: x.__dlpack__()):
        with pytest.raises(TypeError, match="does not know it"):
            grad(lambda x, export=export: export(x))(place(backend, 1.0))


def test_tinynn_exports_it() -> None:
    assert tinynn.Namespace is Namespace
    x = Namespace(np).asarray([1.0, 2.0])
    np.testing.assert_array_equal(np.asarray(x), [1.0, 2.0])
    np.testing.assert_array_equal(np.from_dlpack(x), [1.0, 2.0])
    assert repr(x) == "trace[0](array([1., 2.]))"
