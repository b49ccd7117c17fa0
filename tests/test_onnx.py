"""ONNX: every layer, function and head answers in onnxruntime as it does here."""

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_close
from tests.command_line import run, train_model, write_flowers
from tests.networks import networks
from tests.onnx_files import ELSEWHERE, assert_same, exported, made, session
from tinynn import functional, losses, tree
from tinynn.functional import activations, piecewise
from tinynn.layers import (
    BatchNorm,
    Dropout,
    Flatten,
    Layer,
    LayerNorm,
    Linear,
    Sequential,
    Temperature,
    sequences,
    spatial,
)
from tinynn.onnx import OnnxError
from tinynn.onnx.rows import ROWS
from tinynn.trace import namespace
from tinynn.training import Model

DRAW = np.random.default_rng(7)
X = DRAW.normal(size=(4, 5))
IDS = DRAW.integers(0, 7, size=(4, 3))
INPUTS: dict[str, Any] = {
    "two inputs": {"image": X, "text": DRAW.normal(size=(4, 2))},
    "siamese": (X, DRAW.normal(size=(4, 5))),
    "encoder": DRAW.normal(size=(4, 3, 4)),
    "embedding": IDS,
    "residual": X[:, :3],
}
LAYERS: dict[str, Any] = {
    "linear": Linear(3),
    "without bias": Linear(3, bias=False),
    "batch norm": BatchNorm(),
    "layer norm": LayerNorm(),
    "dropout": Dropout(0.5),
    "flatten": Flatten(),
    "temperature": Temperature(1.5),
}
# Every functional that makes an array of one array.
ACTIVATIONS = {*activations.__all__, *piecewise.__all__}
#: Losses of classes, whose head is exported, with the shape of what they take.
HEADS = {
    "softmax": (losses.SoftmaxCrossEntropy(), 3),
    "binary": (losses.BinaryCrossEntropy(), 1),
    "labels": (losses.BinaryCrossEntropy(), 3),
    "likelihood": (losses.NegativeLogLikelihood(), 3),
    "divergence": (losses.KLDivergence(), 3),
    "focal": (losses.SoftmaxFocal(), 3),
    "binary focal": (losses.BinaryFocal(), 1),
}
#: Losses of numbers that the output stands for.
ESTIMATES = {"counts": (losses.Poisson(), 2), "means": (losses.GaussianNLL(), 4)}


@pytest.mark.parametrize("name", networks())
def test_networks_of_a_users_own_layers(name, tmp_path):
    x = INPUTS.get(name, X)
    model = made(networks()[name], x)
    assert_same(exported(model, tmp_path, x), model, x)


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 5)])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer(name, shape, tmp_path):
    x = DRAW.normal(size=shape)
    model = made(Sequential(Linear(5), LAYERS[name], Linear(2)), x)
    assert_same(exported(model, tmp_path, x), model, x)


def test_no_layer_is_left_out():
    kinds = {type(layer) for layer in LAYERS.values()} | {Sequential}
    others = {getattr(tinynn.layers, name) for name in spatial.__all__}  # test_convolution.py
    others |= {getattr(tinynn.layers, name) for name in ELSEWHERE}
    # test_transformer.py and test_onnx_loops.py
    others |= {getattr(tinynn.layers, name) for name in sequences.__all__}
    assert kinds | others == set(tinynn.layers._LAYERS)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_functional(name, tmp_path):
    net = Sequential(Linear(6), getattr(functional, name))
    model = made(net, X)
    assert_same(exported(model, tmp_path, X), model, X)
    # And of large inputs, without overflow.
    wide = Model(net, tree.map(lambda a: 30 * a, model.params))
    assert_same(exported(wide, tmp_path, X), wide, X)


def test_one_hot_and_a_linear_of_the_users_own(tmp_path):
    def counted(ids):
        hot = functional.one_hot(ids, 7, np.float32)
        return functional.linear(hot, np.full((7, 2), 0.5, dtype=np.float32))

    model = Model(counted, {})
    assert_same(exported(model, tmp_path, IDS), model, IDS)


def test_integers(tmp_path):
    weight, bias = np.arange(6).reshape(3, 2), np.arange(2)
    model = Model(lambda ids: ids @ weight + bias, {})
    assert_same(exported(model, tmp_path, IDS), model, IDS)


@pytest.mark.parametrize("name", {**HEADS, **ESTIMATES})
def test_every_head_is_exported(name, tmp_path):
    loss, width = {**HEADS, **ESTIMATES}[name]
    last = (functional.log_softmax,) if name == "likelihood" else ()
    model = made(Sequential(Linear(8), functional.relu, Linear(width), *last), X, loss=loss)
    head = "estimate" if name in ESTIMATES else "probabilities"
    method = model.predict if name in ESTIMATES else model.predict_proba
    runs = exported(model, tmp_path)
    assert [each.name for each in runs.get_outputs()] == ["output", head]
    for rows in (1, 7, 256):
        x = DRAW.normal(size=(rows, 5)).astype(np.float32)
        found = runs.run(["output", head], {"input": x})
        for there, here in zip(found, (model.outputs(x), method(x)), strict=True):
            np.testing.assert_allclose(there, here, atol=1e-5, rtol=1e-5)


def test_every_loss_is_there_as_a_head():
    for table, method in ((HEADS, "probabilities"), (ESTIMATES, "estimate")):
        kinds = set(losses.NAMES.values())
        own = {k for k in kinds if getattr(k, method) is not getattr(losses.Loss, method)}
        assert {type(loss) for loss, _ in table.values()} == own


@pytest.mark.parametrize("loss", [losses.SquaredError(), None, lambda p, t: ((p - t) ** 2).mean()])
def test_losses_of_numbers_have_no_head(loss, tmp_path):
    runs = exported(made(Linear(2), X, loss=loss), tmp_path)
    assert [each.name for each in runs.get_outputs()] == ["output"]


# --- the table


def rows_of(xp: Any, x: Any, y: Any, ids: Any) -> dict[str, Any]:
    """A call, or several, for rows of the table. x, y: (batch, 3, 4); ids: (batch, 3)."""
    small, on = x * 0.2, x > 0.1
    whole = xp.astype(x * 3, xp.int32)
    return {
        **{name: getattr(xp, name)(x) for name in (
            "abs asinh atan ceil cos cosh exp expm1 floor negative positive round sign sin sinh "
            "sqrt square tan tanh trunc reciprocal isnan isinf isfinite matrix_transpose"
        ).split()},
        **{name: getattr(xp, name)(small) for name in ("acos", "asin", "atanh", "log1p")},
        **{name: getattr(xp, name)(x * x + 1.0) for name in "acosh log log2 log10".split()},
        **{name: getattr(xp, name)(x, y) for name in (
            "add subtract multiply divide maximum minimum equal not_equal greater greater_equal "
            "less less_equal hypot logaddexp floor_divide remainder vecdot"
        ).split()},
        **{name: getattr(xp, name)(on, y > 0.0) for name in
           ("logical_and", "logical_or", "logical_xor")},
        **{name: getattr(xp, name)(whole, whole + 1) for name in
           ("bitwise_and", "bitwise_or", "bitwise_xor")},
        "pow": (x * x) ** 1.5, "logical_not": ~on, "bitwise_invert": ~whole,
        "bitwise_xor of booleans": on ^ (y > 0.0), "number": 2.0 - x,
        "mixed": whole + xp.astype(whole, xp.int64), "matmul": x @ xp.matrix_transpose(y),
        "clip": xp.clip(x, -0.5, 0.5), "clip low": xp.clip(x, 0.0, None),
        "where": xp.where(on, x, y), "where number": xp.where(on, x, 0.0),
        "astype": xp.astype(on, xp.int8), "truncated": whole,
        **{f"{name} {axis}": getattr(xp, name)(x, axis=axis, keepdims=axis == 2)
           for name in "sum prod mean max min".split() for axis in (1, 2, (1, 2), -1)},
        "sum of integers": xp.sum(whole, axis=1), "mean of the batch": xp.mean(x, axis=0),
        "sum of all": xp.sum(x), "var": xp.var(x, axis=-1), "std": xp.std(x, axis=1, correction=1),
        "all": xp.all(on, axis=1), "any": xp.any(on, axis=2, keepdims=True),
        "count_nonzero": xp.count_nonzero(on, axis=1), "argmin": xp.argmin(x, axis=1),
        "argmax": xp.argmax(x, axis=-1, keepdims=True), "argmax of all": xp.argmax(x),
        "cumulative_sum": xp.cumulative_sum(x, axis=1),
        "vector_norm": xp.linalg.vector_norm(x, axis=-1),
        "norm of ones": xp.linalg.vector_norm(x, axis=-1, ord=1),
        "reshape": xp.reshape(x, (-1, 2)), "flattened": xp.reshape(x, (x.shape[0] * 12,)),
        "expand_dims": xp.expand_dims(x, axis=1), "squeeze": xp.squeeze(x[:, :1, :], axis=1),
        "permute_dims": xp.permute_dims(x, (2, 0, 1)), "moveaxis": xp.moveaxis(x, 0, -1),
        "concat": xp.concat([x, y], axis=1), "concat flat": xp.concat([x, y], axis=None),
        "of two batches": xp.concat([x, y], axis=0), "stack": xp.stack([x, y], axis=-1),
        "unstack": xp.unstack(x, axis=1)[1], "broadcast_to": xp.broadcast_to(x[:, :1, :], x.shape),
        "zeros_like": xp.zeros_like(x) + 1.0, "ones_like": xp.ones_like(x),
        "full_like": xp.full_like(x, 2.5), "flip": xp.flip(x, axis=1), "flip all": xp.flip(x),
        "tile": xp.tile(x, (1, 2, 1)), "tril": xp.tril(x), "triu": xp.triu(x, k=1),
        "take": xp.take(x, ids[0, :], axis=1), "taken": xp.take(y[0, 0, :], ids[0, :], axis=0),
        "take_along_axis": xp.take_along_axis(x, xp.expand_dims(ids, axis=2), axis=2),
        "sort": xp.sort(x, axis=1),
        "argsort": xp.astype(xp.argsort(x, axis=-1, descending=True), x.dtype),
        "dynamic_slice": functional.dynamic_slice(x, ids[0, 0], 2, axis=1),
        "dynamic_update_slice": functional.dynamic_update_slice(x, y[:, :1, :], ids[0, 1], axis=1),
        "outer": xp.linalg.outer(x[:, 0, 0], y[0, 0, :]), "det": xp.linalg.det(x[:, :, :3]),
        "column": x[:, 0, 1], "from the end": x[..., -1], "slice": x[:, 1:, ::2],
        "backwards": x[:, ::-1, :], "new": x[:, None, 0, ..., None], "first row": x[0, ...],
        "but one": x[1:, ...] if x.shape[0] > 1 else x[:0, ...], "array": x[:, ids[0, :], :],
        "rows": x.shape[0] * xp.ones_like(x),
    }  # fmt: skip


def calls(inputs: Any) -> dict[str, Any]:
    x, y, ids = inputs["x"], inputs["y"], inputs["z"]
    return rows_of(namespace(x, y, ids), x, y, ids)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of square roots that are NaN here too
def test_rows_of_the_table(tmp_path):
    x = {"x": DRAW.normal(size=(4, 3, 4)).astype(np.float32)}
    x |= {"y": DRAW.normal(size=(4, 3, 4)).astype(np.float32), "z": IDS % 3}
    model = Model(calls, {})
    assert_same(exported(model, tmp_path, x), model, x, rows=(2, 7, 256))
    names = {name.partition(" ")[0] for name in calls(x)}
    other = set(
        """erf fill first_maximum getitem item logsumexp relu sigmoid stop_gradient""".split()
    )
    other |= {"conv", "scan", "cond", "while_loop"}  # test_convolution.py, test_onnx_loops.py
    assert ROWS.keys() - other <= names, "a row without a test"


def test_numbers_keep_their_digits(tmp_path):
    model = Model(lambda x: namespace(x).stack([namespace(x).expm1(x), namespace(x).log1p(x)]), {})
    x = np.asarray([[1e-6], [-1e-5], [3e-4], [0.4], [0.6], [20.0]], dtype=np.float32)
    (found,) = exported(model, tmp_path, x).run(None, {"input": x})
    np.testing.assert_allclose(found, model.predict(x), rtol=1e-6)


# --- the file


def test_what_the_file_says(tmp_path):
    net = Sequential(Linear(4), functional.relu, Linear(3))
    model = made(net, X, loss=losses.SoftmaxCrossEntropy(), columns=tuple("abcde"))
    runs = exported(model, tmp_path)
    said = runs.get_modelmeta().custom_metadata_map
    assert said["tinynn"] == "Sequential(Linear(4), relu, Linear(3))"
    assert tinynn.layers.from_config(json.loads(said["network"])) == net
    assert json.loads(said["columns"]) == list("abcde")
    (given,) = runs.get_inputs()
    assert (given.name, given.shape, given.type) == ("input", ["batch", 5], "tensor(float)")


def test_names_come_from_paths_and_few_nodes_are_written(tmp_path):
    onnx = pytest.importorskip("onnx")
    net = Sequential(Linear(4), functional.relu, Linear(3))
    exported(made(net, X, loss=losses.SoftmaxCrossEntropy()), tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [node.op_type for node in graph.node] == ["Gemm", "Relu", "Gemm", "Softmax"]
    assert [node.name for node in graph.node][:2] == ["0/Gemm", "1/Relu"]
    assert [a.name for a in graph.initializer] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_one_operator_for_what_layers_compute(tmp_path):
    onnx = pytest.importorskip("onnx")
    net = Sequential(
        LayerNorm(), functional.gelu, Linear(3), BatchNorm(), functional.softplus,
        functional.elu, functional.leaky_relu, functional.log_softmax,
    )  # fmt: skip
    model = made(net, X)
    assert_same(exported(model, tmp_path), model, X)
    operators = "LayerNormalization Gelu Gemm BatchNormalization Softplus Elu LeakyRelu "
    operators = (operators + "LogSoftmax").split()
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [node.op_type for node in graph.node] == operators


def test_the_same_model_gives_the_same_bytes(tmp_path):
    model = made(Linear(2), X)
    for name in ("a.onnx", "b.onnx"):
        model.to_onnx(tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_float64_is_kept_if_asked_for(tmp_path):
    model = made(Sequential(Linear(4), functional.relu, LayerNorm()), X).to("numpy", "float64")
    model.to_onnx(tmp_path / "model.onnx", dtype=None)
    (found,) = session(tmp_path / "model.onnx").run(None, {"input": X})
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, model.predict(X), rtol=1e-7)


def test_a_second_opinion(tmp_path):
    ndonnx = pytest.importorskip("ndonnx")
    onnx = pytest.importorskip("onnx")
    net = Sequential(Linear(8), functional.silu, LayerNorm(), Linear(3))
    model = made(net, X)
    x = ndonnx.argument(shape=("batch", 5), dtype=ndonnx.float32)
    params = tree.map(ndonnx.asarray, model.params)
    built = ndonnx.build({"x": x}, {"y": model.net(params, x)})
    onnx.save(built, tmp_path / "other.onnx")
    ours, theirs = exported(model, tmp_path), session(tmp_path / "other.onnx")
    rows = DRAW.normal(size=(7, 5)).astype(np.float32)
    found = theirs.run(None, {theirs.get_inputs()[0].name: rows})[0]
    np.testing.assert_allclose(ours.run(None, {"input": rows})[0], found, atol=1e-5)


# --- the other libraries


def test_arrays_of_every_library(backend: backends.Backend, tmp_path):
    pytest.importorskip("onnx")
    x = backend.asarray(X, "float32")
    net = Sequential(Linear(4), BatchNorm(), functional.gelu, Linear(3))
    model = Model(net, *net.init(1, x), loss=losses.SoftmaxCrossEntropy())
    model.to_onnx(tmp_path / "there.onnx")
    model.to("numpy").to_onnx(tmp_path / "here.onnx")
    assert (tmp_path / "there.onnx").stat().st_size == (tmp_path / "here.onnx").stat().st_size
    read = tinynn.from_onnx(tmp_path / "there.onnx", backend, output="output")
    assert read.net == net
    assert read.backend == backend
    assert_close(read.predict(x), backend.to_host(model.predict(x)), backend, rtol=1e-5)


# --- what goes wrong


def unwritable(f: Callable[[Any], Any]) -> Any:
    return Sequential(Linear(4), f)


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (lambda x: namespace(x).roll(x, 1), ["layer 1", "'roll'", "no row", "docs/onnx.md"]),
        (lambda x: namespace(x).linalg.vector_norm(x, axis=1, ord=3), ["vector_norm", "ord 1"]),
        (lambda x: x[x[0, 0] > 0, ...], ["layer 1"]),
        (lambda x: namespace(x).linalg.cross(x[:, :3], x[:, 1:]), ["'cross'", "made of 'roll'"]),
        (lambda x: namespace(x).repeat(x, 2, axis=0), ["'repeat'", "size of the batch"]),
    ],
)  # fmt: skip
def test_functions_without_a_row(f, words, tmp_path):
    with pytest.raises((OnnxError, TypeError, ValueError, IndexError)) as caught:
        made(unwritable(f), X).to_onnx(tmp_path / "model.onnx", X)
    text = " ".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    assert all(word in text for word in words), text
    assert not list(tmp_path.iterdir())


def test_calls_with_an_effect(tmp_path):
    @tinynn.custom_vjp(lambda g, y, x: (g,), effect="writes")
    def log(x: Any) -> Any:
        return x * 1

    with pytest.raises(OnnxError, match="log, which writes"):
        made(unwritable(log), X).to_onnx(tmp_path / "model.onnx")


class Wide(Layer):
    """A layer that takes images."""

    def forward(self, scope, x):
        return scope("inner", Linear(2), Flatten().forward(scope, x[:, :, 0]))


def test_rows_are_asked_for_where_they_cannot_be_guessed(tmp_path):
    path = tmp_path / "model.onnx"
    for model in (made(Wide(), np.ones((2, 3, 4))), Model(functional.relu, {})):
        with pytest.raises(ValueError, match=r"give some as X, model\.to_onnx\(path, X\)"):
            model.to_onnx(path)
    assert not path.exists()


def test_a_good_file_stays(tmp_path):
    path = tmp_path / "model.onnx"
    made(Linear(2), X).to_onnx(path)
    before = path.read_bytes()
    with pytest.raises(OnnxError):
        made(unwritable(lambda x: namespace(x).roll(x, 1)), X).to_onnx(path)
    broken = made(Linear(2), X)
    broken.params["bias"][0] = np.nan
    with pytest.raises(ValueError, match="'bias': expected finite"):
        broken.to_onnx(path)
    assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError, match="does not exist"):
        made(Linear(2), X).to_onnx(tmp_path / "no" / "model.onnx")


def test_the_package_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install \"tinynn-xp\[onnx\]\""):
        made(Linear(2), X).to_onnx(tmp_path / "model.onnx")


# --- tables


def table_of(rows: int) -> dict[str, list[Any]]:
    draw = np.random.default_rng(1)
    lengths = [None if i % 7 == 3 else float(v) for i, v in enumerate(draw.normal(2e6, 9, rows))]
    days = [None if i % 9 == 5 else f"2024-{1 + i % 12:02}-{1 + i % 28:02}" for i in range(rows)]
    colours = [
        "" if i % 8 == 1 else "red" if v > 0 else "blue"
        for i, v in enumerate(draw.normal(size=rows))
    ]
    kinds = [f"kind {i % 3}" for i in range(rows)]
    return {"length": lengths, "day": days, "colour": colours, "kind": kinds,
            "yes": [i % 3 == 0 for i in range(rows)], "count": [i % 5 for i in range(rows)],
            "weight": list(draw.normal(70, 9, rows))}  # fmt: skip


def columns_of(table: dict[str, list[Any]]) -> dict[str, Any]:
    moments = np.asarray([np.datetime64(d or "NaT", "s") for d in table["day"]])
    seconds = moments.astype(np.int64).astype(float)
    return {
        "length": np.asarray(table["length"], dtype=float),
        "yes": np.asarray([str(each).lower() for each in table["yes"]], dtype=object),
        "colour": np.asarray(table["colour"], dtype=object),
        "day": np.where(np.isnat(moments), np.nan, seconds),
    }


@pytest.mark.parametrize(
    ("target", "loss"),
    [("kind", "cross_entropy"), ("yes", "binary_cross_entropy"), ("count", "cross_entropy"),
     ("weight", "squared_error")],
)  # fmt: skip
def test_a_models_preparation_is_in_the_file(target, loss, tmp_path):
    from tinynn.tabular import fit_table

    table = table_of(60)
    drop = {"kind", "yes", "count", "weight"} - {target, "yes" if target == "count" else ""}
    model = fit_table(
        table, target, drop=drop, loss=loss, epochs=2, hidden=(4,), validation=0.0, progress=False,
        report=lambda line: None,
    )  # fmt: skip
    runs = exported(model, tmp_path)
    known = columns_of(table)
    given = {each.name: known[each.name] for each in runs.get_inputs()}
    assert given.keys() == {"length", "colour", "day"} | ({"yes"} if target == "count" else set())
    names = [each.name for each in runs.get_outputs()]
    found = dict(zip(names, runs.run(None, given), strict=True))
    if target == "weight":
        np.testing.assert_allclose(found["prediction"], model.predict(table), rtol=1e-5)
        return
    assert found["label"].tolist() == model.predict(table).tolist()
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(table), atol=1e-5)
    model.to_onnx(tmp_path / "network.onnx", preparation=False)
    (alone,) = session(tmp_path / "network.onnx").get_inputs()
    assert alone.shape == ["batch", model.preparation.width]


# --- the command line


def test_export_on_the_command_line(tmp_path):
    model, out = train_model(write_flowers(tmp_path), tmp_path), tmp_path / "flowers.onnx"
    assert f"wrote {out}" in run("export", model, out)
    runs = session(out)
    assert {each.name for each in runs.get_inputs()} == {"length", "colour"}
    given = {"length": np.asarray([2.0, 8.0]), "colour": np.asarray(["red", "blue"], dtype=object)}
    label, _ = runs.run(["label", "probabilities"], given)
    frame = {name: values.tolist() for name, values in given.items()}
    assert label.tolist() == tinynn.load(model).predict(frame).tolist()
    said = runs.get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == ["iris", "rosa", "viola"]
    run("export", model, out)  # an ONNX file is replaced


def test_export_of_a_network_without_columns(tmp_path):
    made(Linear(2), X).save(tmp_path / "model.safetensors")
    run("export", tmp_path / "model.safetensors", tmp_path / "model.onnx")
    assert [each.name for each in session(tmp_path / "model.onnx").get_inputs()] == ["input"]


def test_export_says_what_is_wrong(tmp_path, monkeypatch):
    made(Linear(2), X).save(tmp_path / "model.safetensors")
    (tmp_path / "notes.txt").write_text("mine")
    path = tmp_path / "model.safetensors"
    assert "'OUT'" in run("export", path, tmp_path / "notes.txt", status=2)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert "what is to be read" in run("export", path, path, status=2)
    assert "does not exist" in run("export", path, tmp_path / "no" / "a.onnx", status=2)
    assert "expected a model file" in run("export", tmp_path / "notes.txt", "b.onnx", status=1)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "tinynn-xp[onnx]" in run("export", path, tmp_path / "c.onnx", status=1)
