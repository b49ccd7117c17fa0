"""ONNX files of other programs: PyTorch's, scikit-learn's and our own, read as networks."""

import contextlib
import io
import warnings
from typing import Any

import numpy as np
import pytest

import tinynn
from tests.onnx_files import made, session
from tinynn import functional
from tinynn.layers import (
    BatchNorm,
    Embedding,
    EmbeddingBag,
    Flatten,
    LayerNorm,
    Linear,
    MultiHeadAttention,
    PositionEmbedding,
    Sequential,
    TransformerEncoderBlock,
)
from tinynn.onnx import OnnxError
from tinynn.training import Model

onnx = pytest.importorskip("onnx")
X = np.random.default_rng(3).normal(size=(60, 4)).astype(np.float32)
Y = X[:, 0]


def read_as_it_runs(path: Any, output: str | None = None, x: Any = X) -> tinynn.Model:
    """The model in a file, after a look whether it predicts what onnxruntime does."""
    model = tinynn.from_onnx(path, output=output)
    runs = session(path)
    names = [output] if output else [runs.get_outputs()[-1].name]
    (found,) = runs.run(names, {runs.get_inputs()[0].name: x})
    if isinstance(found, list):  # of ZipMap
        found = np.asarray([list(row.values()) for row in found])
    np.testing.assert_allclose(model.predict(x), found.reshape(len(x), -1), atol=1e-5, rtol=1e-5)
    return model


def write(path: Any, nodes: list[Any], arrays: dict[str, Any], opset: int = 21, **more: Any) -> Any:
    """A file of these nodes, from x to y."""
    make = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "made",
        [make("x", more.get("kind", 1), ["batch", 4])],
        [make("y", 1, ["batch", "features"])],
        [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )
    versions = [onnx.helper.make_opsetid("", opset), *more.get("versions", ())]
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=versions)
    path.write_bytes(model.SerializeToString())
    return path


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(operator, inputs.split(" "), [output], name=output, **attributes)


# --- other programs


def exported_by_torch(layers: Any, path: Any) -> None:
    torch = pytest.importorskip("torch")
    net, file = torch.nn.Sequential(*layers(torch.nn)).eval(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.zeros(2, 4),), file, dynamo=False, input_names=["input"],
            dynamic_axes={"input": {0: "batch"}}, opset_version=20,
        )  # fmt: skip
    path.write_bytes(file.getvalue())


@pytest.mark.only("torch")
@pytest.mark.parametrize(
    "layers",
    [
        lambda nn: [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(-1)],
        lambda nn: [nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Dropout(),
                    nn.Linear(8, 3, bias=False), nn.LogSoftmax(-1)],
        lambda nn: [nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 1), nn.Sigmoid()],
        lambda nn: [nn.Linear(4, 8), nn.ELU(0.5), nn.Linear(8, 8), nn.LeakyReLU(0.2),
                    nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2), nn.Softplus()],
    ],
)  # fmt: skip
def test_networks_of_pytorch(variant, layers, tmp_path):
    exported_by_torch(layers, tmp_path / "torch.onnx")
    model = read_as_it_runs(tmp_path / "torch.onnx")
    model.to_onnx(tmp_path / "ours.onnx")  # with no more to do for a runtime
    ours, theirs = (onnx.load(tmp_path / f"{name}.onnx").graph.node for name in ("ours", "torch"))
    assert len(ours) <= len(theirs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["two", "three", "zipmap", "number", "tanh", "logistic"])
def test_networks_of_scikit_learn(kind, tmp_path):
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    y = Y if kind == "number" else (Y > 0) if kind == "two" else np.digitize(Y, [-0.5, 0.5])
    activation = {"tanh": "tanh", "logistic": "logistic"}.get(kind, "relu")
    learner = MLPRegressor if kind == "number" else MLPClassifier
    last = learner(hidden_layer_sizes=(5, 6), max_iter=9, activation=activation, random_state=0)
    model = make_pipeline(StandardScaler(), last).fit(X * 3 + 1, y)
    options = None if kind in ("number", "zipmap") else {"zipmap": False}
    path = tmp_path / "model.onnx"
    path.write_bytes(skl2onnx.to_onnx(model, X[:1], options=options).SerializeToString())
    read = read_as_it_runs(path)
    known = model.predict(X)[:, None] if kind == "number" else model.predict_proba(X)
    np.testing.assert_allclose(read.predict(X), known, atol=1e-5)


def test_our_own_come_back_and_train_on(tmp_path):
    net = Sequential(
        Linear(8), BatchNorm(), functional.relu, Linear(6), LayerNorm(), functional.gelu, Flatten(),
        Linear(3),
    )  # fmt: skip
    model = Model(net, *net.init(1, X))
    model.to_onnx(tmp_path / "model.onnx")
    read = read_as_it_runs(tmp_path / "model.onnx", "output")
    labels = np.digitize(Y, [-0.5, 0.5])
    more = tinynn.fit(read.net, X, labels, params=read.params, state=read.state, epochs=1)
    more.save(tmp_path / "model.safetensors")
    assert (tinynn.load(tmp_path / "model.safetensors").predict(X) == more.predict(X)).all()


IDS, LENGTHS = np.arange(24).reshape(4, 6) % 5, np.asarray([6, 3, 1, 2])


@pytest.mark.parametrize(
    ("net", "x"),
    [
        (Sequential(Embedding(5, 8), PositionEmbedding(6), TransformerEncoderBlock(2)), (IDS,)),
        (EmbeddingBag(5, 3), (IDS, LENGTHS)),
        (MultiHeadAttention(2, causal=True), (X[:48].reshape(4, 6, 8), LENGTHS)),
    ],
    ids=["transformer", "bag", "attention"],
)
def test_our_own_sequences_come_back(net, x, tmp_path):
    model = made(net, x)
    model.to_onnx(tmp_path / "model.onnx", x)
    read = tinynn.from_onnx(tmp_path / "model.onnx")
    for rows in (1, 4):
        some = [each[:rows] for each in x]
        some = some[0] if len(some) == 1 else tuple(some)
        np.testing.assert_allclose(read.predict(some), model.predict(some), atol=1e-5, rtol=1e-5)


def test_factors_and_shifts_beside_a_product(tmp_path):
    draw = np.random.default_rng(0)
    arrays = {
        "a": draw.random(4).astype(np.float32),
        "b": np.asarray(2.0, dtype=np.float32),
        "w": draw.normal(size=(4, 3)).astype(np.float32),
        "c": draw.normal(size=(1, 3)).astype(np.float32),
        "v": draw.normal(size=(2, 3)).astype(np.float32),
        "d": draw.normal(size=2).astype(np.float32),
    }
    nodes = [
        node("Sub", "x a", "n1"), node("Div", "n1 b", "n2"), node("MatMul", "n2 w", "n3"),
        node("Add", "c n3", "n4"), node("Mul", "n4 b", "n5"), node("Relu", "n5", "n6"),
        node("Gemm", "n6 v d", "y", transB=1, alpha=0.5, beta=2.0),
    ]  # fmt: skip
    model = read_as_it_runs(write(tmp_path / "made.onnx", nodes, arrays))
    assert model.net == Sequential(Linear(3), functional.relu, Linear(2))


SQUARE = np.arange(16, dtype=np.float32).reshape(4, 4) / 16


@pytest.mark.parametrize(
    "nodes",
    [
        [node("MatMul", "x w", "a"), node("Mul", "a c", "b"), node("MatMul", "b w", "y")],
        [node("Gemm", "x w", "a"), node("Relu", "a", "b"), node("Gemm", "b w", "y", transB=1)],
        [node("Gemm", "x w", "a"), node("Relu", "a", "b"), node("Gemm", "b w", "y", alpha=0.5)],
        [node("Gemm", "x w c", "a"), node("Gemm", "a w c", "y", beta=0.5)],
    ],
)
def test_one_array_as_different_weights(nodes, tmp_path):
    arrays = {"w": SQUARE, "c": SQUARE[1]}
    read_as_it_runs(write(tmp_path / "made.onnx", nodes, arrays))


def test_a_number_of_more_axes_than_the_input(tmp_path):
    arrays = {"w": SQUARE, "c": SQUARE[1, 1].reshape(1, 1, 1)}
    nodes = [node("Add", "x c", "a"), node("MatMul", "a w", "y")]
    model = tinynn.from_onnx(write(tmp_path / "made.onnx", nodes, arrays))
    np.testing.assert_allclose(model.predict(X), ((X + SQUARE[1, 1]) @ SQUARE)[None], rtol=1e-5)


def test_a_norm_whose_scale_is_one_number(tmp_path):
    arrays = {"w": SQUARE, "s": SQUARE[1, 1:2], "c": SQUARE[2]}
    nodes = [node("LayerNormalization", "x s s", "n"), node("MatMul", "n w", "m"),
             node("LayerNormalization", "m c s", "y")]  # fmt: skip
    read_as_it_runs(write(tmp_path / "made.onnx", nodes, arrays))


# --- what goes wrong


def test_files_that_are_cut_short_or_none(tmp_path):
    path, model = tmp_path / "model.onnx", Model(Linear(3), *Linear(3).init(0, X))
    model.to_onnx(path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(OnnxError, match=r"model\.onnx: expected"):
            tinynn.from_onnx(path)
    draw = np.random.default_rng(0)
    for _ in range(100):  # a changed byte is found, or does no harm
        changed = bytearray(whole)
        changed[draw.integers(len(whole))] = draw.integers(256)
        path.write_bytes(changed)
        with contextlib.suppress(OnnxError):
            tinynn.from_onnx(path)
    path.write_bytes(b"PK\x03\x04 no such thing" * 9)
    with pytest.raises(OnnxError, match="expected an ONNX file"):
        tinynn.from_onnx(path)
    with pytest.raises(FileNotFoundError):
        tinynn.from_onnx(tmp_path / "none.onnx")


W = {"w": np.ones((4, 3), dtype=np.float32)}
LAST = [node("MatMul", "x w", "y")]
AFTER = [node("MatMul", "n w", "y")]


@pytest.mark.parametrize(
    ("nodes", "more", "words"),
    [
        (LAST, {"opset": 99}, "opset 6 to .*, got opset 99"),
        (LAST, {"opset": 5}, "got opset 5"),
        (LAST, {"versions": [onnx.helper.make_opsetid("com.example", 1)]}, "got com.example 1"),
        ([node("Bernoulli", "x", "n"), *AFTER], {}, r"operator Bernoulli \(n\): expected one of"),
        ([node("Dropout", "x f t", "n"), *AFTER], {}, "inference, training_mode=False"),
        ([node("Resize", "x  s", "n", mode="cubic"), *AFTER], {}, "factors of the spatial axes"),
        ([node("Reshape", "x l", "n"), *AFTER], {}, "fit each other"),
        ([node("MatMul", "x w", "n"), node("Cast", "n", "y", to=10)], {}, "to float32, "),
        ([node("MatMul", "x w", "n"), node("Mod", "n f", "y", fmod=1)], {}, "fmod=0"),
        ([node("IsInf", "x", "b", detect_negative=0), node("Cast", "b", "n", to=1), *AFTER], {},
         "detect_negative to be 1"),
        ([node("Unsqueeze", "x", "u", axes=[2]), node("Hardmax", "u", "y")], {"opset": 11},
         "the last axis alone"),  # before opset 13 it is over all axes from one on
        ([node("Unsqueeze", "x", "u", axes=[1, 2]), node("Resize", "u r", "y", mode="linear")],
         {"opset": 10}, "linear between the centres"),
        ([node("Celu", "x", "y", alpha=-1.0)], {}, "a positive alpha"),
        ([node("Cast", "x", "n", to=7), node("ReduceMean", "n", "y")], {}, "floating-point"),
        ([node("Add", "x l", "n"), *AFTER], {}, "fit each other"),
        ([node("Add", "w w", "y")], {}, "network with layers"),
        ([node("Relu", "z", "y")], {}, "z"),
    ],
)  # fmt: skip
def test_what_is_not_read(nodes, more, words, tmp_path):
    arrays = W | {"f": np.asarray(0.5, dtype=np.float32), "l": np.ones(3, dtype=np.float32)}
    arrays |= {"t": np.asarray(True), "s": np.asarray([1.5, 1.0], dtype=np.float32)}
    arrays |= {"r": np.asarray([1, 1, 1, 2], dtype=np.float32)}
    path = write(tmp_path / "made.onnx", nodes, arrays, **more)
    with pytest.raises(OnnxError, match=words) as caught:
        tinynn.from_onnx(path)
    assert "To fix it" in str(caught.value)
    assert "made.onnx" in str(caught.value)


COUNT = [node("Shape", "x", "s"), node("Gather", "s zero", "n")]
TO_FLOAT = node("Cast", "m", "f", to=1)
TIMES, PLUS = node("Mul", "x f", "y"), node("Add", "x f", "y")


@pytest.mark.parametrize(
    ("where", "nodes"),
    [
        ("Shape", [node("Cast", "n", "f", to=1), node("Div", "x f", "y")]),
        ("Shape", [node("Add", "n two", "m"), TO_FLOAT, TIMES]),
        ("Greater", [node("Greater", "n two", "m"), node("Where", "m x half", "y")]),
        ("Equal", [node("Equal", "n seven", "m"), node("Where", "m x half", "y")]),
        ("Cast", [node("Sub", "seven n", "d"), node("Cast", "d", "m", to=9),
                  node("Where", "m x half", "y")]),
        ("Less", [node("Less", "n many", "m"), node("Where", "m x half", "y")]),
        ("Mul", [node("Mul", "n n", "q"), node("Equal", "q seven", "m"),
                 node("Where", "m x half", "y")]),
        # Of few batches, and of those below two million, each of these is a length or a number.
        ("Min", [node("Min", "n many", "m"), TO_FLOAT, TIMES]),
        ("Max", [node("Max", "n seven", "m"), TO_FLOAT, TIMES]),
        ("Div", [node("Div", "n many", "m"), TO_FLOAT, PLUS]),
        ("Mod", [node("Mod", "n two", "m"), TO_FLOAT, PLUS]),
        ("Div", [node("Div", "n two", "m"), node("Unsqueeze", "m first", "v"),
                 node("Slice", "x first v", "y")]),
        ("Cast", [node("Cast", "n", "a", to=1), node("Mul", "a half", "b"),
                  node("Cast", "b", "m", to=7), TO_FLOAT, PLUS]),
        ("Cast", [node("Cast", "n", "m", to=3), node("Cast", "m", "f", to=1), PLUS]),
    ],
)  # fmt: skip
def test_numbers_that_follow_from_the_batch_are_no_constants(where, nodes, tmp_path):
    refused = r"no number that follows" if where == "Shape" else "same meaning for batches of every"
    with pytest.raises(OnnxError, match=rf"operator {where} \(\w\): expected .*{refused}"):
        tinynn.from_onnx(write(tmp_path / "made.onnx", [*COUNT, *nodes], NUMBERS))


def test_a_number_without_axes(tmp_path):
    nodes = [node("Slice", "x first one", "a"), node("ReduceMax", "a", "b"),
             node("Reshape", "b one", "v"), node("Reshape", "v none", "c"),
             node("Mul", "x c", "z"), node("MatMul", "z w", "y")]  # fmt: skip
    arrays = {"first": np.asarray([0]), "one": np.asarray([1]), "w": SQUARE,
              "none": np.zeros(0, dtype=np.int64)}  # fmt: skip
    read_as_it_runs(write(tmp_path / "made.onnx", nodes, arrays))


def test_an_expansion_to_a_multiple_of_the_batch(tmp_path):
    nodes = [*COUNT, node("Mul", "n two", "m"), node("Unsqueeze", "m first", "v"),
             node("Concat", "v fours", "k", axis=0), node("Expand", "half k", "e"),
             node("MatMul", "e w", "y")]  # fmt: skip
    with pytest.raises(OnnxError, match=r"operator Expand \(e\): expected lengths that are the"):
        tinynn.from_onnx(write(tmp_path / "made.onnx", nodes, NUMBERS | {"w": SQUARE[:4]}))


def test_a_length_that_slices_change_is_no_number(tmp_path):
    nodes = [node("Slice", "x first last", "z"), node("Shape", "z", "s"),
             node("Cast", "s", "f", to=1), node("ReduceSum", "f", "n", keepdims=0),
             node("Mul", "x n", "y")]  # fmt: skip
    with pytest.raises(OnnxError, match=r"operator Shape \(s\): expected no number that follows"):
        tinynn.from_onnx(write(tmp_path / "made.onnx", nodes, NUMBERS))


#: With n the size of the batch: numbers that are lengths, or the same, whatever n is.
DECIDED: dict[str, list[Any]] = {
    "max(n, 1)": [node("Max", "n one", "m")],
    "min(2 n, n + n, 3 n)": [
        node("Mul", "n two", "a"), node("Add", "n n", "b"), node("Mul", "n three", "c"),
        node("Min", "c a b", "d"), node("Div", "d two", "m"),
    ],
    "(4 n + 2) // 4": [
        node("Mul", "n four", "a"), node("Add", "a two", "b"), node("Div", "b four", "m"),
    ],
    "n + (4 n + 6) % 2": [
        node("Mul", "n four", "a"), node("Add", "a six", "b"), node("Mod", "b two", "c"),
        node("Add", "n c", "m"),
    ],
    "abs(-n)": [node("Neg", "n", "a"), node("Abs", "a", "m")],
    "floor(n + 0.5)": [
        node("Cast", "n", "a", to=1), node("Add", "a half", "b"), node("Floor", "b", "c"),
        node("Cast", "c", "m", to=7),
    ],
    "trunc(n + 0.5)": [
        node("Cast", "n", "a", to=1), node("Add", "a half", "b"), node("Cast", "b", "m", to=7),
    ],
    "n where n > 0, else 7": [node("Greater", "n zero", "t"), node("Where", "t n seven", "m")],
}  # fmt: skip
NUMBERS: dict[str, Any] = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "six": 6, "seven": 7, "many": 2_000_000,
    "first": [0], "last": [-1], "fours": [4],
}  # fmt: skip
NUMBERS = {name: np.asarray(value) for name, value in NUMBERS.items()}
NUMBERS["half"] = np.asarray(0.5, dtype=np.float32)


@pytest.mark.parametrize("name", DECIDED)
def test_arithmetic_of_lengths(name, tmp_path):
    nodes = [
        *COUNT, *DECIDED[name], node("Unsqueeze", "m first", "v"),
        node("Concat", "v fours", "k", axis=0),
        node("Reshape", "x k", "z"), node("MatMul", "z w", "y"),
    ]  # fmt: skip
    arrays = NUMBERS | {"w": SQUARE}
    read_as_it_runs(write(tmp_path / "made.onnx", nodes, arrays))


@pytest.mark.parametrize(
    ("operator", "number", "says"),
    [("Equal", -1, 0), ("Equal", 2.5, 0), ("Greater", 0, 1), ("LessOrEqual", 0.5, 0)],
)
def test_comparisons_that_all_sizes_of_the_batch_answer_alike(operator, number, says, tmp_path):
    compared = np.asarray(number, dtype=np.float32)
    nodes = [
        *COUNT, node("Cast", "n", "f", to=1), node(operator, "f compared", "m"),
        node("Where", "m w v", "a"), node("Gemm", "x a", "y"),
    ]  # fmt: skip
    arrays = {"zero": np.asarray(0), "compared": compared, "w": SQUARE, "v": 1 - SQUARE}
    model = read_as_it_runs(write(tmp_path / "made.onnx", nodes, arrays))
    np.testing.assert_array_equal(model.params["0"]["weight"], SQUARE if says else 1 - SQUARE)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
@pytest.mark.parametrize("operator", ["Reciprocal", "Neg", "Exp", "Softmax", "MatMul"])
def test_integers_are_converted_before_they_are_computed_with(dtype, operator, tmp_path):
    kind = {"uint8": 2, "int64": 7, "bool": 9}[dtype]
    inputs = "f w" if operator == "MatMul" else "f"
    nodes = [node("Cast", "x", "f", to=1), node(operator, inputs, "y")]
    path = write(tmp_path / "made.onnx", nodes, W if operator == "MatMul" else {}, kind=kind)
    read_as_it_runs(path, x=(np.arange(12).reshape(3, 4) % 7 * 4 + 1).astype(dtype))


def test_parameters_of_half_precision(tmp_path):
    path = write(tmp_path / "made.onnx", LAST, {"w": np.ones((4, 3), dtype=np.float16)})
    with pytest.raises(OnnxError, match=r"0\.weight: expected float32 or float64, got float16"):
        tinynn.from_onnx(path)


def test_outputs_are_chosen_by_name(tmp_path):
    path = write(tmp_path / "made.onnx", LAST, W)
    with pytest.raises(OnnxError, match="expected an output of y, got 'z'"):
        tinynn.from_onnx(path, output="z")


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 24, reason="onnx: no masks of fewer keys")
@pytest.mark.parametrize("settings", [{}, {"scale": 0.0}])
@pytest.mark.parametrize("keys", [1, 3, 5])
@pytest.mark.parametrize("kind", [bool, np.float32])
def test_attention_with_a_mask_of_fewer_keys(
    settings: dict[str, float], keys: int, kind: type, tmp_path: Any
) -> None:
    """The others are not seen; a scale of 0 makes all that are the same."""
    from onnx.reference import ReferenceEvaluator

    rng, make = np.random.default_rng(1), onnx.helper.make_tensor_value_info
    arrays = {name: rng.normal(size=(2, 3, 5, 4)).astype(np.float32) for name in "qkv"}
    mask = onnx.numpy_helper.from_array(np.tri(5, keys).astype(kind), "mask")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Attention", [*"qkv", "mask"], ["y"], **settings)],
        "made",
        [make(name, 1, ["batch", *array.shape[1:]]) for name, array in arrays.items()],
        [make("y", 1, ["batch", 3, 5, 4])],
        [mask],
    )
    opsets = [onnx.helper.make_opsetid("", 24)]
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=opsets)
    onnx.save(model, tmp_path / "attention.onnx")
    (wanted,) = ReferenceEvaluator(model).run(None, arrays)
    found = tinynn.from_onnx(tmp_path / "attention.onnx").predict(tuple(arrays.values()))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
