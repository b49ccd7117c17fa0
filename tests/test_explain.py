"""explain: each call of a training step in one line, whose code and value are those of the step."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import backends
import tinynn
from tests.explained import (
    CLASSES,
    MIXED,
    OPTIMIZERS,
    XOR,
    XOR_X,
    XOR_Y,
    Y,
    assert_true,
    assert_whole,
    explained,
    mixed,
)
from tests.networks import INPUTS, X, networks
from tinynn import checkpoint, grad, tree, vmap
from tinynn.explanation.description import describe
from tinynn.explanation.lines import Line
from tinynn.explanation.numbers import rows_of
from tinynn.explanation.page import page
from tinynn.explanation.text import text
from tinynn.functional import relu, sigmoid
from tinynn.initializers import glorot_uniform
from tinynn.layers import Dropout, Layer, Linear, Sequential
from tinynn.losses import BinaryCrossEntropy, SoftmaxCrossEntropy, SquaredError
from tinynn.optim import (
    SGD,
    Adam,
    CosineDecay,
    Groups,
)
from tinynn.trace import Function, namespace
from tinynn.transforms.record import RecordingError, record

HERE = Path(__file__).parent


# Every call, once, in order.


@pytest.mark.parametrize("name", networks())
def test_drawn_networks_are_explained_whole_and_truly(name: str) -> None:
    step = explained(name, values=True)
    assert_whole(step)
    assert assert_true(step) > len(step.description.shown) / 2
    shown = [each.name for each in step.lines]
    assert all(re.fullmatch(r"[^\W\d]\w*", each) for each in shown)
    assert len(set(shown)) == len(shown)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_each_optimizer_is_a_line_for_each_parameter(optimizer: Any) -> None:
    step = mixed(optimizer=optimizer, values=True)
    assert_whole(step)
    assert_true(step)
    updated = [each.name for each in step.lines if each.key[0] == "update"]
    paths = [path for path, _ in tree.paths(MIXED.init(0, X)[0])]
    if isinstance(optimizer, Groups):
        paths = [path for path in paths if path.startswith("0.")]
    assert updated == ["_".join(reversed(path.split("."))) for path in paths]
    assert all(each.formula for each in step.lines if each.key[0] == "update")
    # They are the parameters after a step of fit.
    model = tinynn.fit(
        MIXED, X, CLASSES, loss=SoftmaxCrossEntropy(), optimizer=optimizer, epochs=1,
        batch_size=None, shuffle=False, engine="eager", seed=0,
    )  # fmt: skip
    after = dict(tree.paths(model.params))
    for path, each in zip(paths, [s for s in step.lines if s.key[0] == "update"], strict=True):
        np.testing.assert_allclose(each.value, after[path], rtol=1e-9)


@pytest.mark.reads_scalars
def test_values_are_those_of_the_graph_on_every_library(backend: backends.Backend) -> None:
    net = Sequential(Linear(3), sigmoid, Dropout(0.5), Linear(2))
    x = backend.asarray(X, "float32")
    step = tinynn.explain(net, x, backend.asarray(CLASSES), optimizer=Adam(), values=True)
    assert_whole(step)
    values = {id(each.result): each.value for each in step.lines if each.value is not None}
    leaves = [leaf for leaf in tree.leaves(step._arguments) if hasattr(leaf, "dtype")]
    seen = []

    def compare(node: Any, value: Any) -> None:
        if id(node) in values:
            np.testing.assert_array_equal(values[id(node)], backend.to_host(value))
            seen.append(node)

    with backend.scope():
        step.graph.run(leaves, compare)
    assert len(seen) == len(values) == len(step.lines)
    assert [each.name for each in step.description.shown] == [
        *("h0", "h1", "mask_2", "h2", "prediction", "loss"),
        *("prediction_grad", "bias_3_grad", "h2_grad", "weight_3_grad", "h1_grad", "h0_grad"),
        *("bias_0_grad", "weight_0_grad", "weight_0", "bias_0", "weight_3", "bias_3"),
    ]


def test_a_schedule_gives_the_learning_rate() -> None:
    step = tinynn.explain(XOR, XOR_X, XOR_Y, loss="mse", optimizer=SGD(CosineDecay(0.1, steps=9)))
    assert "weight_0 = weight_0 - learning_rate * weight_0_grad" in str(step)
    assert "step, learning_rate = count(step)" in step.text("all")
    step = tinynn.explain(XOR, XOR_X, XOR_Y, loss="mse", optimizer=Adam())
    assert "\nstep = step + 1 " in step.text("all")


def remembers(x: Any) -> Any:
    xp = namespace(x)
    return checkpoint(lambda z: xp.tanh(xp.sin(z)) * 2.0)(x)


def indexes(x: Any) -> Any:
    return x[:, 0:1] * x[..., 1][:, None] + x[::2, :][0, ...]


def maps(x: Any) -> Any:
    return vmap(lambda row: namespace(row).exp(-row) * namespace(row).sum(row))(x)


def sorts(x: Any) -> Any:
    xp = namespace(x)
    return xp.sort(x, axis=1) + xp.cumulative_sum(x, axis=1) + xp.max(x, axis=0)


def differentiates(x: Any) -> Any:
    return grad(lambda z: namespace(z).sum(z**3))(x)


def chooses(x: Any) -> Any:
    xp = namespace(x)
    return xp.where(x > 0, x, xp.zeros_like(x)) + xp.clip(x, -1, 1) + xp.std(x, axis=0)


def turns(x: Any) -> Any:
    xp = namespace(x)
    return xp.real(xp.fft.fft(x)) + xp.linalg.qr(x)[0]


@pytest.mark.parametrize(
    "function", [remembers, indexes, maps, sorts, differentiates, chooses, turns]
)
def test_functions_of_all_kinds_are_explained(function: Any) -> None:
    net = Sequential(Linear(3), function, Linear(2))
    step = tinynn.explain(net, X, Y, values=True)
    assert_whole(step)
    assert assert_true(step) > 10
    assert "def run(" in step.program
    assert all(line.value is not None for line in step.lines if line.dtype is not None)


def test_numbers_that_a_function_is_given_are_in_its_line() -> None:
    step = tinynn.explain(Sequential(Linear(3), chooses, Linear(2)), X, Y)
    assert "= clip(h0, -1, 1)" in str(step)
    assert "= std(h0, axis=0)" in str(step)


def test_a_mean_is_one_line() -> None:
    step = explained("encoder", values=True)
    found = {line.name: (line.code, line.formula) for line in step.lines}
    assert found["h1"] == ("mean(h0, axis=1)", "y = Σ x / n")
    assert found["loss"][0].startswith("mean(t")
    assert found["loss"][1] == "y = Σ x / n"


# Text.


def test_the_explanation_of_xor() -> None:
    step = tinynn.explain(XOR, XOR_X, XOR_Y, loss=SquaredError(), optimizer=SGD(1.0))
    found = "\n".join(step.text(detail) for detail in ("lines", "all", "calls"))
    assert found == (HERE / "xor_explanation.txt").read_text()
    assert str(step) == repr(step) == step.text("lines")
    assert f"```text\n{step}```" in (HERE.parent / "docs" / "explain.md").read_text()


def test_dropout_is_one_line() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(32, 64)), draw.integers(0, 10, size=32)
    net = Sequential(Linear(100), relu, Dropout(0.1), Linear(10))
    step = tinynn.explain(net, x, y, optimizer=Adam())
    assert len(step.graph.nodes) > 380
    lines = [line for line in str(step).splitlines() if not line.startswith("#")]
    assert len(lines) == 18
    (mask,) = (line for line in lines if "dropout_mask" in line)
    assert mask.startswith("mask_2 = dropout_mask(key)")
    assert str(step).splitlines()[-1] == (
        "# 18 lines for 394 calls, 375 are folded into 13 of them, 14 of views and set-up are left "
        "out"
    )
    assert len(step.text("calls").splitlines()) > 390


def test_the_program_is_the_emitted_one() -> None:
    step = mixed(detail="program")
    assert str(step) == step.program
    assert "def run(" in str(step)
    assert "# layer 0, Linear(3), backward" in str(step)


@pytest.mark.parametrize(
    ("loss", "formula", "slope"),
    [
        (SquaredError(), "L = mean((p - t)²)", "∂L/∂p = 2 (p - t) / n"),
        (SquaredError(reduction="half_sum"), "L = ½ Σ ((p - t)²)", "∂L/∂p = (p - t)"),
        (BinaryCrossEntropy(reduction="sum"), "L = Σ (-t log σ(p)", "∂L/∂p = (σ(p) - t)"),
    ],
    ids=str,
)
def test_formulas_of_losses(loss: Any, formula: str, slope: str) -> None:
    net = Sequential(Linear(4), sigmoid, Linear(1))
    step = tinynn.explain(net, XOR_X, XOR_Y, loss=loss, values=True)
    (line,) = (each for each in step.lines if each.name == "loss")
    (back,) = (each for each in step.lines if each.name == "prediction_grad")
    assert line.formula.startswith(formula)
    assert back.formula == slope
    p, t = (next(e.value for e in (*step.lines, *step.description.given) if e.name == name)
            for name in ("prediction", "y"))  # fmt: skip
    n = p.size if loss.reduction == "mean" else 1
    said = slope.partition("= ")[2].replace("2 (", "2 * (").replace("σ(p)", "(1 / (1 + exp(-p)))")
    assert back.value == pytest.approx(eval(said, {"p": p, "t": t, "n": n, "exp": np.exp}))


def test_state_is_in_the_line_that_makes_it() -> None:
    line = "h1, mean_1, var_1 = batch_norm(h0, weight_1, bias_1, mean_1, var_1)"
    assert line in str(mixed())


def test_numbers_are_short_and_aligned() -> None:
    large = np.arange(10000.0).reshape(100, 100) - 0.25
    assert rows_of(large) == [
        "-0.25   0.75   1.75   2.75   3.75   4.75  ...",
        "  ".join(f"{cell:>5}" for cell in "99.8 101 102 103 104 105".split()) + "  ...",
        "  ".join(f"{cell:>5}" for cell in "200 201 202 203 204 205".split()) + "  ...",
        "  ".join(f"{cell:>5}" for cell in "300 301 302 303 304 305".split()) + "  ...",
        "...",
        "min -0.25  mean 5e+03  max 1e+04",
    ]
    assert rows_of(np.asarray([-0.0, 1e-30, np.nan])) == ["0  1e-30  nan"]
    assert rows_of(np.asarray(2.0)) == ["2"]
    assert rows_of(np.zeros((0, 3))) == ["empty"]
    assert rows_of(np.ones((50, 2), dtype=bool))[-1] == "100% True"
    broken = np.ones(50)
    broken[3] = np.inf
    assert rows_of(broken)[-1] == "min 1  mean inf  max inf  (1 of 50 not finite)"


# Graphs inside of calls.


def test_a_graph_inside_of_a_call_is_nested() -> None:
    body = record(lambda carry: namespace(carry).tanh(carry) * 2.0, X)
    twice = Function("repeat", lambda x, *, body, times: x)
    graph = record(lambda x: twice(x, body=body, times=2) + 1.0, X)
    description = describe(graph)
    first, _ = description.lines
    assert first.code == "tests.test_explain.repeat(x, body=<lambda>, times=2)"
    assert [f"{part.name} = {part.code}" for part in first.parts] == [
        "body.v0 = tanh(body.carry)",
        "body.v1 = body.v0 * 2.0",
    ]
    starts = [row.partition(" =")[0] for row in text(description, "calls").splitlines()[2:-1]]
    assert starts == [first.name, "body.v0", "body.v1", description.lines[1].name]
    assert "body.v1 = " in re.sub("<.*?>", "", page(description))


class Recurrent(Layer):
    """tanh(x @ weight + h @ recurrent), along the second axis; the last of it."""

    def forward(self, scope: Any, x: Any) -> Any:
        xp = namespace(x)
        weight = scope.param("weight", glorot_uniform, (x.shape[-1], 4))
        recurrent = scope.param("recurrent", glorot_uniform, (4, 4))
        xs = xp.permute_dims(x, (1, 0, 2))
        start = xp.zeros_like(xs[0, :, :] @ weight)
        return tinynn.scan(lambda h, x: (xp.tanh(x @ weight + h @ recurrent), None), start, xs)[0]


def test_loops_and_branches_are_explained() -> None:
    step = tinynn.explain(Sequential(Recurrent(), Linear(2)), INPUTS["encoder"], Y, values=True)
    assert_whole(step)
    shown = {line.name: line for line in step.description.shown}
    (loop,) = (line for line in shown.values() if line.kind == "forward" and "scan(" in line.code)
    assert "body.v3 = tanh(body.v2)" in [f"{p.name} = {p.code}" for p in loop.parts]
    assert shown["h0"].code == f"{loop.name}[0]"
    assert shown["recurrent_0_grad"].heading == "layer 0, Recurrent(), backward"
    assert shown["recurrent_0_grad"].value.shape == (4, 4)

    def halves(x: Any) -> Any:
        xp = namespace(x)
        return tinynn.cond(xp.sum(x) > 0, xp.tanh, lambda z: z * 0.5, x)

    step = tinynn.explain(Sequential(Linear(3), halves, Linear(2)), X, Y, values=True)
    assert_whole(step)
    text = step.text("calls")
    assert "otherwise.v0 = otherwise.x0 * 0.5" in text
    assert "h1 = t3[0]" in text
    assert "h0_grad = " in step.text()


# What comes from outside.


class Odd(Layer):
    """A layer whose child has a name that HTML would read."""

    def forward(self, scope: Any, x: Any) -> Any:
        return scope('<b>"&', Linear(1), x)

    def __repr__(self) -> str:
        return "Odd(</script><script>failed()</script>$title)"


def test_names_from_outside_are_escaped() -> None:
    step = tinynn.explain(Odd(), X, Y[:, 0], values=True)
    ElementTree.fromstring(step.svg)
    assert "<script>failed" not in step.html
    assert "<b>" not in step.html
    assert "&lt;/script&gt;&lt;script&gt;failed()&lt;/script&gt;$title" in step.html
    assert step._repr_html_().count("<") == 2  # of the frame: all else is in its attribute


def test_a_model_explains_itself() -> None:
    model = tinynn.fit(XOR, XOR_X, XOR_Y, loss="mse", epochs=2)
    of_model = tinynn.explain(model, XOR_X, XOR_Y, values=True)
    of_net = tinynn.explain(XOR, XOR_X, XOR_Y, loss=model.loss, params=model.params, values=True)
    assert str(of_model) == str(of_net)


@pytest.mark.parametrize("names", [("a", "b"), (0, 1)])
def test_columns_of_frames_by_name(names: tuple[Any, Any]) -> None:
    import pandas

    first, second = names
    frame = pandas.DataFrame({first: [1.0, 3.0, 5.0], second: [2.0, 4.0, 7.0]})
    turned = pandas.DataFrame({second: [2.0, 4.0, 7.0], first: [1.0, 3.0, 5.0]})
    model = tinynn.fit(Linear(1), frame, [0.0, 1.0, 2.0], epochs=1)
    assert model.columns == tuple(map(str, names))
    np.testing.assert_array_equal(model.predict(turned), model.predict(frame))
    steps = [tinynn.explain(model, each, [0.0, 1.0, 2.0], values=True) for each in (frame, turned)]
    assert str(steps[0]) == str(steps[1])


# Files and bad input.


def test_files_by_their_endings(tmp_path: Path) -> None:
    step = tinynn.explain(XOR, XOR_X, XOR_Y, loss="mse")
    for name, start in {"a.txt": "# Seq", "a.svg": "<svg", "a.html": "<!doctype html>"}.items():
        step.save(tmp_path / name)
        assert (tmp_path / name).read_text("utf-8").startswith(start)
    for name, start in {"a.png": b"\x89PNG", "a.pdf": b"%PDF"}.items():
        step.save(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(ValueError, match=r"ends in \.txt, .*\.html, got .*a\.gif"):
        step.save(tmp_path / "a.gif")
    assert not (tmp_path / "a.gif").exists()


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="explain: detail: expected one of 'lines', 'all'"):
        tinynn.explain(XOR, XOR_X, XOR_Y, detail="more")
    step = tinynn.explain(XOR, XOR_X, XOR_Y, loss="mse")
    with pytest.raises(ValueError, match="explain: detail: expected one of"):
        step.text("everything")

    def branches(prediction: Any, target: Any) -> Any:
        error = namespace(prediction).mean((prediction - target) ** 2)
        return error if error > 1 else 2 * error

    with pytest.raises(RecordingError, match=r"write xp\.where"):
        tinynn.explain(XOR, XOR_X, XOR_Y, loss=branches)
    with pytest.raises(TypeError, match="fit: net: expected a layer"):
        tinynn.explain(Linear, XOR_X, XOR_Y, loss="mse")


def test_lines_are_public() -> None:
    step = tinynn.explain(XOR, XOR_X, XOR_Y, loss="mse", values=True)
    first: Line = step.lines[0]
    assert (first.kind, first.place) == ("forward", "layer 0, Linear(4, bias=False)")
    assert (first.name, first.code, first.formula) == ("h0", "x @ weight_0", "y = x W")
    assert (first.shape, str(first.dtype)) == ((4, 4), "float64")
    assert (first.takes, len(first.nodes), first.hidden) == (("x", "weight_0"), 1, False)
