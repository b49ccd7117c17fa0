"""Smaller networks: pruned, of whole numbers, and taught; each in onnxruntime."""

import numpy as np
import pytest
from scipy import special

from tests.checks import assert_equal
from tests.onnx_files import session
from tinynn import compression, fit, fit_many, tree
from tinynn.functional import relu
from tinynn.layers import Conv2d, Flatten, Linear, Sequential
from tinynn.losses import SquaredError
from tinynn.onnx import OnnxError
from tinynn.optim import SGD, Adam, KeepZeros, learning_rates
from tinynn.tabular import fit_table
from tinynn.training import Model

pytestmark = pytest.mark.reads_scalars  # the checks of data and loss read one boolean each, as fit
RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 6)).astype("float32")
LABELS = (X @ RNG.normal(size=(6, 3))).argmax(axis=1)


def net(width):
    return Sequential(Linear(width), relu, Linear(3))


def test_the_smallest_weights_are_cut(backend):
    weights = {"0": {"weight": RNG.normal(size=(4, 5)), "bias": np.zeros(5)},
               "2": {"weight": 0.1 * RNG.normal(size=(5, 4))}}  # fmt: skip
    params = tree.map(lambda a: backend.asarray(a, dtype="float32"), weights)
    found = compression.prune(params, 0.5)
    both = np.concatenate([weights[k]["weight"].ravel() for k in ("0", "2")]).astype("float32")
    limit = np.sort(np.abs(both))[19]
    for name in ("0", "2"):
        given = weights[name]["weight"].astype("float32")
        assert_equal(found[name]["weight"], np.where(abs(given) <= limit, 0, given), backend)
    assert compression.sparsity(found) == pytest.approx(0.5)
    assert compression.sparsity(found, "2.weight") > 0.8
    each = compression.prune(params, 0.5, per_layer=True)
    assert compression.sparsity(each, "0.weight") == pytest.approx(0.5)


def test_zeros_stay_zeros(backend):
    weight = np.asarray([[0.0, 1.0], [2.0, 0.0]])
    params = {"weight": backend.asarray(weight), "bias": backend.asarray(np.zeros(2))}
    optimizer = KeepZeros(Adam(0.1))
    state, gradients = optimizer.init(params), tree.map(lambda a: a + 1.0, params)
    for _ in range(2):
        params, state = optimizer.update(gradients, state, params)
    found = backend.to_host(params["weight"])
    assert ((found == 0) == (weight == 0)).all()
    assert (backend.to_host(params["bias"]) != 0).all()


def test_networks_are_pruned_to_a_plan_while_they_learn(tmp_path):
    plan = compression.Pruning(0.8, first=2, last=5)
    assert [plan.share_after(epoch) for epoch in (1, 2, 3, 5, 9)] == [0.0, 0.4625, 0.7, 0.8, 0.8]
    shares = []

    def note(run):
        shares.append(compression.sparsity(run.params))

    given = {"epochs": 8, "seed": 1, "optimizer": KeepZeros(Adam(0.01))}
    model = fit(net(16), X, LABELS, callbacks=[plan, note], **given)
    count = 16 * 9
    expected = [round(plan.share_after(epoch) * count) / count for epoch in range(1, 9)]
    np.testing.assert_allclose(shares, expected, atol=1e-6)
    path = tmp_path / "sparse.onnx"
    model.to_onnx(path)
    (logits, *_) = session(path).run(["output"], {"input": X})
    np.testing.assert_allclose(logits, model.outputs(X), atol=1e-5)
    again = fit(net(16), X, LABELS, params=model.params, **given)  # and with no callback
    np.testing.assert_array_equal(
        again.params["0"]["weight"] == 0, model.params["0"]["weight"] == 0
    )
    with pytest.raises(ValueError, match=r"fix it: optimizer=KeepZeros\(Adam\(\)\)"):
        fit(net(4), X, LABELS, callbacks=plan, epochs=1)


def test_many_networks_keep_their_zeros_and_rates():
    optimizer = KeepZeros(SGD([0.1, 0.2]))
    stack = fit_many(net(4), X, LABELS, optimizer=optimizer, epochs=1)
    assert len(stack) == 2
    one = KeepZeros(SGD(0.1))
    assert learning_rates(one, one.init(stack[0].params)) == {"": 0.1}


def test_pruning_says_what_it_needs():
    params = {"weight": np.ones(3)}
    for share in (1.0, -0.1, True):
        with pytest.raises(ValueError, match=r"share: expected a number in \[0, 1\)"):
            compression.prune(params, share)
    with pytest.raises(ValueError, match=r"expected pattern .* to match a parameter"):
        compression.prune(params, 0.5, weights="*kernel")
    with pytest.raises(ValueError, match="last to be at or after first"):
        compression.Pruning(0.5, first=3, last=2)
    with pytest.raises(TypeError, match="KeepZeros: expected an optimizer"):
        KeepZeros(None)


# Whole numbers.


def operators(path):
    onnx = pytest.importorskip("onnx")
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("rows", [None, X])
def test_whole_numbers_in_onnxruntime_answer_as_floats_do(rows, tmp_path):
    model = fit(net(64), X, LABELS, epochs=30, optimizer=Adam(0.01))
    plain, small = tmp_path / "plain.onnx", tmp_path / "small.onnx"
    model.to_onnx(plain)
    model.to_onnx(small, rows, quantize=True)
    (found, *_) = session(small).run(["output"], {"input": X})
    expected = model.outputs(X)
    assert abs(found - expected).max() < (0.02 if rows is None else 0.06) * abs(expected).max()
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.95
    kinds = operators(small)
    assert kinds.count("DequantizeLinear") == (2 if rows is None else 4)
    assert kinds.count("QuantizeLinear") == (0 if rows is None else 2)
    assert "probabilities" in [each.name for each in session(small).get_outputs()]


def test_each_output_of_a_weight_has_its_scale(tmp_path):
    onnx = pytest.importorskip("onnx")
    weight = RNG.normal(size=(5, 3)) * np.asarray([1.0, 100.0, 0.0])
    model = Model(Linear(3, bias=False), {"weight": weight.astype("float32")})
    path = tmp_path / "small.onnx"
    model.to_onnx(path, quantize=True)
    arrays = {a.name: onnx.numpy_helper.to_array(a) for a in onnx.load(path).graph.initializer}
    scale = next(array for name, array in arrays.items() if name.endswith(".scale"))
    whole = next(array for name, array in arrays.items() if name.endswith(".int8"))
    np.testing.assert_allclose(scale[:2], abs(weight).max(axis=0)[:2] / 127, rtol=1e-6)
    assert (whole.dtype, whole.shape) == (np.int8, (5, 3))
    assert abs(whole * scale - weight).max(axis=0)[1] <= scale[1] / 2 * 1.001
    with pytest.raises(OnnxError, match="expected a network with weights in products"):
        Model(Sequential(relu), {}).to_onnx(path, X, quantize=True)


def test_convolutions_are_whole_numbers_too(tmp_path):
    x = RNG.normal(size=(4, 6, 6, 2)).astype("float32")
    network = Sequential(Conv2d(3, kernel_size=3), relu, Flatten(), Linear(2))
    params, state = network.init(0, x)
    model, path = Model(network, params, state, loss=SquaredError()), tmp_path / "small.onnx"
    model.to_onnx(path, x, quantize=True)
    (found,) = session(path).run(["output"], {"input": x})
    expected = model.outputs(x)
    assert abs(found - expected).max() < 0.06 * abs(expected).max()
    assert operators(path).count("DequantizeLinear") == 4


@pytest.mark.parametrize("given", [False, True])
def test_tables_keep_their_columns_and_answers(given, tmp_path):
    x, kind = RNG.normal(size=200), RNG.choice(["a", "b"], 200)
    table = {"x": x, "kind": kind}
    y = 100 + 5 * x + 3 * (kind == "a")
    model = fit_table(table | {"y": y}, "y", hidden=(8,), epochs=20, report=lambda line: None)
    path = tmp_path / "small.onnx"
    model.to_onnx(path, table if given else None, quantize=True)
    feed = {"x": x, "kind": kind.astype(object)}
    (found,) = session(path).run(["prediction"], feed)  # once the columns were left out of the file
    expected = model.predict(table)
    assert 0 < abs(found - expected).max() < 0.06 * abs(expected - 100).max()
    assert operators(path).count("QuantizeLinear") == (2 if given else 0)


# Distillation.


def test_the_loss_of_a_student_is_hintons():
    logits, teacher = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 3))
    labels = np.asarray([0, 1, 2, 0, 1])
    loss = compression.Distillation(temperature=3.0, share=0.75)
    soft = special.rel_entr(
        special.softmax(teacher / 3, axis=1), special.softmax(logits / 3, axis=1)
    )
    hard = -special.log_softmax(logits, axis=1)[np.arange(5), labels]
    expected = 0.75 * 9 * soft.sum(axis=1) + 0.25 * hard
    np.testing.assert_allclose(loss.values(logits, (labels, teacher)), expected, rtol=1e-12)


def first_class(prediction, target):
    return (target == 0).mean() + 0.0 * prediction.sum()


def test_a_student_learns_what_the_teacher_answers(tmp_path):
    teacher = fit(net(32), X, LABELS, epochs=60, optimizer=Adam(0.01))
    held = (X[:20], LABELS[:20])
    student = compression.distill(
        teacher, net(4), X, LABELS, validation=held, epochs=80, optimizer=Adam(0.01)
    )
    assert len(student.history["validation_loss"]) == 80
    answers = [model.predict_proba(X).argmax(axis=1) for model in (teacher, student)]
    assert (answers[0] == answers[1]).mean() > 0.9
    assert student.evaluate(X, LABELS)["loss"] < 0.5
    given = {"validation": 0.2, "epochs": 2, "metrics": ["accuracy", first_class]}
    short = compression.distill(teacher, net(4), X, LABELS, **given)
    assert short.history["validation_accuracy"][-1] <= 1.0
    measured = short.evaluate(X, LABELS)  # of labels, as in training
    right = (short.outputs(X).argmax(axis=1) == LABELS).mean()
    assert measured["accuracy"] == pytest.approx(right)
    assert measured["first_class"] == pytest.approx((LABELS == 0).mean())
    student.to_onnx(tmp_path / "student.onnx")
    (logits, *_) = session(tmp_path / "student.onnx").run(["output"], {"input": X})
    np.testing.assert_allclose(logits, student.outputs(X), atol=1e-5)
    with pytest.raises(ValueError, match="expected a teacher of 2 classes"):
        compression.distill(teacher, Sequential(Linear(2)), X, LABELS % 2)
    other = fit(Linear(1), X, X[:, :1], epochs=1)
    with pytest.raises(TypeError, match="teacher: expected a model of SoftmaxCrossEntropy"):
        compression.distill(other, net(4), X, LABELS)
