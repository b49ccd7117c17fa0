"""Recording, the passes, and the programs that are emitted."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends import Backend, scoped
from tests.checks import assert_close, assert_equal
from tests.memory import left_behind
from tests.programs import Program, transformed
from tests.rule_rows import skip_if_missing
from tests.seeds import fourier, parts, seeds, share, shown
from tinynn import tree
from tinynn.compiler import RecordingError, pipelines
from tinynn.compiler.train_loop import InPlace
from tinynn.data import Samples
from tinynn.functional import relu, sigmoid
from tinynn.layers import Linear, Sequential
from tinynn.losses import SquaredError
from tinynn.optim import SGD
from tinynn.trace import namespace
from tinynn.training.step import TrainingStep
from tinynn.transforms.graph import Input
from tinynn.transforms.record import record

SEEDS = 24
TOLERANCE = 1e-9


def assert_alike(backend: Backend, found: Any, expected: Any) -> None:
    pairs = zip(tree.paths(found), tree.paths(expected), strict=True)
    for (name, leaf), (also, want) in pairs:
        assert name == also
        leaf, want = backend.to_host(leaf), backend.to_host(want)
        assert (leaf.dtype, leaf.shape) == (want.dtype, want.shape)
        scale = float(np.max(np.abs(want), initial=0.0))
        np.testing.assert_allclose(leaf, want, rtol=TOLERANCE, atol=TOLERANCE * scale, err_msg=name)


@pytest.mark.usefixtures("float64")
@parts
def test_random_programs_compile(backend: Backend, part: int) -> None:
    for seed in seeds(share(SEEDS, backend), part):
        program = Program(seed, fourier(backend))
        f, given = transformed(program, backend)
        compiled = tinynn.compile(f)
        with shown(program):
            assert_alike(backend, compiled(*given), f(*given))
            moved = tree.map(scoped(lambda leaf: leaf * 0.99), given)
            assert_alike(backend, compiled(*moved), f(*moved))


# compile.


def test_compile_records_once_for_every_signature(backend: Backend) -> None:
    runs = []

    def f(x: Any, power: int, rate: float) -> Any:
        runs.append(tuple(x.shape))
        return {"y": rate * x**power}

    compiled, xp = tinynn.compile(f), backend.xp
    x = xp.ones((2, 3), dtype=xp.float32, device=backend.device)
    for rate in (0.5, 0.25, 0.125):  # floats are never burned in
        assert_equal(compiled(x, 2, rate)["y"], np.full((2, 3), rate, "float32"), backend)
    assert runs == [(2, 3)]
    compiled(x[:1, ...], 2, 0.5)
    assert runs == [(2, 3), (1, 3)]
    assert_equal(compiled(xp.add(x, x), 3, 0.5)["y"], np.full((2, 3), 4.0, "float32"), backend)
    assert len(runs) == 3


def test_results_share_no_memory_that_they_did_not_share_before(backend: Backend) -> None:
    def f(x: Any) -> Any:
        xp = namespace(x)
        twice = 2 * x
        return {
            "same": x,
            "copy": x * 1.0,
            "also": xp.negative(-x),
            "asked for": xp.asarray(x, copy=True),
            "first": twice,
            "second": 2 * x,
            "part": twice[:1],
        }

    x = backend.asarray(np.asarray([1.0, 2.0], dtype="float32"))
    compiled = tinynn.compile(f)
    for _ in range(2):
        y = compiled(x)
        assert y["same"] is x or backend.repeat is not None  # which gives a new object for it
        if backend.lowering is not None:
            for name in ("copy", "also", "asked for", "second"):
                with suppress(ValueError), backend.scope():  # arrays of one variant are read-only
                    y[name][...] = 9.0
        assert_equal(x, np.asarray([1.0, 2.0], dtype="float32"), backend)
        assert_equal(y["first"], np.asarray([2.0, 4.0], dtype="float32"), backend)


def test_numbers_alone_are_pythons(backend: Backend) -> None:
    x = backend.asarray(np.asarray([1.0, 2.0], dtype="float32"))
    for f in (lambda r, x: x * (1 - r), lambda r, x: x * -r, lambda r, x: x * abs(r**2)):
        f = backends.scoped(f)
        compiled = tinynn.compile(f)
        for rate in (0.1, 0.25):
            assert_close(compiled(rate, x), backend.to_host(f(rate, x)), backend)


def test_vecdot_of_other_than_two_real_vectors(backend: Backend) -> None:
    f = lambda x, y: namespace(x).vecdot(x, y)  # noqa: E731
    compiled = tinynn.compile(f)
    host = np.asarray([[1.0, 2.0], [3.0, -1.0]], dtype="float32")
    pairs = [(host, host), (host, host[0]), (host[0], host), (host[0], host[1])]
    complex64 = (host + 1j * host[::-1]).astype("complex64")
    for pair in [*pairs, (complex64[0], complex64[1]), (complex64, complex64)]:
        x, y = (backend.asarray(each) for each in pair)
        assert_close(compiled(x, y), backend.to_host(f(x, y)), backend)


@pytest.mark.only("numpy", "torch", "cupy")
def test_the_mean_of_half_floats(backend: Backend) -> None:
    x = backend.asarray(np.full(2000, 100.0, dtype="float16"))  # the sum is beyond them
    mean = tinynn.compile(lambda x: namespace(x).mean(x))(x)
    assert_equal(mean, np.asarray(100.0, dtype="float16"), backend)


@pytest.mark.only("numpy", "torch", "cupy")
def test_an_index_of_nothing(backend: Backend) -> None:
    x = backend.asarray(np.asarray([1.0, 2.0], dtype="float32"))
    assert_equal(tinynn.compile(lambda x: x[()] * 2)(x), np.asarray([2, 4], "float32"), backend)


def test_compiled_functions_inside_transformations(backend: Backend) -> None:
    xp = backend.xp
    x = xp.asarray([1.0, 2.0], dtype=xp.float32, device=backend.device)
    cube = tinynn.compile(lambda x: x * x * x)

    def total(x: Any) -> Any:
        return namespace(x).sum(cube(x))

    assert_close(tinynn.grad(total)(x), np.asarray([3.0, 12.0], "float32"), backend)
    assert_close(tinynn.vmap(cube)(x), np.asarray([1.0, 8.0], "float32"), backend)
    twice = tinynn.compile(lambda x: tinynn.compile(tinynn.grad(total))(x) + cube(x))
    assert_close(twice(x), np.asarray([4.0, 20.0], "float32"), backend)


def test_checkpoint_hessian_and_vmap_compile(backend: Backend) -> None:
    xp = backend.xp
    x = xp.asarray([0.5, -1.0], dtype=xp.float32, device=backend.device)

    def f(x: Any) -> Any:
        xp = namespace(x)
        return xp.sum(tinynn.checkpoint(xp.tanh)(x) * x)

    for g in (tinynn.grad(f), tinynn.hessian(f), tinynn.vmap(lambda each: each * f(x), 0)):
        assert_close(tinynn.compile(g)(x), backend.to_host(g(x)), backend, rtol=1e-5)


def test_results_are_the_callers(backend: Backend) -> None:
    """No buffer of the program is ever handed out."""
    xp = backend.xp
    x = xp.asarray([1.0, 2.0], dtype=xp.float32, device=backend.device)
    f = tinynn.compile(lambda x: (x + 1, (x + 1) * 2, namespace(x).zeros_like(x), x))
    first = f(x)
    kept = [backend.to_host(leaf).copy() for leaf in first]
    second = f(xp.multiply(x, 10))
    for leaf, want in zip(first, kept, strict=True):
        np.testing.assert_array_equal(backend.to_host(leaf), want)
    assert all(a is not b for a, b in zip(first, second, strict=True))


def test_an_assignment_to_a_wrapped_array_from_outside_is_seen() -> None:
    outside = tinynn.Namespace(np).asarray([1.0, 2.0])
    f = tinynn.compile(lambda x: x * outside)
    x = np.asarray([3.0, 4.0])
    np.testing.assert_array_equal(f(x), [3.0, 8.0])
    outside[0] = 10.0
    np.testing.assert_array_equal(f(x), [30.0, 8.0])
    old = outside
    outside += 1  # another array of that name: the one that was recorded is as it was
    assert outside is not old
    np.testing.assert_array_equal(f(x), [30.0, 8.0])


@pytest.mark.parametrize("step", [1, 2])
def test_a_product_with_an_array_from_outside_follows_its_changes(step: int) -> None:
    outside = np.arange(6.0).reshape(2, 3)[:, ::step]
    x = np.ones(outside.shape)
    f = tinynn.compile(lambda x: namespace(x).sum(x * outside))
    assert f(x) == outside.sum()
    outside[0, 1] = 10.0
    assert f(x) == outside.sum()


@pytest.mark.only("numpy")
def test_arrays_from_outside_are_read_in_every_call(backend: Backend) -> None:
    outside = np.asarray([1.0, 2.0])
    # The second product is of arrays from outside and known numbers alone.
    f = tinynn.compile(lambda x: x * outside + namespace(x).ones_like(x) * 3 * outside)
    assert f(np.ones(2)).tolist() == [4.0, 8.0]
    outside[0] = 10.0
    assert f(np.ones(2)).tolist() == [40.0, 8.0]


@pytest.mark.reads_scalars
def test_what_cannot_be_recorded(backend: Backend) -> None:
    xp = backend.xp
    x = xp.ones(3, dtype=xp.float32, device=backend.device)
    readers: dict[str, Callable[[Any], Any]] = {
        "bool": lambda x: x if namespace(x).sum(x) > 0 else -x,
        "float": lambda x: x * float(namespace(x).sum(x)),
        "int": lambda x: x * int(namespace(x).sum(x)),
    }
    for kind, f in readers.items():
        with pytest.raises(RecordingError, match=rf"{kind}\(x\) .* at test_compiler.py:\d+.*where"):
            tinynn.compile(f)(x)
    kept = []
    tinynn.compile(lambda x: kept.append(x) or x)(x)  # type: ignore[func-returns-value]
    with pytest.raises(ValueError, match="finished recording"):
        kept[0] + 1
    with pytest.raises(RecordingError, match="expected an array among the arguments"):
        tinynn.compile(lambda n: n)(3)
    with pytest.raises(RecordingError, match="got set, which has no hash"):
        tinynn.compile(lambda x, names: x)(x, {1, 2})


def test_shapes_that_follow_from_values(backend: Backend) -> None:
    """Of other values there would be others, and programs of one shape for each."""
    x = backend.asarray(np.asarray([1.0, -1.0, 1.0], "float32"))
    skip_if_missing(lambda: (backend.xp.unique_values(x), x[x > 0]), backend)
    shaped: list[Callable[[Any, Any], Any]] = [
        lambda xp, x: x * xp.unique_values(x).shape[0],
        lambda xp, x: xp.mean(x[x > 0]),
        lambda xp, x: xp.take(x, xp.nonzero(x > 0)[0]),
    ]
    for g in shaped:
        with pytest.raises(RecordingError, match=r"the shape .* test_compiler\.py:.* from values"):
            tinynn.compile(lambda x, g=g: g(namespace(x), x))(x)
    mask = backend.asarray(np.asarray([True, False, True]))  # from outside: of one shape
    assert_equal(tinynn.compile(lambda x: x[mask] * 2)(x), np.asarray([2, 2], "float32"), backend)


@pytest.mark.reads_scalars
def test_check_finite_names_layer_and_line(backend: Backend) -> None:
    xp = backend.xp
    x = xp.asarray([[1.0, -1.0]], dtype=xp.float32, device=backend.device)

    def logarithm(x: Any) -> Any:
        return namespace(x).log(x)

    net = Sequential(Linear(2), logarithm, Linear(1))
    f = tinynn.compile(lambda params, x: net(params, x), check_finite=True)
    where = r"log gave NaN.*layer 1, logarithm.*test_compiler.py:\d+"
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=where):
        f(net.init(0, x)[0], x)


@pytest.mark.reads_scalars
def test_check_finite_blames_what_spoils_the_result_alone(backend: Backend) -> None:
    f = tinynn.compile(lambda x: sigmoid(x) * 2, check_finite=True)
    x = backend.asarray(np.asarray([-1000.0, 0.0], dtype="float32"))
    with np.errstate(over="ignore"):
        assert_equal(f(x), [0.0, 1.0], backend)  # by way of exp(1000) = inf in some libraries
    with pytest.raises(FloatingPointError, match="x holds NaN or infinity"):
        f(backend.asarray(np.asarray([np.nan, 0.0], dtype="float32")))


@pytest.mark.only("numpy")
def test_an_error_in_a_program_names_where_it_was_recorded(backend: Backend) -> None:
    from tinynn.trace import Function

    broken: list[bool] = []

    def fragile(x: Any) -> Any:
        if broken:
            raise OSError("the disk is gone")
        return x + 1

    step = Function("fragile", fragile)
    f = tinynn.compile(lambda x: step(x * 2))
    f(np.ones(2))
    broken.append(True)
    with pytest.raises(OSError, match="the disk is gone") as caught:
        f(np.ones(2))
    assert "test_compiler.py" in caught.value.__notes__[0]


def test_many_recordings_are_told_of() -> None:
    f = tinynn.compile(lambda x, n: x * n)
    for n in range(31):
        f(np.ones(1), n)
    with pytest.warns(RuntimeWarning, match="recorded 32 times"):
        f(np.ones(1), 31)


def test_one_program_in_many_threads() -> None:
    f = tinynn.compile(lambda x: sigmoid(x @ x) @ x + x)
    inputs = [np.random.RandomState(i).randn(16, 16) for i in range(8)]
    expected = [f(x) for x in inputs]

    def work(i: int) -> bool:
        return all(np.array_equal(f(inputs[i]), expected[i]) for _ in range(50))

    with ThreadPoolExecutor(8) as pool:  # it passes on what a thread raises
        assert all(pool.map(work, range(8)))


# The XOR network of the notebooks, whole: a change of the emitted code is seen here.

XOR = Path(__file__).with_name("xor_program.txt")


def test_the_xor_program() -> None:
    assert xor_loop()[0].source == XOR.read_text()


def xor_loop() -> Any:
    net = Sequential(Linear(4, bias=False), sigmoid, Linear(1, bias=False), sigmoid)
    x = np.asarray([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=float)
    y = np.asarray([[0.0], [1.0], [1.0], [0.0]])
    step = TrainingStep(net, SquaredError(reduction="half_sum"), SGD(1.0))
    carry = step.init(0, Samples(x, y))
    backend = backends.get("numpy")
    decompositions = pipelines.decompositions(backend.lowering)
    graph = record(step, carry, Samples(x, y), None, decompositions=decompositions)
    loop = InPlace(graph, 3, backend, [[0, 1]])
    loop.load(tree.leaves(carry))
    return loop, loop.batches(4, (x, y), ())


def test_long_vectors_go_by_pieces() -> None:
    x, y = np.random.RandomState(0).randn(8, 300), np.zeros((8, 120))

    def source(width: int) -> str:
        net = Sequential(Linear(width), Linear(120))
        explained = tinynn.explain(net, x, y, loss=SquaredError(), optimizer=SGD(0.1, momentum=0.9))
        return explained.program

    assert "pieces" not in source(10)
    lines = source(100).splitlines()
    start = next(i for i, line in enumerate(lines) if "in pieces:" in line)
    steps = [line.partition("#")[0].split() for line in lines[start : start + 5]]
    assert " ".join(steps[0]) == "for velocity_i, t5_i, gradients_i, params_i in pieces:"
    assert [words[0].partition("(")[0] for words in steps[1:]] == [
        "multiply", "add", "multiply", "subtract"
    ]  # fmt: skip
    # What the calls hand to one another is the same piece of memory every time.
    (cut,) = (line for line in lines if line.startswith("pieces = "))
    assert "t5[:16384][: 42220 - i]" in cut
    assert "params[i : i + 16384]" in cut


def test_slopes_of_large_maxima_are_comparisons_but_where_they_are_given_away() -> None:
    def f(x: Any) -> Any:
        return tinynn.vjp(relu, x)[1](x)[0], relu(x)

    def slope(x: Any) -> Any:
        xp = namespace(x)
        return xp.astype(xp.maximum(x, 0) > 0, x.dtype), xp.astype(x > 0, x.dtype), relu(x)

    for size in (10, 5000):
        x = np.random.RandomState(0).randn(size)
        for function in (f, slope):
            for found, want in zip(tinynn.compile(function)(x), function(x), strict=True):
                assert found.dtype == want.dtype
                np.testing.assert_array_equal(found, want)
    large = tinynn.compile(f)
    large(x)
    assert "greater(" in large.source
    assert "sign(" not in large.source


def test_memory_in_a_compiled_loop_is_flat() -> None:
    loop, batches = xor_loop()
    loop.run(batches, 200)
    assert left_behind(lambda: loop.run(batches, 2000)) < 1024


def test_graphs_name_inputs_after_the_arguments() -> None:
    def f(params: Any, x: Any) -> Any:
        return x @ params["w"]

    graph = record(f, {"w": np.eye(2)}, np.eye(2))
    assert [i.label for i in graph.inputs] == ["params.w", "x"]
    assert all(isinstance(i, Input) for i in graph.inputs)
    assert str(graph).splitlines()[1].split("  # ") == [
        f"{'  v0 = matmul(x, params.w)':<48}",
        "(2, 2)",
    ]


@pytest.mark.only("numpy")
def test_numbers_of_numpys_own_kind_are_pythons_in_a_program() -> None:
    x = np.asarray([1.0, 2.0, 4.0])
    shaped = tinynn.compile(lambda x: namespace(x).reshape(x, (np.int64(3), 1)))
    np.testing.assert_array_equal(shaped(x), x[:, None])
    spread = tinynn.compile(lambda x: namespace(x).var(x, correction=np.float64(1.0)))
    np.testing.assert_allclose(spread(x), x.var(ddof=1))


@pytest.mark.only("numpy")
def test_arrays_of_one_number_are_that_number() -> None:
    x = np.asarray([1.0, 2.0])
    twice = tinynn.compile(lambda x: namespace(x).full_like(x, 2.0) * x)
    np.testing.assert_array_equal(twice(x), [2.0, 4.0])
    assert "full_like" not in twice.source


@pytest.mark.only("numpy")
@pytest.mark.parametrize("value", [2, 2.5, float("nan"), 1e40])
def test_arrays_of_one_number_among_whole_ones_are_what_the_library_makes_of_it(
    value: float,
) -> None:
    x = np.asarray([1, 2], dtype="int64")
    with np.errstate(invalid="ignore"):
        made = tinynn.compile(lambda x: namespace(x).full_like(x, value) + x)(x)
        np.testing.assert_array_equal(made, np.full_like(x, value) + x, strict=True)


def test_a_number_of_the_library_is_an_array_of_no_axes() -> None:
    recorded = []

    def double(x: Any) -> Any:
        recorded.append(x)
        return x * 2.0

    f, x = tinynn.compile(double), np.asarray(1.0)
    for _ in range(3):
        x = f(x)
    assert float(x) == 8.0
    assert len(recorded) == 1


@pytest.mark.only("numpy")
def test_another_thread_may_record_while_a_program_is_looked_for() -> None:
    f = tinynn.compile(lambda x: x * 2.0)
    f(np.ones(2))
    program = f._newest
    assert program is not None
    looked = program.leaves_like

    def interrupted(args: Any) -> Any:
        given = looked(args)
        f._newest = None  # what another thread does at this very moment
        return given

    program.leaves_like = interrupted
    np.testing.assert_array_equal(f(np.ones(2)), [2.0, 2.0])
