"""ONNX: recurrent layers, loops and branches; and how few operators networks of images need."""

from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_close
from tests.onnx_files import assert_same, exported, made, session
from tinynn import functional, layers, tree
from tinynn.layers import GRU, LSTM, RNN, BatchNorm, Bidirectional, Flatten, Linear, Sequential
from tinynn.onnx import OnnxError
from tinynn.trace import namespace
from tinynn.training import Model

onnx = pytest.importorskip("onnx")
DRAW = np.random.default_rng(7)
RECURRENT: dict[str, Any] = {
    "rnn": RNN(3),
    "gru": GRU(3, return_sequences=True),
    "lstm": LSTM(3, reverse=True),
    "both ways": Bidirectional(GRU(3, return_sequences=True)),
    "two layers": Sequential(LSTM(3, return_sequences=True), RNN(2)),
}


@pytest.mark.parametrize(
    ("name", "padded"),
    [(name, padded) for name in RECURRENT for padded in (False, True) if name != "two layers"]
    + [("two layers", False)],
)
def test_recurrent_layers(name, padded, tmp_path):
    x = DRAW.normal(size=(4, 6, 2))
    given = (x, np.asarray([6, 1, 3, 5])) if padded else x
    model = made(RECURRENT[name], given)
    runs = exported(model, tmp_path, given)
    assert_same(runs, model, given)
    scans = [n for n in onnx.load(tmp_path / "model.onnx").graph.node if n.op_type == "Scan"]
    layers_of_it = 1 + (name in ("both ways", "two layers"))
    # As operators of their own, except with lengths and where the network is but the layer.
    assert len(scans) == (layers_of_it if padded or name in ("rnn", "gru", "lstm") else 0)
    assert_comes_back(model, given, tmp_path / "model.onnx")


def assert_comes_back(model: Model, x: Any, path: Any) -> Any:
    """The file is read as a network that predicts the same, for batches of any size."""
    read = tinynn.from_onnx(path, output="output")
    for rows in (1, 4):
        batch = tree.map(lambda a, n=rows: a[:n], x)
        np.testing.assert_allclose(read.predict(batch), model.predict(batch), atol=1e-5, rtol=1e-5)
    return read


@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
@pytest.mark.parametrize("options", [{}, {"return_sequences": True, "reverse": True}])
def test_a_recurrent_layer_is_one_operator(kind, options, tmp_path):
    for bias in (True, False):
        net = Sequential(Linear(4), kind(3, bias=bias, **options), Linear(2))
        found = operators(net, DRAW.normal(size=(4, 6, 2)), tmp_path)
        assert found.count(kind.__name__) == 1
        assert "Scan" not in found


def test_loops_and_branches_of_a_users_own(tmp_path):
    def powers(x: Any) -> Any:
        total, parts = tinynn.scan(lambda c, _: (c * 0.5, c + x), x, None, 3)
        return total, parts

    def halved(x: Any) -> Any:
        xp = namespace(x)
        small = tinynn.while_loop(lambda c: xp.max(abs(c)) > 0.1, lambda c: c * 0.5, x, bound=40)
        return tinynn.cond(xp.sum(x) > 0.0, lambda a, b: a - b, lambda a, b: a * b, small, x)

    def net(x: Any) -> Any:
        total, parts = powers(x)
        return {"total": total, "parts": namespace(x).moveaxis(parts, 0, 1), "half": halved(x)}

    x, model = DRAW.normal(size=(4, 5)).astype(np.float32), Model(net, {})
    assert_same(exported(model, tmp_path, x), model, x)


def of_scans(x: Any) -> Any:
    """Scans of several kinds: one inside of another, from the end, and of no arrays."""
    xp = namespace(x)
    weight = xp.asarray(WEIGHT, dtype=x.dtype)

    def inner(carry: Any, row: Any) -> Any:
        return carry * 0.5 + row @ weight, carry - 1.0

    def outer(carry: Any, rows: Any) -> Any:
        last, parts = tinynn.scan(inner, carry + x[:, 0, 0, :], rows, reverse=True)
        return last, xp.max(parts, axis=0)

    last, parts = tinynn.scan(outer, xp.zeros_like(x[:, 0, 0, :]), xp.permute_dims(x, (1, 2, 0, 3)))
    halved, _ = tinynn.scan(lambda c, _: (c * 0.5, None), last, None, 3)
    return xp.concat([xp.moveaxis(parts, 0, 1), halved[:, None, :]], axis=1)


WEIGHT = DRAW.normal(size=(2, 2))


def test_loops_come_back_and_train_on(tmp_path):
    x = DRAW.normal(size=(4, 3, 5, 2)).astype(np.float32)
    net = Sequential(Linear(2), of_scans, Flatten(), Linear(3))
    model = made(net, x)
    model.to_onnx(tmp_path / "model.onnx", x)
    read = assert_comes_back(model, x, tmp_path / "model.onnx")
    labels = np.asarray([0, 1, 2, 0])
    more = tinynn.fit(read.net, x, labels, params=read.params, state=read.state, epochs=3, seed=0)
    changed = tree.map(lambda a, b: bool((a != b).any()), dict(more.params), dict(read.params))
    assert all(tree.leaves(changed))
    more.save(tmp_path / "model.safetensors")
    assert (tinynn.load(tmp_path / "model.safetensors").predict(x) == more.predict(x)).all()
    more.to_onnx(tmp_path / "again.onnx", x)
    assert_comes_back(more, x, tmp_path / "again.onnx")


def test_scans_on_every_library(backend: backends.Backend, tmp_path):
    x = (DRAW.normal(size=(4, 3, 2)), np.asarray([3, 1, 2, 3]))
    model = made(Sequential(GRU(2, return_sequences=True)), x)
    model.to_onnx(tmp_path / "model.onnx", x)
    read = tinynn.from_onnx(tmp_path / "model.onnx", backend)
    given = backend.asarray(x[0], "float32"), backend.asarray(x[1], "int32")
    assert_close(read.predict(given), model.predict(x), backend, rtol=1e-5, atol=1e-5)


def scan_file(path: Any, body: list[Any], opset: int = 21, **attributes: Any) -> Any:
    """A file of one Scan from x, (batch, 5, 3), which goes through axis 1, to y and total."""
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    known = {"w": WEIGHT[0, 0].reshape(1, 1), "none": np.zeros((1, 3)), "v": np.ones((3, 3))}
    inner = make.make_graph(
        body, "body",
        [make.make_tensor_value_info(n, kind, None) for n in ("c", "row")],
        [make.make_tensor_value_info(n, kind, None) for n in ("c2", "out")],
    )  # fmt: skip
    inputs, axes = ["start", "x"], {"scan_input_axes": [1]}
    if opset < 9:
        inputs, axes = ["", *inputs], {}
    scan = make.make_node(
        "Scan", inputs, ["total", "y"], name="loop", body=inner, num_scan_inputs=1,
        **axes, **attributes,
    )  # fmt: skip
    start = make.make_node("Mul", ["first", "none"], ["start"])
    first = make.make_node("Gather", ["x", "place"], ["first"], axis=1)
    graph = make.make_graph(
        [first, start, scan], "made",
        [make.make_tensor_value_info("x", kind, ["batch", 5, 3])],
        [make.make_tensor_value_info(n, kind, axes) for n, axes in (("y", "abc"), ("total", "de"))],
        [
            *(onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in known.items()),
            onnx.numpy_helper.from_array(np.asarray(1), "place"),
        ],
    )  # fmt: skip
    versions = [make.make_opsetid("", opset)]
    file = make.make_model(graph, ir_version=10, opset_imports=versions)
    path.write_bytes(file.SerializeToString())
    return path


def inside(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(operator, inputs.split(), [output], name=output, **attributes)


STEP = [
    inside("Mul", "c w", "half"), inside("Add", "half row", "c2"), inside("Sub", "row c", "out"),
]  # fmt: skip


@pytest.mark.parametrize("output", ["y", "total"])
@pytest.mark.parametrize("ways", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_axes_and_directions_of_a_scan(ways, output, tmp_path):
    path = scan_file(
        tmp_path / "made.onnx", STEP, scan_output_axes=[1 + ways[0]],
        scan_input_directions=ways[:1], scan_output_directions=ways[1:],
    )  # fmt: skip
    read, runs = tinynn.from_onnx(path, output=output), session(path)
    for rows in (1, 4):
        x = DRAW.normal(size=(rows, 5, 3)).astype(np.float32)
        (found,) = runs.run([output], {"x": x})
        np.testing.assert_allclose(read.predict(x), found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("body", "opset", "words"),
    [
        (STEP, 8, r"Scan \(loop\): expected that of opset 9 or newer"),
        ([*STEP[:2], inside("Bernoulli", "c", "out")], 21,
         r"Scan \(loop\): in its body: operator Bernoulli \(out\): expected one of"),
        ([*STEP[:2], inside("Mod", "row w", "out", fmod=1)], 21, r"Mod \(out\): .*fmod=0"),
        ([*STEP[:2], inside("Dropout", "row", "out", seed=1)], 21, "no layers with parameters"),
        ([*STEP[:2], inside("Conv", "row v", "out")], 21, "fit each other"),
    ],
)  # fmt: skip
def test_scans_that_are_not_read(body, opset, words, tmp_path):
    path = scan_file(tmp_path / "made.onnx", body, opset)
    with pytest.raises(OnnxError, match=words) as caught:
        tinynn.from_onnx(path, output="y")
    assert "To fix it" in str(caught.value)


def operators(net: Any, x: Any, folder: Any) -> list[str]:
    """Those of the exported network, which runs as it predicts."""
    model = made(net, x)
    assert_same(exported(model, folder, x), model, x)
    return [node.op_type for node in onnx.load(folder / "model.onnx").graph.node]


def test_one_operator_for_a_convolution_with_its_bias_and_for_a_pool(tmp_path):
    net = Sequential(
        layers.Conv2d(4, padding="same"), functional.relu, layers.MaxPool2d(3, stride=2, padding=1),
        layers.Conv2d(4, bias=False, stride=2, padding=((0, 1), (1, 0))), BatchNorm(),
        functional.relu, layers.AvgPool2d(2, stride=1, padding="same"),
        layers.ConvTranspose2d(2, stride=2), functional.gelu, Flatten(), Linear(3),
    )  # fmt: skip
    found = operators(net, DRAW.normal(size=(4, 9, 9, 2)), tmp_path)
    assert [name for name in found if name not in ("Slice", "Reshape")] == (
        "Transpose Conv Relu MaxPool Conv BatchNormalization Relu AveragePool ConvTranspose Gelu "
        "Gemm"
    ).split()


def test_branches_of_images_are_turned_at_the_beginning_alone(tmp_path):
    both = layers.Parallel(layers.Conv2d(2, padding=1), layers.Conv2d(3, padding=1))
    block = Sequential(layers.Conv2d(5, padding=1), BatchNorm(), functional.sigmoid)
    net = Sequential(
        layers.Conv2d(4), both, layers.Concatenate(), functional.tanh, layers.Residual(block),
        layers.MaxPool2d(), Flatten(), Linear(3),
    )  # fmt: skip
    found = operators(net, DRAW.normal(size=(4, 9, 9, 2)), tmp_path)
    wanted = (
        "Transpose Conv Conv Conv Concat Tanh Conv BatchNormalization Sigmoid Add MaxPool "
        "Reshape Gemm"
    )
    assert found == wanted.split()


def test_channels_first_need_no_transpose(tmp_path):
    first: dict[str, Any] = {"channels": "first"}
    net = Sequential(
        layers.Conv1d(4, dilation=2, groups=2, **first), functional.relu,
        layers.MaxPool1d(2, dilation=2, stride=1, **first), layers.AvgPool1d(3, padding=1, **first),
        Flatten(), Linear(3),
    )  # fmt: skip
    found = operators(net, DRAW.normal(size=(4, 2, 12)), tmp_path)
    assert found == "Conv Relu MaxPool AveragePool Reshape Gemm".split()


def test_a_pool_under_a_transformation_is_what_it_was_made_of(tmp_path):
    def net(x: Any) -> Any:
        return tinynn.vmap(lambda one: functional.max_pool(one[None, ...])[0, ...])(x)

    x = DRAW.normal(size=(4, 6, 2))
    assert "MaxPool" not in operators(Sequential(Linear(2), net), x, tmp_path)


SECOND_OPINIONS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "convolutions": (Sequential(layers.Conv2d(3), layers.MaxPool2d()), (8, 8, 2)),
    "norms": (
        Sequential(layers.GroupNorm(2), layers.InstanceNorm(), layers.RMSNorm(), BatchNorm()),
        (4, 4, 4),
    ),
    "squeeze": (layers.SqueezeExcite(), (4, 4, 8)),
    "containers": (
        Sequential(layers.Residual(layers.WeightNorm(Linear(8))), layers.PReLU(),
                   layers.Reshape((2, 4)), layers.SpectralNorm(Linear(3))), (8,),
    ),
    "attention": (layers.MultiHeadAttention(2, causal=True), (6, 8)),
    "gru": (GRU(3, return_sequences=True), (5, 4)),
    "gru, reset before": (GRU(3, reset_after=False), (5, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", SECOND_OPINIONS)
def test_second_opinions(name, tmp_path):
    # Of one batch size: ndonnx gives None for a length that is open, which layers compute with.
    ndonnx = pytest.importorskip("ndonnx")
    layer, shape = SECOND_OPINIONS[name]
    x = DRAW.normal(size=(3, *shape)).astype(np.float32)
    net = Sequential(layer)
    model = made(net, x)
    given = ndonnx.argument(shape=x.shape, dtype=ndonnx.float32)
    params, state = (tree.map(ndonnx.asarray, part) for part in (model.params, model.state))
    built = ndonnx.build({"x": given}, {"y": net.apply(params, state, given)[0]})
    onnx.save(built, tmp_path / "other.onnx")
    ours, theirs = exported(model, tmp_path, x), session(tmp_path / "other.onnx")
    (found,) = theirs.run(None, {theirs.get_inputs()[0].name: x})
    (own,) = ours.run(None, {"input": x})
    np.testing.assert_allclose(own, found, atol=1e-5, rtol=1e-5)
