"""Containers and small layers: on every backend, eager, compiled, ONNX, files; errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_close
from tests.engines import compiled_by
from tests.gradients import placed
from tests.onnx_files import assert_same, exported
from tinynn import tree
from tinynn.functional import relu, tanh
from tinynn.layers import (
    Bilinear,
    Concatenate,
    Conv2d,
    Flatten,
    Lambda,
    Linear,
    MixtureOfExperts,
    Parallel,
    Permute,
    PReLU,
    Reshape,
    Residual,
    Sequential,
    ShapeError,
    SqueezeExcite,
    from_config,
    run,
    to_config,
)
from tinynn.losses import SquaredError
from tinynn.optim import SGD
from tinynn.trace import namespace
from tinynn.training import Model, fit

DRAW = np.random.default_rng(4)
X = DRAW.normal(size=(4, 6))
IMAGES = DRAW.normal(size=(4, 3, 5, 6))


def squared(x: Any) -> Any:
    return x * x


def total(x: Any) -> Any:
    return namespace(x).sum(x, axis=(1, 2))


# name -> (layer, its input)
LAYERS: dict[str, tuple[Any, Any]] = {
    "prelu": (PReLU(), IMAGES),
    "prelu, shared": (PReLU(shared=True, start=0.1), X),
    "prelu, first": (PReLU(channels="first"), IMAGES),
    "reshape": (Reshape((5, -1, 2)), IMAGES),
    "permute": (Permute((3, 1, 2)), IMAGES),
    "residual": (Residual(Sequential(Linear(6), tanh)), X),
    "shortcut": (Residual(Linear(2), shortcut=Linear(2)), X),
    "parallel": (Sequential(Parallel(Linear(2), tanh, Linear(3)), Concatenate()), X),
    "lambda": (Lambda(squared), X),
    "bilinear": (Sequential(Parallel(Linear(2), Linear(3)), Bilinear(4)), X),
    "squeeze": (SqueezeExcite(2), IMAGES),
    "squeeze, first": (SqueezeExcite(2, channels="first"), IMAGES),
    "experts": (MixtureOfExperts(Linear(3), experts=4, balance=0.5), X),
    "experts of images": (MixtureOfExperts(Linear(3), experts=3, chosen=1), IMAGES),
}


def moved(params: Any) -> Any:
    draw = np.random.default_rng(7)
    return tree.map(lambda a: a + 0.3 * draw.normal(size=a.shape), params)


def loss_of(layer: Any) -> Callable[[Any, Any], Any]:
    def loss(params: Any, x: Any) -> Any:
        out = run(layer, params, {}, x, training=True)
        xp = namespace(out.output)
        return sum(out.losses.values(), start=xp.sum(xp.sin(out.output)))

    return loss


@pytest.mark.parametrize("name", LAYERS)
def test_every_backend_gives_what_numpy_gives(name: str, backend: backends.Backend) -> None:
    """And the host's gradients are differences'."""
    # In one dtype, the widest: training, below, is in float32.
    float_dtype = "float64" if "float64" in backend.dtypes() else "float32"
    layer, host = LAYERS[name]
    begun = moved(layer.init(0, host)[0])
    params, x = placed((begun, host), backend, float_dtype)
    f = tinynn.value_and_grad(loss_of(layer), argnums=(0, 1))
    value, found = (tinynn.compile(f) if backend.name == "jax" else f)(params, x)
    wanted, expected = f(begun, host)
    single = backend.to_host(x).dtype == np.float32
    close = {"rtol": 1e-4, "atol": 1e-4} if single else {"rtol": 1e-10, "atol": 1e-11}
    assert_close(value, wanted, backend, dtype=float_dtype, **close)
    for a, b in zip(tree.leaves(found), tree.leaves(expected), strict=True):
        assert_close(a, b, backend, dtype=float_dtype, **close)
    if backend.name == "numpy":
        draw = np.random.default_rng(0)
        ways = tree.map(lambda a: draw.normal(size=a.shape), (begun, host))
        step = lambda h: loss_of(layer)(*tree.map(lambda a, d: a + h * d, (begun, host), ways))  # noqa: E731
        slope = sum(tree.leaves(tree.map(lambda g, d: np.sum(g * d), expected, ways)))
        np.testing.assert_allclose(slope, (step(1e-6) - step(-1e-6)) / 2e-6, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["prelu", "reshape", "bilinear", "squeeze, first", "experts"])
def test_jvp_and_vmap(name: str, backend: backends.Backend) -> None:
    layer, host = LAYERS[name]
    begun = moved(layer.init(0, host)[0])
    params, x = placed((begun, host), backend, backend.default_float)
    whole = layer(begun, host)
    alone = tinynn.vmap(lambda x: layer(params, x[None, ...])[0, ...])(x)
    assert_close(alone, whole, backend, rtol=1e-5, atol=1e-5)
    y, change = tinynn.jvp(lambda x: layer(params, x), (x,), (x,))
    assert_close(y, whole, backend, rtol=1e-5, atol=1e-5)
    ours = tinynn.jvp(lambda x: layer(begun, x), (host,), (host,))[1]
    assert_close(change, ours, backend, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["prelu, first", "shortcut", "bilinear", "squeeze", "experts"])
def test_the_first_layer_is_given_data_that_is_not_traced(
    name: str, backend: backends.Backend
) -> None:
    layer, host = LAYERS[name]
    x = backend.asarray(host.astype("f4"))
    params, state = layer.init(0, x)

    def squares(params: Any, x: Any) -> Any:
        y = layer.apply(params, state, x)[0]
        return namespace(y).sum(y * y)

    alone = tinynn.grad(lambda p: squares(p, x))(params)
    both = tinynn.grad(squares, argnums=(0, 1))(params, x)[0]
    for found, expected in zip(tree.leaves(alone), tree.leaves(both), strict=True):
        assert_close(found, backend.to_host(expected), backend, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_onnx_gives_the_same(name: str, tmp_path: Path) -> None:
    layer, x = LAYERS[name]
    x = x.astype("f4")
    net = Sequential(layer, Flatten(), Linear(2))
    model = Model(net, *net.init(0, x))
    assert_same(exported(model, tmp_path, x), model, x, rows=(1, 3))


NET = Sequential(
    Reshape((3, 4, 2)), Residual(Conv2d(2, padding="same")), PReLU(), SqueezeExcite(1),
    Permute((2, 1, 3)), Parallel(Lambda(lambda x: total(x), name="total"), Flatten()),
    Concatenate(), MixtureOfExperts(Linear(3), experts=3, balance=0.1), Linear(2),
)  # fmt: skip
ROWS = 0.5 * DRAW.normal(size=(8, 24)).astype("f4")
Y = DRAW.normal(size=(8, 2)).astype("f4")
SETTINGS: dict[str, Any] = {
    "loss": SquaredError(), "optimizer": SGD(0.05), "epochs": 3, "batch_size": 4, "seed": 1,
    "progress": False,
}  # fmt: skip


@pytest.mark.reads_scalars
def test_compiled_training_is_eager_training_of_numpy(backend: backends.Backend) -> None:
    host = fit(NET, ROWS, Y, engine="eager", **SETTINGS)
    x, y = backend.asarray(ROWS), backend.asarray(Y)
    here = fit(NET, x, y, engine=compiled_by(backend), **SETTINGS)
    expected = dict(tree.paths(host.params))
    for name, leaf in tree.paths(here.params):
        assert_close(leaf, expected[name], backend, rtol=1e-3, atol=1e-4)


@pytest.mark.only("numpy")
@pytest.mark.reads_scalars
def test_loops_give_the_training_of_calls() -> None:
    pytest.importorskip("llvmlite", reason="LLVM compiles NumPy's loops")
    net = Sequential(PReLU(), MixtureOfExperts(Linear(2, bias=False), experts=2, chosen=1))
    x, y = ROWS[:, :3], Y
    a, b = (fit(net, x, y, engine=engine, **SETTINGS) for engine in ("calls", "loops"))
    for one, other in zip(tree.leaves(a.params), tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.only("numpy")
@pytest.mark.reads_scalars
def test_saved_with_a_named_lambda(tmp_path: Path) -> None:
    model = fit(NET, ROWS, Y, engine="calls", **SETTINGS)
    model.save(tmp_path / "net.safetensors")
    custom = {"total": total}
    read = tinynn.load(tmp_path / "net.safetensors", custom=custom)
    np.testing.assert_array_equal(read.predict(ROWS), model.predict(ROWS))
    with pytest.raises(ValueError, match=r"no function is known as 'total'.*custom="):
        tinynn.load(tmp_path / "net.safetensors")
    unnamed = Model(Lambda(lambda x: x), {})
    with pytest.raises(ValueError, match=r"Lambda\(function, name=...\)"):
        unnamed.save(tmp_path / "none.safetensors")
    assert not (tmp_path / "none.safetensors").exists()


@pytest.mark.only("numpy")
def test_written_down_and_read_again() -> None:
    for name, (layer, _) in LAYERS.items():
        if name != "lambda":
            assert from_config(to_config(layer)) == layer
    again = from_config(to_config(Lambda(squared)), custom={"squared": squared})
    assert again == Lambda(squared)
    named = Lambda(squared, name="power")
    assert repr(named) == "Lambda(power)"
    assert from_config(to_config(named), custom={"power": squared}) == named
    assert named != Lambda(squared, name="other")
    assert repr(Residual(relu, shortcut=Linear(2))) == "Residual(relu, shortcut=Linear(2))"


@pytest.mark.only("torch")
def test_values_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    nn, a, b = torch.nn, DRAW.normal(size=(4, 2)), DRAW.normal(size=(4, 3))
    params = moved(Bilinear(5).init(0, a, b)[0])
    theirs = nn.Bilinear(2, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(params["weight"].transpose(2, 0, 1).copy()))
        theirs.bias.copy_(torch.tensor(params["bias"]))
    expected = theirs(torch.tensor(a), torch.tensor(b)).detach().numpy()
    np.testing.assert_allclose(Bilinear(5)(params, a, b), expected, rtol=1e-12)
    np.testing.assert_array_equal(Bilinear(5)(params, (a, b)), Bilinear(5)(params, a, b))
    weight = DRAW.normal(size=3)
    found = PReLU(channels="first")({"weight": weight}, IMAGES)
    expected = nn.functional.prelu(torch.tensor(IMAGES), torch.tensor(weight)).numpy()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.only("numpy")
def test_experts_are_mixed_as_the_gate_says() -> None:
    layer = MixtureOfExperts(Linear(3), experts=5, chosen=2, balance=0.5)
    params = moved(layer.init(0, X)[0])
    logits = X @ params["gate"]["weight"]
    expected = np.zeros((4, 3))
    for row in range(4):
        best = np.argsort(-logits[row])[:2]
        shares = np.exp(logits[row][best]) / np.exp(logits[row][best]).sum()
        for share, expert in zip(shares, best, strict=True):
            expected[row] += share * Linear(3)(params[f"expert{expert}"], X[row : row + 1])[0]
    out = run(layer, params, {}, X, training=True)
    np.testing.assert_allclose(out.output, expected, rtol=1e-12)
    soft = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    counts = np.bincount(np.argsort(-logits, axis=1)[:, :2].ravel(), minlength=5) / 8
    np.testing.assert_allclose(out.losses["balance"], 0.5 * 5 * (counts * soft.mean(0)).sum())
    assert run(layer, params, {}, X).losses == {}
    params["gate"]["weight"] = 0 * params["gate"]["weight"]  # equal ones: the first two
    each = [Linear(3)(params[f"expert{i}"], X) for i in (0, 1)]
    np.testing.assert_allclose(layer(params, X), (each[0] + each[1]) / 2, rtol=1e-12)


@pytest.mark.only("numpy")
def test_padding_is_no_row_of_experts() -> None:
    layer, lengths = MixtureOfExperts(Linear(3), experts=4, balance=0.5), np.asarray([2, 0, 3])
    x = np.random.default_rng(2).normal(size=(3, 3, 2))
    valid = np.arange(3) < lengths[:, None]
    params = moved(layer.init(0, x)[0])

    def loss(params: Any, x: Any, valid: Any) -> Any:
        out = run(layer, params, {}, x, valid, training=True)
        return namespace(out.output).sum(out.output**2) + out.losses["balance"]

    f, g = tinynn.value_and_grad(loss, argnums=(0, 1)), []
    for spoilt in (0.0, np.nan, np.inf, -1e300):
        padded = np.where(valid[..., None], x, spoilt)
        g += [f(params, padded, each) for each in (lengths, valid)]
    for other in g[1:]:
        for a, b in zip(tree.leaves(g[0]), tree.leaves(other), strict=True):
            assert np.isfinite(a).all()
            np.testing.assert_array_equal(a, b)
    whole = run(layer, params, {}, x, lengths, training=True)
    rows = run(layer, params, {}, x[valid], training=True)
    np.testing.assert_allclose(whole.output[valid], rows.output, rtol=1e-12)
    np.testing.assert_allclose(whole.losses["balance"], rows.losses["balance"], rtol=1e-12)


@pytest.mark.only("numpy")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what is infinite, and not read
def test_an_expert_that_was_not_chosen_is_not_read() -> None:
    layer, x = MixtureOfExperts(Linear(3), experts=3, chosen=1), np.eye(3)
    params = layer.init(0, x)[0] | {"gate": {"weight": 9.0 * np.eye(3)}}
    expected = layer(params, x)
    params["expert2"] = {"weight": np.full((3, 3), np.inf), "bias": np.zeros(3)}
    np.testing.assert_array_equal(layer(params, x[:2]), expected[:2])
    gradient = tinynn.grad(lambda params: namespace(*tree.leaves(params)).sum(layer(params, x[:2])))
    assert all(np.isfinite(leaf).all() for leaf in tree.leaves(gradient(params)))


@pytest.mark.only("numpy")
def test_experts_keep_the_rows() -> None:
    layer = MixtureOfExperts(Sequential(Flatten(), Linear(2)), experts=2)
    with pytest.raises(ShapeError, match="expected an expert that keeps all axes but the last"):
        layer.init(0, np.ones((3, 3, 2)))


@pytest.mark.only("numpy")
def test_empty_batches_keep_their_shape() -> None:
    assert Reshape((5, -1))({}, IMAGES[:0]).shape == (0, 5, 18)
    assert Permute((3, 1, 2))({}, IMAGES[:0]).shape == (0, 6, 3, 5)


@pytest.mark.only("numpy")
@pytest.mark.parametrize(
    ("layer", "given", "message"),
    [
        (Reshape((5, -1)), X, r"samples of a multiple of 5 elements, got shape \(4, 6\)"),
        (Reshape((5, 2)), X, "samples of 10 elements"),
        (Permute((2, 1)), X, r"input of 3 axes, the batch among them, got shape \(4, 6\)"),
        (Residual(Linear(2)), X, r"keep the shape \(4, 6\), got \(4, 2\). To fix it: give a short"),
        (Concatenate(), X, "a tuple of arrays, got ndarray"),
        (Concatenate(), (X, X[:2]), r"alike but along axis -1, got shapes \(4, 6\), \(2, 6\)"),
        (Concatenate(), (X, IMAGES), "alike but along axis"),
        (Concatenate(axis=2), (X, X), r"with an axis 2, got shapes \(4, 6\), \(4, 6\). To fix it"),
        (Bilinear(2), X, "two inputs, got 1"),
        (Bilinear(2), (X, X, X), "two inputs, got 3"),
        (Bilinear(2), (X, X[:2]), "alike but in their features"),
        (SqueezeExcite(), X, r"spatial axes, .*got shape \(4, 6\)"),
        (PReLU(), X[0], r"\(batch, features\), got \(batch\)"),
    ],
)
def test_bad_input_names_the_layer(layer: Any, given: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=rf"^layer 0\.0, .*{message}"):
        Sequential(Sequential(layer)).init(0, given)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Reshape((2, 0)),
        lambda: Reshape((-1, -1)),
        lambda: Reshape((2.0, 3)),
        lambda: Concatenate(axis="features"),
        lambda: Lambda(relu, name=3),
        lambda: Permute((0, 1)),
        lambda: Lambda(3),
        lambda: Lambda(relu, name="a b"),
        lambda: Bilinear(0),
        lambda: MixtureOfExperts(Linear(2), experts=2, chosen=3),
        lambda: SqueezeExcite(0),
        lambda: PReLU(start=float("nan")),
        lambda: PReLU(channels="middle"),
    ],
)
def test_bad_settings_are_refused_at_once(make: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()


def test_what_is_no_layer() -> None:
    with pytest.raises(TypeError, match="Parallel: expected layer 1 to be a layer or a function"):
        Parallel(relu, 3)
    with pytest.raises(TypeError, match="Residual: expected layer 0 to be a layer or a function"):
        Residual("relu")
    with pytest.raises(TypeError, match=r"write Residual\(Sequential\(\*layers\)\)"):
        Residual([relu, Linear(2)])
