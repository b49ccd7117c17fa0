"""ONNX files: onnxruntime's answers are those of `predict`, for every row and every layer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import tinynn
from backends import Backend
from tests.networks import INPUTS, X, networks
from tinynn import functional, losses, tree
from tinynn.cli.app import app
from tinynn.layers import BatchNorm, Dropout, Flatten, LayerNorm, Linear, Sequential
from tinynn.trace import namespace
from tinynn.training import Model

onnx = pytest.importorskip("onnx", reason="onnx is installed in the session of NumPy")
runtime = pytest.importorskip("onnxruntime", reason="likewise onnxruntime")

from tinynn.onnx import UnsupportedFunctionError, export  # noqa: E402
from tinynn.onnx.operators import OPERATORS  # noqa: E402

DRAW = np.random.default_rng(5)
FEATURES = DRAW.normal(size=(6, 5)).astype("float32")
ACTIVATIONS = [n for n in functional.__all__ if n not in ("dropout", "linear", "one_hot")]

# For each row of the table a function of (xp, x: (batch, 5)) that calls it.
CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "acos": lambda xp, x: xp.acos(xp.tanh(x)),
    "acosh": lambda xp, x: xp.acosh(1.5 + x * x),
    "all": lambda xp, x: xp.where(xp.all(x > -1, axis=1, keepdims=True), x, 0.0),
    "any": lambda xp, x: xp.where(xp.any(x > 1, axis=1, keepdims=True), x, 0.0),
    "argmax": lambda xp, x: x * xp.astype(xp.argmax(x, axis=1, keepdims=True), x.dtype),
    "argmin": lambda xp, x: x * xp.astype(xp.argmin(x, axis=1, keepdims=True), x.dtype),
    "asin": lambda xp, x: xp.asin(xp.tanh(x)),
    "astype": lambda xp, x: x * xp.astype(x > 0, x.dtype),
    "atanh": lambda xp, x: xp.atanh(xp.tanh(x) / 2),
    "broadcast_to": lambda xp, x: xp.broadcast_to(x[:, None, :], (x.shape[0], 3, 5)),
    "clip": lambda xp, x: xp.clip(x, min=-0.5, max=0.25) + xp.clip(x, max=0.0),
    "concat": lambda xp, x: xp.concat([x, 2 * x], axis=-1),
    "cumulative_sum": lambda xp, x: xp.cumulative_sum(x, axis=1),
    "divide": lambda xp, x: x / 3 + 1 / (2 + x * x),
    "erf": lambda xp, x: functional.gelu(x),
    "expand_dims": lambda xp, x: xp.expand_dims(x, axis=1),
    "expm1": lambda xp, x: xp.expm1(x * 1e-4) + xp.expm1(x),
    "flip": lambda xp, x: xp.flip(x, axis=1),
    "getitem": lambda xp, x: x[:, None, ::-1][..., 1:4] + x[:, -2, None, None] + x[:, 2:3, None],
    "floor_divide": lambda xp, x: x // 0.75,
    "hypot": lambda xp, x: xp.hypot(x, 2 * x),
    "isinf": lambda xp, x: xp.where(xp.isinf(x / xp.where(x > 0, x, 0.0 * x)), 1.0, x),
    "isnan": lambda xp, x: xp.where(xp.isnan(xp.sqrt(x)), 1.0, x),
    "log": lambda xp, x: xp.log(1 + x * x),
    "log10": lambda xp, x: xp.log10(1 + x * x),
    "log2": lambda xp, x: xp.log2(1 + x * x),
    "log1p": lambda xp, x: xp.log1p(x * x),
    "logaddexp": lambda xp, x: xp.logaddexp(x, 2 * x),
    "logical_and": lambda xp, x: xp.where(xp.logical_and(x > -1, x < 1), x, 0.0),
    "logical_not": lambda xp, x: xp.where(xp.logical_not(x > 0), x, 0.0),
    "logical_or": lambda xp, x: xp.where(xp.logical_or(x < -1, x > 1), x, 0.0),
    "logical_xor": lambda xp, x: xp.where(xp.logical_xor(x < -1, x < 1), x, 0.0),
    "logsumexp": lambda xp, x: functional.log_softmax(x),
    "matmul": lambda xp, x: x @ xp.ones((5, 3), dtype=x.dtype),
    "matrix_transpose": lambda xp, x: xp.matrix_transpose(x[:, None, :]),
    "permute_dims": lambda xp, x: xp.permute_dims(x[:, None, :], (0, 2, 1)),
    "pow": lambda xp, x: x**2 + (x * x) ** 0.5,
    "reciprocal": lambda xp, x: xp.reciprocal(2 + x * x),
    "relu": lambda xp, x: functional.relu(x),
    "remainder": lambda xp, x: x % -0.75,
    "reshape": lambda xp, x: xp.reshape(x, (x.shape[0], 5, 1)),
    "sigmoid": lambda xp, x: functional.sigmoid(x),
    "sqrt": lambda xp, x: xp.sqrt(1 + x * x),
    "squeeze": lambda xp, x: xp.squeeze(x[:, None, :], axis=1),
    "stack": lambda xp, x: xp.stack([x, 2 * x], axis=1),
    "std": lambda xp, x: xp.std(x, axis=1),
    "stop_gradient": lambda xp, x: tinynn.stop_gradient(x),
    "take": lambda xp, x: xp.take(x, xp.asarray([3, 0]), axis=1),
    "tril": lambda xp, x: xp.tril(x[:, :, None] * x[:, None, :], k=1),
    "triu": lambda xp, x: xp.triu(x[:, :, None] * x[:, None, :]),
    "trunc": lambda xp, x: xp.trunc(2 * x) + x,
    "var": lambda xp, x: xp.var(x, axis=-1, keepdims=True),
    "vecdot": lambda xp, x: xp.vecdot(x, 2 * x),
    "where": lambda xp, x: xp.where(x > 0, x, 0.0),
}
for (
    _name
) in """abs asinh atan ceil cos cosh exp floor negative ones_like positive round sign sin sinh
    square tan tanh zeros_like""".split():
    CALLS[_name] = lambda xp, x, _name=_name: getattr(xp, _name)(x) + 0.5 * x
for _name in "max mean min prod sum".split():
    CALLS[_name] = lambda xp, x, _name=_name: getattr(xp, _name)(x, axis=1, keepdims=True)
for _name in "equal greater greater_equal less less_equal not_equal".split():
    CALLS[_name] = lambda xp, x, _name=_name: xp.where(getattr(xp, _name)(x, xp.round(x)), x, 0.0)
for _name in "add maximum minimum multiply subtract".split():
    CALLS[_name] = lambda xp, x, _name=_name: getattr(xp, _name)(x, 2 - x)


def samples(example: Any, count: int) -> Any:
    """Others like these, so many."""

    def draw(array: np.ndarray) -> np.ndarray:
        shape = (count, *array.shape[1:])
        if array.dtype.kind == "i":
            return DRAW.integers(0, 7, size=shape)
        return DRAW.normal(size=shape).astype("float32")

    return tree.map(draw, example)


def assert_same_answers(model: Model, example: Any, path: Path) -> None:
    """onnxruntime's answers are the model's, for batches of 1, 7 and 256."""
    export(model, path, example)
    session = runtime.InferenceSession(path)
    names = [value.name for value in session.get_outputs()]
    model = model.to("numpy", dtype="float32")
    for count in (1, 7, 256):
        x = samples(example, count)
        fed = {i.name: a for i, a in zip(session.get_inputs(), tree.leaves(x), strict=True)}
        found = dict(zip(names, session.run(None, fed), strict=True))
        with np.errstate(all="ignore"):
            expected = dict(tree.paths({"output": model.outputs(x)}))
            if "probabilities" in found:
                expected["probabilities"] = model.predict_proba(x)
        assert len(found) == len(expected)
        for name, value in expected.items():
            ours = found[name.removeprefix("output.")]
            assert (ours.shape, ours.dtype) == (value.shape, value.dtype)
            np.testing.assert_allclose(ours, value, rtol=1e-5, atol=1e-5)


def initialized(net: Any, example: Any, **settings: Any) -> Model:
    inputs = example if isinstance(example, tuple) else (example,)
    return Model(net, *net.init(3, *inputs), **settings)


def test_every_row_is_called_here() -> None:
    assert CALLS.keys() == OPERATORS.keys()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the NaN and infinity that are asked for
@pytest.mark.parametrize("name", sorted(CALLS))
def test_every_row(name: str, tmp_path: Path) -> None:
    def layer(x: Any) -> Any:
        return CALLS[name](namespace(x), x)

    net = Sequential(Linear(5), layer)
    model = initialized(net, FEATURES)
    params, state = model.params, model.state
    graph = tinynn.record(lambda x: net(params, x), FEATURES)
    assert not state
    assert name in {node.name for node in graph.nodes}, "the case does not call it"
    assert_same_answers(model, FEATURES, tmp_path / "model.onnx")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation(name: str, tmp_path: Path) -> None:
    net = Sequential(Linear(3), getattr(functional, name))
    assert_same_answers(initialized(net, FEATURES), FEATURES, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "net",
    [
        Sequential(Linear(3), BatchNorm(), Linear(2, bias=False)),
        Sequential(LayerNorm(), Dropout(0.5), Linear(2)),
    ],
    ids=str,
)
def test_every_layer(net: Any, tmp_path: Path) -> None:
    assert_same_answers(initialized(net, FEATURES), FEATURES, tmp_path / "model.onnx")


def test_axes_of_images(tmp_path: Path) -> None:
    images = DRAW.normal(size=(2, 4, 4, 3)).astype("float32")
    model = initialized(Sequential(Flatten(), Linear(2)), images)
    assert_same_answers(model, images, tmp_path / "model.onnx")


@pytest.mark.parametrize("loss", [losses.SoftmaxCrossEntropy(), losses.BinaryCrossEntropy(),
                                  losses.SquaredError()], ids=str)  # fmt: skip
def test_every_head(loss: Any, tmp_path: Path) -> None:
    model = initialized(Linear(1 if "Binary" in str(loss) else 3), FEATURES, loss=loss)
    assert_same_answers(model, FEATURES, tmp_path / "model.onnx")


@pytest.mark.parametrize("name", networks())
def test_networks_of_the_users_own(name: str, tmp_path: Path) -> None:
    example = INPUTS.get(name, X)
    assert_same_answers(
        initialized(networks(rate=0.3)[name], example), example, tmp_path / "model.onnx"
    )


def test_names_and_metadata(tmp_path: Path) -> None:
    net = Sequential(Linear(4), BatchNorm(), functional.tanh, Linear(2))
    model = initialized(net, FEATURES, columns=("a", "b", "c", "d", "e"))
    export(model, tmp_path / "model.onnx")  # without an example: it begins with a Linear layer
    proto = onnx.load(tmp_path / "model.onnx")
    names = {each.name for each in proto.graph.initializer}
    assert {"0.weight", "0.bias", "1.mean", "3.weight"} <= names
    assert proto.graph.node[0].name == "0/MatMul_0"
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    ((key, text),) = [(each.key, each.value) for each in proto.metadata_props]
    assert key == "tinynn"
    assert json.loads(text)["columns"] == list("abcde")


def test_the_dtype_of_the_model(tmp_path: Path) -> None:
    model = initialized(Linear(2), FEATURES)
    model = model.to("numpy", dtype="float64")
    export(model, tmp_path / "model.onnx", dtype=None)
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    x = FEATURES.astype("float64")
    np.testing.assert_allclose(session.run(None, {"X": x})[0], model.predict(x), rtol=1e-12)


@pytest.mark.reads_scalars
def test_models_of_every_library(backend: Backend, tmp_path: Path) -> None:
    model = initialized(Sequential(Linear(3), functional.relu), FEATURES).to(backend)
    export(model, tmp_path / "model.onnx", FEATURES)
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    expected = backend.to_host(model.predict(backend.asarray(FEATURES)))
    np.testing.assert_allclose(session.run(None, {"X": FEATURES})[0], expected, atol=1e-6)


# What cannot be exported, and nothing is written.


def refused(net: Any, *arguments: Any, path: Path, example: Any = FEATURES) -> str:
    path.write_bytes(b"as it was")
    with pytest.raises(ValueError, match=r"^onnx\.export: ") as caught:
        export(initialized(net, example), path, *arguments)
    assert path.read_bytes() == b"as it was"
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    return str(caught.value)


def test_a_function_without_an_operator(tmp_path: Path) -> None:
    def sorts(x: Any) -> Any:
        return namespace(x).sort(x, axis=-1)

    said = refused(Sequential(Linear(2), sorts), path=tmp_path / "model.onnx")
    assert "layer 1, sorts" in said
    assert "got sort" in said
    with pytest.raises(UnsupportedFunctionError):
        export(initialized(Sequential(sorts), FEATURES), tmp_path / "model.onnx", FEATURES)


def test_a_layer_that_reads_values(tmp_path: Path) -> None:
    def branches(x: Any) -> Any:
        return x if namespace(x).sum(x) > 0 else -x

    refused(Sequential(Linear(2), branches), path=tmp_path / "model.onnx")


def test_samples_are_asked_for(tmp_path: Path) -> None:
    said = refused(Sequential(functional.relu), path=tmp_path / "model.onnx")
    assert "expected X" in said


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no"):
        export(initialized(Linear(1), FEATURES), tmp_path / "no" / "model.onnx")


def test_the_page_lists_the_table() -> None:
    page = (Path(__file__).parents[1] / "docs" / "onnx.md").read_text()
    listed = page.partition("functions of the standard: ")[2].partition(", and indices")[0]
    public = OPERATORS.keys() - {"erf", "getitem", "logsumexp", "relu", "sigmoid", "stop_gradient"}
    assert [name.strip("`") for name in listed.split(", ")] == sorted(public)


def test_the_command(tmp_path: Path) -> None:
    saved, out = tmp_path / "model.safetensors", tmp_path / "model.onnx"
    model = initialized(Linear(2), FEATURES)
    model.save(saved)
    done = CliRunner().invoke(app, ["export", str(saved), "--out", str(out)])
    assert done.exit_code == 0, done.output
    found = runtime.InferenceSession(out).run(None, {"X": FEATURES})[0]
    np.testing.assert_allclose(found, model.predict(FEATURES), atol=1e-6)
    out.rename(tmp_path / "model.txt")
    done = CliRunner().invoke(app, ["export", str(saved), "--out", str(tmp_path / "model.txt")])
    assert done.exit_code == 2
    assert "--force" in done.output
