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
from backends import Backend
from tests.checks import assert_close, assert_equal
from tests.memory import left_behind
from tests.programs import ROUNDING, Program
from tests.seeds import fourier, parts, seeds, shown
from tinynn import tree
from tinynn.compiler import RecordingError, passes, suited
from tinynn.compiler.loop import InPlace
from tinynn.compiler.rewrite import FILL
from tinynn.functional import relu, sigmoid
from tinynn.layers import Linear, Sequential
from tinynn.losses import SquaredError
from tinynn.optim import SGD
from tinynn.trace import namespace
from tinynn.training.data import Samples
from tinynn.training.step import TrainingStep
from tinynn.transforms.record import Constant, Graph, Input, Node, record

SEEDS = {"numpy": 24, "array_api_strict": 4, "torch": 16, "jax": 1, "dpnp": 2, "cupy": 12}
TOLERANCE = 1e-9


def transformed(program: Program, backend: Backend) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A function of a program's value, derivatives of two orders and a batch; and its input."""
    f = program.over(tinynn.Namespace(backend.xp), backend.asarray)
    groups = (program.inputs.values(), program.direction, program.batch)
    x, direction, batch = (tuple(backend.asarray(np.asarray(a)) for a in g) for g in groups)
    gradient = tinynn.grad(f, tuple(range(len(x))))

    def everything(x: Any, direction: Any, batch: Any) -> Any:
        value, change = tinynn.jvp(f, x, direction)
        return {
            "value": value,
            "jvp": change,
            "gradient": gradient(*x),
            "hvp": tinynn.jvp(gradient, x, direction)[1],
            "batch": tinynn.vmap(gradient)(*batch),
        }

    return everything, (x, direction, batch)


def assert_alike(backend: Backend, found: Any, expected: Any) -> None:
    pairs = zip(tree.paths(found), tree.paths(expected), strict=True)
    for (name, leaf), (also, want) in pairs:
        assert name == also
        leaf, want = backend.to_host(leaf), backend.to_host(want)
        assert (leaf.dtype, leaf.shape) == (want.dtype, want.shape)
        scale = float(np.max(np.abs(want), initial=0.0))
        np.testing.assert_allclose(
            leaf, want, TOLERANCE, max(TOLERANCE * scale, ROUNDING), err_msg=name
        )


@pytest.mark.usefixtures("float64")
@parts
def test_random_programs_compile(backend: Backend, part: int) -> None:
    for seed in seeds(SEEDS.get(backend.name, 12), part):
        program = Program(seed, fourier(backend))
        f, given = transformed(program, backend)
        compiled = tinynn.compile(f)
        with shown(program):
            assert_alike(backend, compiled(*given), f(*given))
            moved = tree.map(lambda leaf: leaf * 0.99, given)
            assert_alike(backend, compiled(*moved), f(*moved))


# The passes.


def evaluated(graph: Graph, values: list[Any]) -> list[Any]:
    """What a graph gives, by the plainest interpreter there is."""
    known = {id(i): v for i, v in zip(graph.inputs, values, strict=True)}

    def value(a: Any) -> Any:
        if isinstance(a, Constant):
            return a.value
        return known[id(a)] if isinstance(a, Node) else a

    for node in graph.nodes:
        if node.function is FILL:
            settings = node.settings
            known[id(node)] = np.full(settings["shape"], settings["value"], settings["dtype"])
        else:
            known[id(node)] = node.function.raw(*map(value, node.args), **node.settings)
    return [value(o) for o in graph.outputs]


EACH = (
    passes.constants_folded,
    passes.algebra,
    passes.shapes_merged,
    passes.common_subexpressions,
    passes.simplified,
    suited.products,
    suited.slopes_of_relu,
    suited.without_rows_of_one,
)


@pytest.mark.parametrize("each", EACH, ids=lambda each: each.__name__)
def test_a_pass_changes_no_result(each: Callable[[Graph], Graph]) -> None:
    for seed in range(12):
        program = Program(seed)
        f, given = transformed(program, backends.get("numpy"))
        _, graph, _ = record(f, *given)
        values = tree.leaves(given)
        shorter = each(graph)
        pairs = zip(evaluated(shorter, values), evaluated(graph, values), strict=True)
        for found, want in pairs:
            scale = float(np.max(np.abs(want), initial=0.0))
            np.testing.assert_allclose(
                found, want, rtol=1e-9, atol=1e-9 * scale, err_msg=str(program)
            )


def graph_of(f: Callable[..., Any], *args: Any) -> Graph:
    return passes.simplified(record(f, *args)[1])


X = np.asarray([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    ("f", "calls"),
    [
        (lambda x, xp: xp.negative(-x) + 1, ["add"]),
        (lambda x, xp: x * 1.0 + 0.0 * 1.0, []),
        (lambda x, xp: x + x, ["multiply"]),
        (lambda x, xp: 0.5 * (x + x), []),
        (lambda x, xp: (x * 3) / 2 * 4, ["multiply"]),
        (lambda x, xp: xp.exp(x) * xp.exp(x), ["exp", "multiply"]),
        (lambda x, xp: x**2, ["multiply"]),
        (lambda x, xp: x + xp.negative(xp.exp(x)), ["exp", "subtract"]),
        (lambda x, xp: xp.ones_like(x) * 3 * x, ["multiply"]),
        (lambda x, xp: xp.broadcast_to(xp.sum(x), (2, 2)) * x, ["sum", "multiply"]),
        (lambda x, xp: xp.sum(3 * x), ["sum", "multiply"]),
        (lambda x, xp: xp.sum(xp.sum(x, axis=0)), ["sum"]),
        (lambda x, xp: xp.reshape(xp.expand_dims(x, axis=0), (4,)), ["reshape"]),
        (lambda x, xp: xp.matrix_transpose(xp.matrix_transpose(x)), []),
        (lambda x, xp: (xp.exp(x), x)[1], []),
        (lambda x, xp: xp.astype(x, x.dtype) * 2, ["multiply"]),
        (lambda x, xp: xp.reshape(xp.sum(x, axis=0, keepdims=True), (2,)), ["sum"]),
    ],
)
def test_what_passes_leave(f: Callable[..., Any], calls: list[str]) -> None:
    graph = graph_of(lambda x: f(x, namespace(x)), X)
    assert [node.name for node in graph.nodes] == calls
    np.testing.assert_allclose(evaluated(graph, [X])[0], f(X, np))


ROW = np.asarray([[1.0, 2.0, 3.0]])


@pytest.mark.parametrize(
    ("f", "shapes"),
    [
        (lambda x, xp: x + x[0, :], {"add": (3,)}),
        (lambda x, xp: x * xp.exp(x), {"multiply": (1, 3), "exp": (1, 3)}),  # nothing to gain
        (lambda x, xp: x @ xp.ones((3, 2)) + xp.ones(2), {"matmul": (2,), "add": (2,)}),
        (lambda x, xp: x @ xp.ones((3, 1)), {"matmul": (1,)}),
        (lambda x, xp: x - xp.max(x, axis=1, keepdims=True), {"max": (), "subtract": (1, 3)}),
        (lambda x, xp: x + xp.sum(x[None], axis=(0, 2))[..., None], {"sum": (), "add": (1, 3)}),
        (lambda x, xp: x + x.mT, {"add": (3, 3)}),
        (lambda x, xp: xp.sum(x * x, axis=0) + x, {"multiply": (1, 3), "add": (3,)}),
        (lambda x, xp: xp.ones((1, 1, 4)) + x[..., None][..., :1, :], {"add": (1, 1, 4)}),
    ],
)  # fmt: skip
def test_a_batch_of_one_without_its_axis(
    f: Callable[..., Any], shapes: dict[str, tuple[int, ...]]
) -> None:
    graph = graph_of(lambda x: f(x, namespace(x)), ROW)
    flat = suited.without_rows_of_one(graph)
    found = {node.name: node.shape for node in flat.nodes}
    assert {name: found.get(name) for name in shapes} == shapes
    assert flat.outputs[0].shape == f(ROW, np).shape
    np.testing.assert_allclose(evaluated(flat, [ROW])[0], f(ROW, np))


def test_no_gradient_is_computed_that_nobody_asked_for() -> None:
    def loss(w: Any, x: Any) -> Any:
        return namespace(x).sum((x @ w) ** 2)

    both = graph_of(tinynn.grad(loss, (0, 1)), X, X)
    one = graph_of(lambda w, x: tinynn.grad(loss, (0, 1))(w, x)[0], X, X)
    count = [sum(node.name == "matmul" for node in graph.nodes) for graph in (both, one)]
    assert count == [3, 2]


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
    assert_equal(compiled(2 * x, 3, 0.5)["y"], np.full((2, 3), 4.0, "float32"), backend)
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
        assert y["same"] is x
        if backend.dialect is not None:
            for name in ("copy", "also", "asked for", "second"):
                with suppress(ValueError):  # arrays of one variant are read-only
                    y[name][...] = 9.0
        assert_equal(x, np.asarray([1.0, 2.0], dtype="float32"), backend)
        assert_equal(y["first"], np.asarray([2.0, 4.0], dtype="float32"), backend)


def test_what_passes_leave_alone(backend: Backend) -> None:
    xp = backend.xp
    whole = xp.asarray([1, 2, 3], dtype=xp.int32, device=backend.device)
    wide = xp.asarray([1e25, 1.0], dtype=xp.float32, device=backend.device)
    signs = tinynn.compile(lambda x: 3 * (-x) - 1)(whole)
    assert_equal(signs, np.asarray([-4, -7, -10], dtype="int32"), backend)
    small = tinynn.compile(lambda x: namespace(x).sum((x / 1e20) ** 2))(wide)
    assert_close(small, np.asarray(1e10, dtype="float32"), backend)
    holes = wide * xp.asarray([xp.nan, 1.0], dtype=xp.float32, device=backend.device)
    positive = tinynn.compile(lambda x: (relu(x), namespace(x).astype(x > 0, x.dtype)))(holes)[1]
    assert_equal(positive, np.asarray([0.0, 1.0], dtype="float32"), backend)
    first = tinynn.compile(lambda x: (x * 2)[0] * 3)
    for factor in (1.0, 2.0):
        assert_close(first(wide * factor), np.asarray(6e25 * factor, dtype="float32"), backend)


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
    second = f(x * 10)
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
        f(net.init(0, x), x)


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
    params, optimizer = net.init(0, x), SGD(1.0)
    state = optimizer.init(params)
    step = TrainingStep(net, SquaredError(reduction="half_sum"), optimizer)
    backend = backends.get("numpy")
    spelled = backend.dialect.spelled
    _, graph, _ = record(step, params, state, Samples(x, y), None, spelled=spelled)
    loop = InPlace(graph, 3, backend, [[0, 1]])
    loop.load(tree.leaves((params, state)))
    return loop, loop.batches(4, (x, y), ())


def test_long_vectors_go_by_pieces() -> None:
    x, y = np.random.RandomState(0).randn(8, 300), np.zeros((8, 120))

    def source(width: int) -> str:
        net = Sequential(Linear(width), Linear(120))
        explained = tinynn.explain(net, x, y, loss=SquaredError(), optimizer=SGD(0.1, momentum=0.9))
        return explained.source

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

    _, graph, _ = record(f, {"w": X}, X)
    assert [i.label for i in graph.inputs] == ["params.w", "x"]
    assert all(isinstance(i, Input) for i in graph.inputs)
    assert str(graph).splitlines()[1] == "  v0 = matmul(x, params.w)  # (2, 2)"
