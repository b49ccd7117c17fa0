"""ONNX files of others: the network that is read answers as theirs does, and trains on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinynn
from backends import Backend
from tinynn import functional
from tinynn.layers import BatchNorm, Flatten, LayerNorm, Linear, Sequential
from tinynn.training import Model

onnx = pytest.importorskip("onnx", reason="onnx is installed in the sessions of NumPy and PyTorch")

from onnx import helper, numpy_helper  # noqa: E402

from tinynn.onnx import OnnxFileError, export, from_onnx  # noqa: E402

DRAW = np.random.default_rng(6)
X = DRAW.normal(size=(40, 5)).astype("float32")

# The ONNX project's own tests of networks from PyTorch: those that are such networks.
READ = """
    ELU LeakyReLU LeakyReLU_with_negval Linear Linear_no_bias LogSoftmax ReLU Sigmoid Softmax
    Softplus Tanh log_softmax_dim3 log_softmax_lastdim softmax_functional_dim3 softmax_lastdim
""".split()
DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"


def tensor(path: Path) -> Any:
    proto = onnx.TensorProto()
    proto.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(proto)


@pytest.mark.skipif(not DATA.is_dir(), reason="this wheel of onnx comes without its test data")
def test_the_networks_of_the_onnx_project() -> None:
    read = set()
    for folder in sorted(DATA.glob("pytorch-converted/*")):
        try:
            model = from_onnx(folder / "model.onnx")
        except OnnxFileError:
            continue
        read.add(folder.name.removeprefix("test_"))
        x, y = (tensor(folder / "test_data_set_0" / f"{end}_0.pb") for end in ("input", "output"))
        np.testing.assert_allclose(model.predict(x), y, atol=1e-6)
    assert read == set(READ)


NET = Sequential(Linear(6), BatchNorm(), functional.tanh, Linear(4, bias=False), functional.relu,
                 Linear(3))  # fmt: skip


def test_what_export_wrote_trains_on(tmp_path: Path) -> None:
    net = Sequential(Linear(6), functional.tanh, Linear(4, bias=False), functional.relu, Linear(1))
    y = X[:, 0] - X[:, 1]
    model = tinynn.fit(net, X, y, epochs=3, loss="mse")
    export(model, tmp_path / "model.onnx")
    found = from_onnx(tmp_path / "model.onnx")
    assert found.net == net
    np.testing.assert_allclose(found.predict(X), model.predict(X), atol=1e-6)
    more = tinynn.fit(found.net, X, y, params=found.params, epochs=150, loss="mse")
    assert more.history["loss"][-1] < 0.5 * model.history["loss"][-1]
    more.save(tmp_path / "more.safetensors")
    np.testing.assert_array_equal(
        tinynn.load(tmp_path / "more.safetensors").predict(X), more.predict(X)
    )


@pytest.mark.filterwarnings("ignore")  # MLPs that have not converged, and skl2onnx's own
def test_the_perceptrons_of_scikit_learn(tmp_path: Path) -> None:
    skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx is installed in NumPy's session")
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    path, short = tmp_path / "model.onnx", {"max_iter": 5, "random_state": 0}
    for activation in ("relu", "tanh", "logistic", "identity"):
        theirs = MLPRegressor(hidden_layer_sizes=(6, 4), activation=activation, **short)
        theirs.fit(X, X[:, :2])
        path.write_bytes(skl2onnx.to_onnx(theirs, X[:1]).SerializeToString())
        np.testing.assert_allclose(from_onnx(path).predict(X), theirs.predict(X), atol=1e-5)
    theirs = MLPClassifier(hidden_layer_sizes=(6,), **short).fit(X, np.arange(len(X)) % 3)
    options = {id(theirs): {"zipmap": False}}
    path.write_bytes(skl2onnx.to_onnx(theirs, X[:1], options=options).SerializeToString())
    np.testing.assert_allclose(from_onnx(path).predict(X), theirs.predict_proba(X), atol=1e-5)


@pytest.mark.only("torch")
@pytest.mark.filterwarnings("ignore")  # of PyTorch's exporter
@pytest.mark.reads_scalars
def test_the_networks_of_pytorch(backend: Backend, tmp_path: Path) -> None:
    import torch
    from torch import nn

    module = nn.Sequential(
        nn.Flatten(), nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(8, 8, bias=False), nn.LayerNorm(8), nn.ELU(0.5), nn.Linear(8, 3), nn.Softmax(-1),
    )  # fmt: skip
    x = torch.asarray(X)
    module(x)  # running statistics
    module.eval()
    torch.onnx.export(
        module, (x[:2],), tmp_path / "model.onnx", input_names=["X"], dynamo=False,
        dynamic_axes={"X": {0: "batch"}}, opset_version=17,
    )  # fmt: skip
    model = from_onnx(tmp_path / "model.onnx", backend)
    expected = backend.to_host(module(x).detach())
    np.testing.assert_allclose(backend.to_host(model.predict(x)), expected, atol=1e-6)
    kinds = [type(layer) for layer in model.net.layers]
    assert {Flatten, Linear, LayerNorm} <= set(kinds)


# What cannot be read.


def written(path: Path, nodes: list[Any], opset: int = 21, **initializers: Any) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("X", 1, ["batch", 5])], [value("Y", 1, [None, None])],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    path.write_bytes(made.SerializeToString())
    return path


def test_files_that_are_cut_short(tmp_path: Path) -> None:
    export(Model(NET, *NET.init(0, X)), tmp_path / "whole.onnx")
    whole, path = (tmp_path / "whole.onnx").read_bytes(), tmp_path / "part.onnx"
    for length in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(OnnxFileError, match=r"^from_onnx: .*part\.onnx"):
            from_onnx(path)
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([helper.make_node("Sin", ["X"], ["Y"], name="wave")], "node 'wave': .*got Sin"),
        ([helper.make_node("Add", ["X", "X"], ["Y"])], "node 'Y': .*got Add of 2 values"),
        ([helper.make_node("Softmax", ["X"], ["Y"], axis=0)], "got Softmax along axis 0"),
        ([helper.make_node("Gemm", ["X", "W"], ["Y"], alpha=2.0)], "got Gemm with factors"),
        ([helper.make_node("Add", ["X", "b"], ["Y"])], "got Add that is not the bias"),
        ([helper.make_node("Gelu", ["X"], ["Y"], approximate="tanh")], "got Gelu in its approx"),
    ],
)
def test_networks_that_no_layers_stand_for(nodes: Any, words: str, tmp_path: Path) -> None:
    arrays = {"W": np.ones((5, 3), "float32"), "b": np.ones(5, "float32")}
    with pytest.raises(OnnxFileError, match=words):
        from_onnx(written(tmp_path / "model.onnx", nodes, **arrays))


def test_an_opset_that_is_not_known(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["X"], ["Y"])]
    for opset in (5, 99):
        with pytest.raises(OnnxFileError, match=r"model\.onnx: expected"):
            from_onnx(written(tmp_path / "model.onnx", nodes, opset=opset))
