"""The statement language: what its renderer writes, and that operands are told by identity."""

from typing import Any

import numpy as np
import pytest

import backends
from backends.expressions import OUT, Arg, Attribute, Call, Kwarg, Overwrite, X, Y, filled
from tinynn.compiler.calls import CallEmitter
from tinynn.compiler.chains import chained
from tinynn.compiler.liveness import Stage
from tinynn.compiler.pipelines import applied, into_buffers
from tinynn.compiler.renderer import rendered, source_of, text
from tinynn.compiler.statements import (
    Assign,
    Blank,
    Cut,
    Def,
    For,
    List,
    Return,
    Section,
    Subscript,
    Tuple,
    Variable,
    Write,
)
from tinynn.compiler.tiling import tiled
from tinynn.trace import namespace
from tinynn.trace.core import HOLE
from tinynn.transforms.record import record

A, B, N = Variable("a", (4,)), Variable("b", (4,)), Variable("n")
TEXTS = (
    (Call("add", A, 2, B), "add(a, 2, b)"),
    (Call("maximum", A, B, out=B), "maximum(a, b, out=b)"),
    (A.method("dot", B, N), "a.dot(b, n)"),
    (Attribute(A, "mT"), "a.mT"),
    (Attribute(A, "mT").method("reshape", (2, -1)), "a.mT.reshape((2, -1))"),
    (Call("copyto", A, B, "unsafe"), "copyto(a, b, 'unsafe')"),
    (Overwrite(A, B), "a[...] = b"),
    (Subscript(A, slice(1, 3)), "a[1:3]"),
    (Subscript(A, (slice(None), None, HOLE, Ellipsis, 0, slice(None, None, 2)), [N]),
     "a[:, None, n, ..., 0, ::2]"),
    (Subscript(A, ()), "a[()]"),
    (Subscript(A, (HOLE,), [N]), "a[n,]"),
    (Tuple([A]), "(a,)"),
    (Tuple([A], bare=True), "a,"),
    (Tuple([A, Tuple([B, 1.5])], bare=True), "a, (b, 1.5)"),
    (List([A]), "[a]"),
    (None, "None"),
    ((1,), "(1,)"),
)  # fmt: skip


@pytest.mark.parametrize(("expression", "wanted"), TEXTS, ids=[wanted for _, wanted in TEXTS])
def test_the_text_of_expressions(expression: Any, wanted: str) -> None:
    assert text(expression) == wanted


def test_the_text_of_statements() -> None:
    pieces = Variable("pieces")
    body = [
        Assign(N, Call("exp", A)),
        For(Tuple([A, B], bare=True), pieces, [Write(Call("exp", A, B), B)]),
        For(A, pieces, []),
        Return(Tuple([A, N])),
    ]
    program = [Cut(pieces, [A, B], {B}, 3), Blank(), Def("run", [A, B], body)]
    assert source_of(rendered(program)) == (
        "pieces = [(a[i : i + 3], b[:3][: 4 - i]) for i in range(0, 4, 3)]\n"
        "\n"
        "def run(a, b):\n"
        "    n = exp(a)\n"
        "    for a, b in pieces:\n"
        "        exp(a, b)\n"
        "    for a in pieces:\n"
        "        pass\n"
        "    return (a, n)\n"
    )


def test_a_section_names_layers_and_shapes_and_lines_their_nodes() -> None:
    graph = record(lambda x: namespace(x).exp(x * 2), np.ones(3))
    double, exponential = graph.nodes
    body = [Assign(A, N, double), Write(Call("exp", A, A), A), Assign(B, A, exponential)]
    lines = rendered([Section(body)])
    assert [line.node for line in lines] == [double, None, exponential]
    assert lines[0].text == f"{'a = n':<48}  # (3,)"
    assert lines[1].text == "exp(a, a)"


def test_templates_are_filled_from_left_to_right() -> None:
    seen = []

    def leaf(place: Any) -> Any:
        seen.append(place)
        return {X: A, Y: B, OUT: N}.get(place, "all")

    template = Call(Attribute(X, "sum"), Kwarg("axis"), None, keepdims=Y, out=Overwrite(OUT, X))
    assert text(filled(template, leaf)) == "a.sum('all', None, keepdims=b, out=n[...] = a)"
    assert seen == [X, Kwarg("axis"), Y, OUT, X]
    assert repr(template.args) == "(axis, None)"
    assert Arg(1) == Y


def test_pieces_take_the_place_of_vectors_and_of_nothing_else() -> None:
    """A vector may be called as a function or a keyword of the library is."""
    length = 1 << 12
    names = ("out", "axis", "multiply")

    def step(out: Any, axis: Any, multiply: Any) -> Any:
        return out, axis, namespace(out).exp(out * axis) * multiply

    backend = backends.get("numpy")
    graph = record(step, *[np.ones(length)] * 3)
    assert tuple(each.label for each in graph.inputs) == names
    graph = applied(graph, into_buffers(backend.lowering))
    kept = dict(zip(map(id, graph.inputs), graph.outputs, strict=True))
    emitter = CallEmitter(graph, backend, [], kept, lowering=backend.lowering)
    (loop,) = tiled(emitter, length // 4)
    (cut,) = emitter.statements[Stage.ONCE]
    assert isinstance(loop, For)
    assert isinstance(cut, Cut)
    assert [v.name for v in cut.vectors] == ["out", "axis", "t0", "multiply_1"]
    assert [v.name for v in cut.reused] == ["t0"]
    assert [line.text for line in rendered([loop])] == [
        "for out_i, axis_i, t0_i, multiply_1_i in pieces:",
        "    multiply(out_i, axis_i, t0_i)",
        "    exp(t0_i, t0_i)",
        "    multiply(t0_i, multiply_1_i, multiply_1_i)",
    ]


def chains_of(step: Any, *arrays: Any) -> tuple[list[str], list[str]]:
    """The lines of a step in which the first array lives on, in chains, and the kernels' texts."""
    backend = backends.get("numpy")
    graph = applied(record(step, *arrays), into_buffers(backend.lowering))
    kept = {id(graph.inputs[0]): graph.outputs[0]}
    emitter = CallEmitter(graph, backend, [], kept, lowering=backend.lowering)
    texts: list[str] = []

    def kernel(inputs: str, outputs: str, text: str, helpers: str) -> Any:
        texts.append(f"{inputs} -> {outputs}: {' '.join(text.split())}")
        return lambda *arrays: None

    return [line.text for line in rendered(chained(emitter, kernel))], texts


def test_a_chain_of_elementwise_calls_is_one_kernel() -> None:
    x = np.ones((4, 4))
    lines, texts = chains_of(lambda x, y: namespace(x).exp(x * y) + x, x, x[0])
    assert lines == ["multiply_exp_add(x, y, x)"]
    assert texts == [
        "float64 x0, float64 x1 -> float64 y0: "
        "double v0 = x0 * x1; double v1 = exp(v0); double v2 = v1 + x0; y0 = v2;"
    ]


def test_a_chain_ends_where_a_thread_would_read_what_another_one_writes() -> None:
    """Elements of a transposed matrix are at other places, before they are written or after."""

    def step(x: Any, y: Any) -> Any:
        a = namespace(x).exp(x * y)
        return (a.mT - a) * y

    x = np.ones((4, 4))
    lines, _ = chains_of(step, x, x)
    assert [line.partition("(")[0] for line in lines] == ["multiply_exp", "subtract_multiply"]
    lines, _ = chains_of(lambda x, y: (x.mT * y) * y, x, x)
    assert [line.partition("(")[0] for line in lines] == ["multiply", "multiply"]
