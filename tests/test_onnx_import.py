"""ONNX files of convolutional networks and of graphs with branches, read and trained on."""

import contextlib
import importlib
import importlib.util
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_close
from tests.onnx_files import session
from tinynn import layers, tree
from tinynn.layers import BatchNorm, Dropout, Flatten, MaxPool2d, Sequential
from tinynn.onnx import ChannelsFirst, GraphNetwork, OnnxError

onnx = pytest.importorskip("onnx")
make, DRAW = onnx.helper, np.random.default_rng(11)
DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"


def drawn(*shape: int) -> Any:
    return DRAW.normal(size=shape).astype(np.float32)


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return make.make_node(operator, inputs.split(" "), outputs.split(" "), **attributes)


def write(
    path: Path, nodes: list[Any], arrays: dict[str, Any], *shapes: Any, opset: int = 21
) -> Path:
    """A file of these nodes, from x, or x0 and x1, to y, whose batch is left open."""
    names = ["x"] if len(shapes) == 1 else [f"x{place}" for place in range(len(shapes))]
    given = [make.make_tensor_value_info(n, 1, s) for n, s in zip(names, shapes, strict=True)]
    graph = make.make_graph(
        nodes, "made", given, [make.make_tensor_value_info("y", 1, ["batch", "out"])],
        [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )  # fmt: skip
    versions = [make.make_opsetid("", opset)]
    model = make.make_model(graph, ir_version=10, opset_imports=versions)
    path.write_bytes(model.SerializeToString())
    return path


def read_as_it_runs(path: Path, *xs: Any) -> tinynn.Model:
    """The model in a file, after a look whether it computes what onnxruntime does."""
    model, runs = tinynn.from_onnx(path), session(path)
    names = [each.name for each in runs.get_inputs()]
    (found,) = runs.run(None, dict(zip(names, xs, strict=True)))
    given = xs[0] if len(xs) == 1 else xs
    np.testing.assert_allclose(model.predict(given), found, atol=1e-5, rtol=1e-5)
    return model


# --- the ONNX project's own files and cases


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # powers of negative numbers
@pytest.mark.skipif(not DATA.is_dir(), reason="this wheel of onnx comes without its test data")
@pytest.mark.parametrize(
    ("kind", "count", "refused"),
    [
        ("pytorch-converted", 82, set()),
        ("pytorch-operator", 35, set()),
        # Shapes that are inputs, gradients, and what is no array.
        ("simple", 3, {"expand", "gradient", "sequence", "strnorm"}),
    ],
)  # fmt: skip
def test_the_networks_of_the_onnx_project(kind, count, refused):
    read, not_read = set(), set()
    for folder in sorted((DATA / kind).iterdir()):
        name = onnx.load(folder / "model.onnx").graph.output[0].name
        try:
            model = tinynn.from_onnx(folder / "model.onnx", output=name)
        except OnnxError:
            not_read.add(folder.name.split("_")[1])
            continue
        read.add(folder.name)
        tensors = folder / "test_data_set_0"
        *xs, y = [
            onnx.numpy_helper.to_array(onnx.load_tensor(str(path)))
            for path in [*sorted(tensors.glob("input_*.pb")), tensors / "output_0.pb"]
        ]
        found, _ = model.net.apply(model.params, model.state, *xs)
        np.testing.assert_allclose(found, y, atol=1e-5, rtol=1e-5, err_msg=folder.name)
    assert (len(read), not_read) == (count, refused)


#: Operators, and how many of ONNX's own cases of each are read and how many refused, of VERSION.
VERSION = "1.23"
CASES = {
    "conv": ("Conv", 6, 0),
    "convtranspose": ("ConvTranspose", 11, 0),
    "maxpool": ("MaxPool", 18, 1),  # of bytes
    "averagepool": ("AveragePool", 14, 6),  # dilations
    "globalaveragepool": ("GlobalAveragePool", 2, 0),
    "globalmaxpool": ("GlobalMaxPool", 2, 0),
    "batch_normalization": ("BatchNormalization", 2, 2),  # training
    "layernormalization": ("LayerNormalization", 19, 0),
    "instance_normalization": ("InstanceNormalization", 2, 0),
    "groupnormalization": ("GroupNormalization", 2, 0),
    "rmsnormalization": ("RMSNormalization", 19, 0),
    "lrn": ("LRN", 2, 0),
    "gemm": ("Gemm", 11, 0),
    "matmul": ("MatMul", 7, 0),
    "flatten": ("Flatten", 9, 0),
    "reshape": ("Reshape", 9, 1),  # an axis of length 0
    "transpose": ("Transpose", 7, 0),
    "concat": ("Concat", 12, 0),
    "split": ("Split", 16, 0),
    "slice": ("Slice", 8, 0),
    "gather": ("Gather", 4, 0),
    "expand": ("Expand", 2, 0),
    "tile": ("Tile", 2, 0),
    "squeeze": ("Squeeze", 2, 0),
    "unsqueeze": ("Unsqueeze", 7, 0),
    "pad": ("Pad", 6, 0),
    "resize": ("Resize", 5, 34),  # other factors and modes
    "upsample": ("Upsample", 1, 0),
    "depthtospace": ("DepthToSpace", 2, 0),
    "spacetodepth": ("SpaceToDepth", 4, 0),
    "dropout": ("Dropout", 6, 6),  # training
    "softmax": ("Softmax", 7, 0),
    "prelu": ("PRelu", 2, 0),
    "selu": ("Selu", 3, 0),
    "hardswish": ("HardSwish", 1, 0),
    "hardsigmoid": ("HardSigmoid", 3, 0),
    "gelu": ("Gelu", 4, 0),
    "mish": ("Mish", 1, 0),
    "clip": ("Clip", 12, 0),
    "reducemean": ("ReduceMean", 8, 0),
    "reducel2": ("ReduceL2", 9, 0),
    "where": ("Where", 2, 0),
    "gru": ("GRU", 6, 0),
    "lstm": ("LSTM", 5, 1),  # peepholes
    "rnn": ("RNN", 6, 0),
    "attention": ("Attention", 37, 56),  # keys of the past, other outputs, softcap, bfloat16
    "scan": ("Scan", 3, 1),  # that of opset 8
    "mod": ("Mod", 15, 4),  # the sign of the dividend
}


@pytest.mark.filterwarnings("ignore")
def test_the_cases_of_the_onnx_project(tmp_path):
    module = pytest.importorskip("onnx.backend.test.case.node")
    for name in CASES:
        with contextlib.suppress(ModuleNotFoundError):  # an older one has fewer operators
            importlib.import_module(f"{module.__name__}.{name}")
    read, refused = Counter[str](), Counter[str]()
    wanted = {operator for operator, _, _ in CASES.values()}
    for case in module._NodeTestCases:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type in wanted:
            done = carried_out(case, tmp_path / "case.onnx")
            (read if done else refused)[nodes[0].op_type] += 1
    if not onnx.__version__.startswith(VERSION):
        assert all(read[operator] for operator in ("Conv", "ConvTranspose", "Gemm", "Concat"))
        return
    assert {operator: (read[operator], refused[operator]) for operator in wanted} == {
        operator: (given, not_read) for operator, given, not_read in CASES.values()
    }


def carried_out(case: Any, path: Path) -> bool:
    """Whether a case is read; with what it should give, if it is."""
    xs, ys = case.data_sets[0]
    if any(np.asarray(x).dtype.name == "bfloat16" for x in xs):  # which is no dtype of NumPy's
        return False
    close = 1e-4 if np.asarray(ys[0]).dtype.name != "float16" else 2e-3
    for known in (0, len(xs) - 1):  # weights and shapes are inputs there, and constant here
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        graph = model.graph
        for x, given in zip(xs[len(xs) - known :], graph.input[len(xs) - known :], strict=True):
            graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(x), given.name))
        del graph.input[len(xs) - known :]
        path.write_bytes(model.SerializeToString())
        try:
            read = tinynn.from_onnx(path, output=graph.output[0].name)
        except OnnxError:
            continue
        found, _ = read.net.apply(read.params, read.state, *xs[: len(xs) - known])
        assert (found.shape, found.dtype) == (ys[0].shape, ys[0].dtype), case.name
        np.testing.assert_allclose(found, ys[0], atol=close, rtol=close, err_msg=case.name)
        return True
    return False


# --- networks


def residual(path: Path) -> Path:
    """Convolution, batch norm, a branch that is added, and one that is pooled and joined."""
    arrays = {
        "stem.weight": drawn(4, 1, 3, 3), "stem.bias": drawn(4),
        "block.conv.weight": drawn(4, 4, 3, 3) / 4,
        **{f"block.bn.{name}": drawn(4) for name in ("weight", "bias", "mean")},
        "block.bn.var": abs(drawn(4)) + 0.5,
        "scale": drawn(1, 4, 1, 1), "head.weight": drawn(3, 8) / 3, "head.bias": drawn(3),
    }  # fmt: skip
    normed = "c block.bn.weight block.bn.bias block.bn.mean block.bn.var"
    nodes = [
        node("Conv", "x stem.weight stem.bias", "s", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", "s", "r"), node("Conv", "r block.conv.weight", "c", pads=[1, 1, 1, 1]),
        node("BatchNormalization", normed, "b"), node("Mul", "b scale", "m"),
        node("Add", "m r", "a"), node("Relu", "a", "t"),
        node("GlobalAveragePool", "t", "g"), node("MaxPool", "t", "p", kernel_shape=[4, 4]),
        node("Concat", "g p", "j", axis=1), node("Flatten", "j", "f"), node("Dropout", "f", "d"),
        node("Gemm", "d head.weight head.bias", "y", transB=1),
    ]  # fmt: skip
    return write(path, nodes, arrays, ["batch", 1, 8, 8])


def test_a_graph_with_branches_has_layers_and_their_names(tmp_path):
    model = read_as_it_runs(residual(tmp_path / "made.onnx"), drawn(5, 1, 8, 8))
    assert isinstance(model.net, GraphNetwork)
    calls = {call.name: call for call in model.net.calls}
    assert calls["block_bn"].layer == ChannelsFirst(BatchNorm())
    assert calls["add"].args == ("mul", "relu")
    assert calls["dropout"].layer == Dropout(0.5)
    shapes = {name: tuple(a.shape) for name, a in tree.paths(model.params)}
    assert shapes == {
        "stem.weight": (3, 3, 1, 4), "stem.bias": (4,), "block_conv.weight": (3, 3, 4, 4),
        "block_bn.layer.weight": (4,), "block_bn.layer.bias": (4,), "scale": (1, 4, 1, 1),
        "head.weight": (8, 3), "head.bias": (3,),
    }  # fmt: skip
    assert [name for name, _ in tree.paths(model.state)] == [
        "block_bn.layer.mean", "block_bn.layer.var",
    ]  # fmt: skip
    new, _ = model.net.init(0, drawn(2, 1, 8, 8))
    assert {name: tuple(a.shape) for name, a in tree.paths(new)} == shapes


def test_it_is_trained_on_saved_and_exported(tmp_path):
    x, labels = drawn(30, 1, 8, 8), np.arange(30) % 3
    model = tinynn.from_onnx(residual(tmp_path / "made.onnx"))
    more = tinynn.fit(
        model.net, x, labels, params=model.params, state=model.state, epochs=8, seed=0,
        loss="cross_entropy",
    )  # fmt: skip
    assert more.history["loss"][-1] < 0.8 * more.history["loss"][0]
    for path, before in tree.paths(model.params):
        assert (dict(tree.paths(more.params))[path] != before).any(), path
    more.save(tmp_path / "model.safetensors")
    again = tinynn.load(tmp_path / "model.safetensors")
    assert layers.to_config(again.net) == layers.to_config(model.net)
    assert (again.predict(x) == more.predict(x)).all()
    more.to_onnx(tmp_path / "ours.onnx", x)
    found = session(tmp_path / "ours.onnx").run(["output"], {"input": x})[0]
    np.testing.assert_allclose(found, more.predict(x), atol=1e-5, rtol=1e-5)


def test_on_every_library(backend: backends.Backend, tmp_path):
    x, path = drawn(3, 1, 8, 8), residual(tmp_path / "made.onnx")
    model, host = tinynn.from_onnx(path, backend), tinynn.from_onnx(path)
    found = model.predict(backend.asarray(x, "float32"))
    assert_close(found, host.predict(x), backend, rtol=1e-4, atol=1e-4)


def test_a_chain_is_a_sequential(tmp_path):
    nodes = [
        node("Conv", "x w", "c", auto_pad="SAME_UPPER", strides=[2, 2]), node("Relu", "c", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("Shape", "p", "n", end=1), node("Concat", "n rest", "shape", axis=0),
        node("Reshape", "p shape", "f"), node("MatMul", "f v", "y"),
    ]  # fmt: skip
    arrays = {"w": drawn(4, 2, 3, 3), "v": drawn(16, 3), "rest": np.asarray([-1])}
    path = write(tmp_path / "made.onnx", nodes, arrays, ["batch", 2, 6, 5])
    model = read_as_it_runs(path, drawn(3, 2, 6, 5))
    assert model.net == Sequential(
        layers.Conv2d(4, stride=2, padding="same", bias=False, channels="first"),
        tinynn.functional.relu,
        MaxPool2d(padding=((0, 1), (0, 1)), stride=2, channels="first"),
        Flatten(),
        layers.Linear(3, bias=False),
    )


def test_layers_that_share_their_weights_and_several_inputs(tmp_path):
    nodes = [
        node("Gemm", "x0 w b", "h0", transB=1), node("Gemm", "x1 w b", "h1", transB=1),
        node("Sub", "h0 h1", "d"), node("Abs", "d", "y"),
    ]  # fmt: skip
    arrays = {"w": drawn(3, 4), "b": drawn(3)}
    path = write(tmp_path / "made.onnx", nodes, arrays, ["batch", 4], ["batch", 4])
    model = read_as_it_runs(path, drawn(5, 4), drawn(5, 4))
    assert list(model.params) == ["gemm"]
    assert [call.child for call in model.net.calls] == ["", "gemm", "", ""]


def test_fixed_arrays_are_state_and_numbers_are_numbers(tmp_path):
    fixed = onnx.numpy_helper.from_array(np.asarray([2, 0, 0]))
    half = onnx.numpy_helper.from_array(np.asarray(0.5, dtype=np.float32))
    nodes = [
        make.make_node("Constant", [], ["places"], value=fixed),
        make.make_node("Constant", [], ["half"], value=half),
        node("Gather", "x places", "g", axis=1),
        node("Add", "g w", "a"),
        node("Mul", "a half", "y"),
    ]
    path = write(tmp_path / "made.onnx", nodes, {"w": drawn(1, 3)}, ["batch", 3])
    model = read_as_it_runs(path, drawn(2, 3))
    assert list(model.params) == ["w"]
    assert {name: a.tolist() for name, a in model.state.items()} == {"places": [2, 0, 0]}
    assert model.net.calls[-1].args == ("add", 0.5)


def test_a_file_of_one_batch_size_takes_others(tmp_path):
    nodes = [node("Reshape", "x shape", "f"), node("MatMul", "f w", "y")]
    arrays = {"shape": np.asarray([1, 12]), "w": drawn(12, 2)}
    path = write(tmp_path / "made.onnx", nodes, arrays, [1, 3, 4])
    model = read_as_it_runs(path, drawn(1, 3, 4))
    assert model.predict(drawn(7, 3, 4)).shape == (7, 2)


@pytest.mark.only("torch")
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent_networks_of_pytorch(variant, kind, both, tmp_path):
    torch = pytest.importorskip("torch")

    class Labels(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.steps = getattr(torch.nn, kind)(
                3, 5, num_layers=2, batch_first=True, bidirectional=both
            )
            self.head = torch.nn.Linear(10 if both else 5, 2)

        def forward(self, x: Any) -> Any:
            y, _ = self.steps(x)
            return self.head(y if both else y[:, -1])

    path = tmp_path / "torch.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Labels().eval(), (torch.zeros(2, 6, 3),), path, dynamo=False, input_names=["input"],
            dynamic_axes={"input": {0: "batch"}},
        )  # fmt: skip
    model = read_as_it_runs(path, drawn(4, 6, 3))
    layer = getattr(layers, kind)(5, return_sequences=True)
    wanted = layers.Bidirectional(layer) if both else layer
    assert [each for each in model.net.layers if isinstance(each, type(wanted))] == [wanted] * 2


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_gru_with_its_reset_gate_before_or_after_the_product(direction, after, tmp_path):
    ways = 2 if direction == "bidirectional" else 1
    nodes = [
        node("Transpose", "x", "steps", perm=[1, 0, 2]),
        node("GRU", "steps w r b", "ys", hidden_size=5, direction=direction,
             linear_before_reset=after),
        node("Transpose", "ys", "turned", perm=[2, 0, 1, 3]),
        node("Reshape", "turned shape", "y"),
    ]  # fmt: skip
    arrays = {"w": drawn(ways, 15, 3), "r": drawn(ways, 15, 5), "b": drawn(ways, 30)}
    arrays["shape"] = np.asarray([0, 6, -1])
    model = read_as_it_runs(
        write(tmp_path / "made.onnx", nodes, arrays, ["batch", 6, 3]), drawn(4, 6, 3)
    )
    model.to_onnx(tmp_path / "ours.onnx", drawn(4, 6, 3))
    x = drawn(7, 6, 3)
    (found,) = session(tmp_path / "ours.onnx").run(["output"], {"input": x})
    np.testing.assert_allclose(found, model.predict(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("Conv", "x x", "y")], "constant weights"),
        ([node("AveragePool", "x", "y", kernel_shape=[2, 2], dilations=[2, 2])], "dilations of 1"),
        ([node("MaxPool", "x", "m i", kernel_shape=[2, 2]), node("Cast", "i", "c", to=1),
          node("Add", "m c", "y")], "indices"),
        ([node("Conv", "x v", "y", pads=[1, 1, 1, 1])], "3 channels"),
        ([node("NonZero", "x", "y")], "operator NonZero"),
    ],
)  # fmt: skip
def test_what_is_not_read(nodes, words, tmp_path):
    path = write(tmp_path / "made.onnx", nodes, {"v": drawn(2, 3, 3, 3)}, ["batch", 2, 6, 6])
    with pytest.raises(OnnxError, match=words) as caught:
        tinynn.from_onnx(path)
    assert "To fix it" in str(caught.value)


def test_changed_bytes_are_found_or_do_no_harm(tmp_path):
    path = residual(tmp_path / "made.onnx")
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        changed = bytearray(whole)
        changed[draw.integers(len(whole))] = draw.integers(256)
        path.write_bytes(changed)
        with contextlib.suppress(OnnxError):
            tinynn.from_onnx(path)


def test_the_number_of_inputs_is_checked(tmp_path):
    model = tinynn.from_onnx(residual(tmp_path / "made.onnx"))
    with pytest.raises(layers.ShapeError, match=r"expected 1 inputs \(x\), got 2"):
        model.net.apply(model.params, model.state, drawn(1, 1, 8, 8), drawn(1))


# --- PyTorch's exporters


def modules(torch: Any) -> dict[str, Any]:
    nn = torch.nn

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
            self.short = nn.Conv2d(inputs, outputs, 1, stride)

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(self.short(x) + y)

    class Joined(nn.Module):  # type: ignore[misc, name-defined]
        """Down and up again, with what was before joined to it."""

        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(2, 8, 3, 2, 1), nn.ConvTranspose2d(8, 4, 2, 2)
            self.wide = nn.Upsample(scale_factor=2)
            self.last = nn.Conv2d(14, 1, 1)

        def forward(self, x: Any) -> Any:
            low = nn.functional.hardswish(self.down(nn.functional.pad(x, (1, 1, 1, 1))))
            low = low[:, :, : x.shape[2] // 2, : x.shape[3] // 2]
            parts = [x, self.up(low), self.wide(nn.functional.avg_pool2d(low, 3, 1, 1))]
            return self.last(torch.cat(parts, 1)).clamp(min=-1.0).flatten(1)

    def made() -> dict[str, Any]:
        return {
            "digits": nn.Sequential(
                nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
                nn.Dropout(0.1), nn.Flatten(), nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 3),
                nn.Softmax(-1),
            ),
            "residual": nn.Sequential(
                Block(2, 4, 1), Block(4, 8, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(1),
                nn.LayerNorm(8), nn.Linear(8, 3),
            ),
            "separable": nn.Sequential(
                nn.Conv2d(2, 8, 3, groups=2), nn.SiLU(), nn.Conv2d(8, 8, 3, groups=8, dilation=2),
                nn.GroupNorm(2, 8), nn.PReLU(8), nn.AvgPool2d(2, ceil_mode=True), nn.Flatten(),
                nn.LazyLinear(2), nn.LogSoftmax(-1),
            ),
            "joined": Joined(),
        }  # fmt: skip

    torch.manual_seed(0)
    return made()


@pytest.mark.only("torch")
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_convolutional_networks_of_pytorch(variant, exporter, tmp_path):
    torch = pytest.importorskip("torch")
    dynamo = exporter == "dynamo"
    if dynamo and importlib.util.find_spec("onnxscript") is None:
        pytest.skip("PyTorch's exporter by dynamo needs the package onnxscript, which is not here")
    for name, module in modules(torch).items():
        if dynamo and name in ("digits", "separable"):  # it takes its time
            continue
        x, path = torch.randn(2, 2, 8, 8), tmp_path / f"{name}.onnx"
        module(x)  # that running statistics are not what they begin as
        module.eval()
        batch: dict[str, Any] = (
            {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
            if dynamo
            else {"dynamic_axes": {"input": {0: "batch"}}, "input_names": ["input"]}
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (x,), path, dynamo=dynamo, external_data=False, **batch)
        model = read_as_it_runs(path, drawn(5, 2, 8, 8))
        assert isinstance(model.net, GraphNetwork) == (name != "digits")
