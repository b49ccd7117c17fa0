"""K-FAC: exact where the Fisher information is a Kronecker product, and a reference by hand."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_close
from tinynn import tree
from tinynn.functional import tanh
from tinynn.layers import BatchNorm, Conv2d, Embedding, Flatten, Layer, Linear, Sequential
from tinynn.losses import AbsoluteError, SoftmaxCrossEntropy
from tinynn.optim import KFAC, LevenbergMarquardt
from tinynn.optim.flat import Flat
from tinynn.optim.second_order.kfac import _preconditioned
from tinynn.optim.second_order.objective import Surface
from tinynn.training import prepare

pytestmark = pytest.mark.reads_scalars

RNG = np.random.RandomState(0)
X, WEIGHTS = RNG.randn(30, 3), RNG.rand(30)
LABELS = (X[:, 0] * X[:, 1] > 0).astype(int) + (X[:, 2] > 0.5)
Y = np.tanh(X @ [[1.0, 0.5], [-2.0, 0.0], [0.5, 1.0]])
NET = Sequential(Linear(4), tanh, Linear(3))


def of_start(net: Any, x: Any, y: Any, owner: Any, **options: Any) -> tuple[Any, Any]:
    """(the objective, the params) of the first step."""
    problem = prepare(net, x, y, optimizer=owner, batch_size=None, **options)
    batch, carry = problem.batches.dataset.between(0, x.shape[0]), problem.start
    return problem.step._extras(None, carry, batch, None)["objective"], carry.params


@pytest.mark.parametrize(("bias", "weights"), [(True, None), (False, WEIGHTS)])
def test_a_linear_models_information_is_the_product(
    bias: bool, weights: Any, backend: backends.Backend, float64: Any
) -> None:
    """Of squared errors it is the inputs' second moments times those of the noise."""
    kfac, net, host = KFAC(), Linear(2, bias=bias), backend.to_host
    x, y = (backend.asarray(a, dtype=float64) for a in (X, Y))
    given = None if weights is None else backend.asarray(weights, dtype=float64)
    objective, params = of_start(net, x, y, kfac, sample_weight=given)
    layers = kfac._layers(params)
    factors = kfac._factors(objective, params, layers)
    inputs = np.c_[X, np.ones(30)] if bias else X
    share = np.full(30, 1 / 30) if weights is None else weights / weights.sum()
    moments = inputs.T @ (share[:, None] * inputs)
    np.testing.assert_allclose(host(factors[""]["inputs"]), moments, rtol=1e-12)
    # The loss is the mean over two outputs of the square: half of 2 for each.
    np.testing.assert_allclose(host(factors[""]["outputs"]), np.eye(2), atol=1e-12)
    dense, flat = LevenbergMarquardt(solver="dense"), Flat.of(params)
    exact: Any = Surface(dense, objective, params).linearized(flat.vector(params))
    product = np.kron(moments, np.eye(2))
    order = np.argsort([0, 1, 2, 3, 4, 5, 6, 7][: product.shape[0]])
    if bias:  # the params have the bias where their tree has it
        at = {path: i for i, (path, _) in enumerate(tree.paths(params))}
        order = np.r_[6:8, 0:6] if at["bias"] < at["weight"] else order
    np.testing.assert_allclose(host(exact.matrix), product[np.ix_(order, order)], atol=1e-12)
    # The damped product, inverted as a whole.
    gradient = tinynn.grad(objective.loss)(params)
    root = np.asarray(0.3)
    damping = backend.asarray(0.3, dtype=float64)
    found = _preconditioned(factors, layers, gradient, damping)
    pi = np.sqrt(np.trace(moments) / moments.shape[0])
    whole = np.kron(moments + pi * root * np.eye(len(moments)), (1 + root / pi) * np.eye(2))
    expected = np.linalg.solve(whole[np.ix_(order, order)], host(flat.vector(gradient)))
    np.testing.assert_allclose(host(flat.vector(found)), expected, rtol=1e-9)


def by_hand(params: Any, steps: int, kfac: KFAC, weights: Any) -> list[float]:
    """The losses of 3-4-3 with softmax, by dense matrices and loops over rows."""
    share = np.full(30, 1 / 30) if weights is None else weights / weights.sum()
    w = [np.r_[p["weight"], p["bias"][None, :]] for p in (params["0"], params["2"])]
    onehot, sizes = np.eye(3)[LABELS], [w[0].size, w[1].size]
    means: list[Any] = [None] * 4
    damping, before, losses = kfac.damping, np.zeros(sum(sizes)), []

    def forward(w: Any) -> tuple[Any, Any, Any]:
        inputs = np.c_[X, np.ones(30)]
        hidden = np.c_[np.tanh(inputs @ w[0]), np.ones(30)]
        out = hidden @ w[1]
        p = np.exp(out - out.max(1, keepdims=True))
        return inputs, hidden, p / p.sum(1, keepdims=True)

    def loss(w: Any) -> float:
        return float(-(share * np.log((forward(w)[2] * onehot).sum(1))).sum())

    for step in range(1, steps + 1):
        inputs, hidden, p = forward(w)
        losses.append(loss(w))
        slope = share[:, None] * (p - onehot)
        inner = (slope @ w[1][:-1].T) * (1 - hidden[:, :-1] ** 2)
        gradient = np.r_[(inputs.T @ inner).ravel(), (hidden.T @ slope).ravel()]
        new = [inputs.T @ (share[:, None] * inputs), np.zeros((4, 4)),
               hidden.T @ (share[:, None] * hidden), np.zeros((3, 3))]  # fmt: skip
        full = np.zeros((len(gradient), len(gradient)))
        for row in range(30):
            curve = share[row] * (np.diag(p[row]) - np.outer(p[row], p[row]))
            first = w[1][:-1].T * (1 - hidden[row, :-1] ** 2)  # outputs by the first layer's
            new[1] += first.T @ curve @ first
            new[3] += curve
            jac = np.c_[np.einsum("i,ko->kio", inputs[row], first).reshape(3, -1),
                        np.einsum("i,ko->kio", hidden[row], np.eye(3)).reshape(3, -1)]  # fmt: skip
            full += jac.T @ curve @ jac
        kept = min(1 - 1 / step, kfac.decay)
        means = new if step == 1 else [kept * a + (1 - kept) * b for a, b in zip(means, new)]  # noqa: B905
        blocks = []
        for a, g in (means[:2], means[2:]):
            pi = np.sqrt((np.trace(a) / len(a)) / (np.trace(g) / len(g)))
            root = np.sqrt(damping)
            blocks.append(np.kron(a + pi * root * np.eye(len(a)), g + root / pi * np.eye(len(g))))
        parts = np.split(gradient, [sizes[0]])
        direction = -np.concatenate([np.linalg.solve(b, g) for b, g in zip(blocks, parts)])  # noqa: B905
        moves = np.stack([direction, before], axis=1)[:, : 1 if step == 1 else 2]
        matrix = moves.T @ (full + damping * np.eye(len(full))) @ moves
        best = -np.linalg.solve(matrix, moves.T @ gradient)
        before = moves @ best
        w = [a + d.reshape(a.shape) for a, d in zip(w, np.split(before, [sizes[0]]))]  # noqa: B905
        ratio = (losses[-1] - loss(w)) / (-0.5 * best @ (moves.T @ gradient))
        damping *= 0.95 if ratio > 0.75 else (1 / 0.95 if not ratio >= 0.25 else 1.0)
    return losses


@pytest.mark.only("numpy")
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_ten_steps_are_those_by_hand(weights: Any, backend: backends.Backend) -> None:
    kfac = KFAC(0.05)
    start = NET.init(0, X)[0]
    ours = tinynn.fit(
        NET, X, LABELS, loss=SoftmaxCrossEntropy(), optimizer=kfac, epochs=10, batch_size=None,
        params=start, sample_weight=weights,
    )  # fmt: skip
    np.testing.assert_allclose(ours.history["loss"], by_hand(start, 10, kfac, weights), rtol=1e-8)
    assert ours.history["loss"][-1] < 0.6 * ours.history["loss"][0]


def test_every_library_takes_numpys_steps(backend: backends.Backend, float64: Any) -> None:
    """Rows of sequences too, whose places count as rows."""
    sequences, goal = X.reshape(5, 6, 3), Y.reshape(5, 6, 2)
    net = Sequential(Linear(2), tanh, Linear(2))
    given = [backend.asarray(a, dtype="float64") for a in (sequences, goal)]
    asked: dict[str, Any] = {"optimizer": KFAC(l2=1e-3), "epochs": 3, "batch_size": None}
    engine = "jit" if backend.name == "jax" else "calls"  # one program is compiled the sooner
    ours = tinynn.fit(net, *given, engine=engine, **asked)
    theirs = tinynn.fit(net, sequences, goal, engine="eager", **asked)
    np.testing.assert_allclose(ours.history["loss"], theirs.history["loss"], rtol=1e-6)
    for our, their in zip(tree.leaves(ours.params), tree.leaves(theirs.params), strict=True):
        assert_close(our, their, backend, dtype=float64, rtol=1e-6, atol=1e-8)


@pytest.mark.only("numpy", "torch", "array_api_strict")  # half a minute elsewhere
def test_batches_resumed(backend: backends.Backend, tmp_path: Any) -> None:
    """Two and two epochs are four, bit for bit, in batches of which the last is smaller."""
    asked: dict[str, Any] = {"optimizer": KFAC(0.1), "batch_size": 20, "engine": "calls"}
    x, labels = backend.asarray(X, dtype="float32"), backend.asarray(LABELS.astype("int32"))
    whole = tinynn.fit(NET, x, labels, epochs=4, **asked)
    kept = {"checkpoint": tmp_path / "run.safetensors"}
    tinynn.fit(NET, x, labels, epochs=2, **asked, **kept)
    resumed = tinynn.fit(NET, x, labels, epochs=4, resume=True, **asked, **kept)
    assert resumed.history == whole.history
    for a, b in zip(tree.leaves(resumed.params), tree.leaves(whole.params), strict=True):
        assert np.array_equal(backend.to_host(a), backend.to_host(b))
    assert whole.history["loss"][-1] < 0.7 * whole.history["loss"][0]


@pytest.mark.only("numpy")
def test_batches_of_few_rows(backend: backends.Backend) -> None:
    """A step after which the batch's loss is more is not taken, and the damping is more."""
    rng = np.random.RandomState(0)
    x = rng.randn(64, 3)
    net = Sequential(Linear(16), tanh, Linear(16), tanh, Linear(1))
    asked = {"optimizer": KFAC(), "batch_size": 4, "epochs": 40, "seed": 2}
    losses = tinynn.fit(net, x, np.sin(x.sum(axis=1)), **asked).history["loss"]
    assert max(losses) < 2.0


def test_float32_stays(backend: backends.Backend) -> None:
    x, y = (backend.asarray(a, dtype="float32") for a in (X, Y))
    net = Sequential(Linear(4, bias=False), tanh, Linear(2))
    model = tinynn.fit(net, x, y, optimizer="kfac", epochs=30, batch_size=None)
    assert all(leaf.dtype == backend.xp.float32 for leaf in tree.leaves(model.params))
    assert model.history["loss"][-1] < 0.1 * model.history["loss"][0]


@dataclass(frozen=True)
class Twice(Layer):
    """One layer that is called again."""

    def forward(self, scope: Any, x: Any) -> Any:
        layer = Linear(3)
        return scope("line", layer, tanh(scope("line", layer, x)))


@pytest.mark.only("numpy")
class TestBadInput:
    @pytest.mark.parametrize(
        ("net", "x", "said"),
        [
            (Sequential(Conv2d(2, kernel_size=1), Flatten(), Linear(3)), X.reshape(30, 1, 3, 1),
             r"parameters .*weight \(.* for '0'"),
            (Sequential(Linear(4), BatchNorm(), Linear(3)), X, r"bias \(4,\) for '1'"),
            (Twice(), X, "a Linear that is called again for 'line'"),
            (Sequential(Embedding(9, 2), Flatten(), Linear(3)), np.abs(X).astype(int),
             "for '0'"),
        ],
        ids=["Conv2d", "BatchNorm", "tied", "Embedding"],
    )  # fmt: skip
    def test_layers(self, net: Any, x: Any, said: str, backend: backends.Backend) -> None:
        with pytest.raises(ValueError, match=f"(?s)every parameter to be of a Linear.*{said}"):
            tinynn.fit(net, x, LABELS, optimizer=KFAC(), epochs=1)

    def test_loss_and_memory(self, backend: backends.Backend) -> None:
        with pytest.raises(ValueError, match="convex in the prediction"):
            tinynn.fit(NET, X, np.c_[Y, Y[:, :1]], loss=AbsoluteError(), optimizer=KFAC(), epochs=1)
        with pytest.raises(ValueError, match=r"3 answers.*30 rows.*got 1\.01e-05 GB"):
            tinynn.fit(
                NET, X, LABELS, optimizer=replace(KFAC(), memory_limit=1e4), epochs=1,
                batch_size=None,
            )  # fmt: skip
        for bad in ({"damping": 0.0}, {"decay": 1.0}, {"l2": -1.0}):
            with pytest.raises(ValueError, match="KFAC: expected"):
                KFAC(**bad)
