"""Recurrent layers: against PyTorch and each other, on every backend, eager and compiled."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_close, assert_equal, dtype_name
from tests.engines import compiled_by
from tests.gradients import placed
from tinynn import layers, tree
from tinynn.layers import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    DtypeError,
    InputError,
    Linear,
    Sequential,
    ShapeError,
)
from tinynn.losses import SquaredError
from tinynn.optim import SGD
from tinynn.trace import namespace
from tinynn.training import fit

KINDS = (RNN, GRU, LSTM)
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(4, 6, 3))
Y = DRAW.normal(size=(4, 2))
LENGTHS = np.asarray([6, 2, 0, 5])
VALID = np.arange(6) < LENGTHS[:, None]


def drawn(layer: Any, x: Any = X) -> Any:
    """Parameters of which none is 0."""
    draw = np.random.default_rng(1)
    return tree.map(lambda a: 0.5 * draw.normal(size=a.shape), layer.init(0, x)[0])


def squares(layer: Any) -> Any:
    """A loss in which every output has a weight of its own."""

    def loss(params: Any, x: Any, lengths: Any = None) -> Any:
        y = layer(params, x if lengths is None else (x, lengths))
        return namespace(y).sum(namespace(y).sin(y) * y)

    return loss


def of_torch(layer: Any, params: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """PyTorch's layer with these parameters, and a function that gives their gradients."""
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    theirs = getattr(torch.nn, type(layer).__name__)(
        3, layer.features, bias=layer.bias, batch_first=True, dtype=torch.float64
    )
    names = {"weight_ih_l0": "weight", "weight_hh_l0": "recurrent_weight", "bias_ih_l0": "bias"}
    names |= {"bias_hh_l0": "recurrent_bias"}
    with torch.no_grad():
        for theirs_name, parameter in theirs.named_parameters():
            array = params.get(names[theirs_name])
            parameter.copy_(torch.zeros(()) if array is None else torch.tensor(array.T.copy()))
    found = {names[name]: parameter for name, parameter in theirs.named_parameters()}
    return theirs, {name: found[name] for name in params}


@pytest.mark.only("torch")
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_outputs_and_gradients_are_those_of_pytorch(kind: Any, bias: bool) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    layer = kind(5, bias=bias, return_sequences=True)
    params = drawn(layer)
    theirs, parameters = of_torch(layer, params)
    x = torch.tensor(X, requires_grad=True)
    y, _ = theirs(x)
    (torch.sin(y) * y).sum().backward()
    np.testing.assert_allclose(layer(params, X), y.detach().numpy(), rtol=1e-12, atol=1e-13)
    last = kind(5, bias=bias)(params, X)
    np.testing.assert_allclose(last, y[:, -1].detach().numpy(), rtol=1e-12, atol=1e-13)
    gradient, of_x = tinynn.grad(squares(layer), argnums=(0, 1))(params, X)
    np.testing.assert_allclose(of_x, x.grad.numpy(), rtol=1e-9, atol=1e-11)
    for name, parameter in parameters.items():
        np.testing.assert_allclose(gradient[name].T, parameter.grad.numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.reads_scalars
def test_a_reset_gate_before_the_product(backend: backends.Backend) -> None:
    layer = GRU(5, return_sequences=True, reset_after=False)
    params = drawn(layer)
    assert {name: a.shape for name, a in params.items()} == {
        "weight": (3, 15), "recurrent_weight": (5, 15), "bias": (15,),
    }  # fmt: skip
    h, expected = np.zeros((4, 5)), []
    products, weight = X @ params["weight"] + params["bias"], params["recurrent_weight"]
    for step in range(6):
        (a_r, a_z, a_n) = np.split(products[:, step], 3, axis=1)
        (u_r, u_z, u_n) = np.split(weight, 3, axis=1)
        r, z = (1 / (1 + np.exp(-a - h @ u)) for a, u in ((a_r, u_r), (a_z, u_z)))
        h = (1 - z) * np.tanh(a_n + (r * h) @ u_n) + z * h
        expected.append(h)
    given = tree.map(lambda a: backend.asarray(a, "float32"), params)
    x, lengths = backend.asarray(X, "float32"), backend.asarray(LENGTHS, "int32")
    assert_close(layer(given, x), np.stack(expected, axis=1), backend, rtol=1e-5, atol=1e-5)
    padded = np.asarray(backend.to_host(layer(given, (x, lengths))))
    np.testing.assert_allclose(
        padded[VALID], np.stack(expected, axis=1)[VALID], rtol=1e-5, atol=1e-5
    )


@pytest.mark.only("torch")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_lengths_are_those_of_packed_sequences(kind: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    layer, lengths = kind(5, return_sequences=True), np.asarray([6, 2, 1, 5])  # PyTorch: above 0
    params = drawn(layer)
    theirs, _ = of_torch(layer, params)
    rnn = torch.nn.utils.rnn
    packed = rnn.pack_padded_sequence(
        torch.tensor(X), torch.tensor(lengths), batch_first=True, enforce_sorted=False
    )
    ys, last = theirs(packed)
    last = (last[0] if kind is LSTM else last)[0]
    ys = rnn.pad_packed_sequence(ys, batch_first=True)[0].detach().numpy()
    found, valid = layer(params, (X, lengths)), np.arange(6) < lengths[:, None]
    np.testing.assert_allclose(found[valid], ys[valid], rtol=1e-12, atol=1e-13)
    found = kind(5)(params, (X, lengths))
    np.testing.assert_allclose(found, last.detach().numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.only("numpy")
@pytest.mark.parametrize("padding", [1e300, np.nan, np.inf], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_padding_changes_nothing_by_one_bit(kind: Any, reverse: bool, padding: float) -> None:
    other = np.where(VALID[:, :, None], X, padding)
    layer = kind(5, return_sequences=True, reverse=reverse)
    params = drawn(layer)
    one, two = (layer(params, (x, LENGTHS)) for x in (X, other))
    np.testing.assert_array_equal(one, two)
    f = tinynn.grad(squares(layer), argnums=(0, 1))
    for a, b in zip(
        tree.leaves(f(params, X, LENGTHS)), tree.leaves(f(params, other, LENGTHS)), strict=True
    ):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)


@pytest.mark.only("numpy")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_padded_sequence_is_its_valid_part_alone(kind: Any) -> None:
    params = drawn(kind(5))
    for reverse in (False, True):
        found = kind(5, reverse=reverse)(params, (X, LENGTHS))
        every = kind(5, reverse=reverse, return_sequences=True)(params, (X, LENGTHS))
        for row, length in enumerate(LENGTHS):
            x = X[row : row + 1, :length]
            x = x[:, ::-1] if reverse else x
            ys = kind(5, return_sequences=True)(params, x)[0] if length else np.zeros((0, 5))
            expected = ys[-1] if length else np.zeros(5)
            np.testing.assert_allclose(found[row], expected, rtol=1e-12, atol=1e-13)
            ys = ys[::-1] if reverse else ys
            np.testing.assert_allclose(every[row, :length], ys, rtol=1e-12, atol=1e-13)
            after = np.zeros(5) if reverse else expected
            np.testing.assert_allclose(every[row, length:], after + np.zeros((6 - length, 5)),
                                       rtol=1e-12, atol=1e-13)  # fmt: skip


@pytest.mark.only("numpy")
def test_lengths_of_few_bits_count_many_steps() -> None:
    layer, x = RNN(2), np.random.default_rng(2).normal(size=(2, 300, 3))
    params, lengths = drawn(layer, x), np.asarray([7, 255])
    expected = layer(params, (x, lengths))
    np.testing.assert_array_equal(layer(params, (x, lengths.astype("uint8"))), expected)


@pytest.mark.only("numpy")
def test_bidirectional_is_both_directions_side_by_side() -> None:
    for reverse in (False, True):
        layer = Bidirectional(GRU(5, return_sequences=True, reverse=reverse))
        params = drawn(layer)
        y = layer(params, (X, LENGTHS))
        for part, name in ((y[..., :5], "layer"), (y[..., 5:], "opposite")):
            one = GRU(5, return_sequences=True, reverse=reverse ^ (name == "opposite"))
            np.testing.assert_array_equal(part, one(params[name], (X, LENGTHS)))
        np.testing.assert_array_equal(y, layer(params, X, LENGTHS))  # a pair or two inputs


# Every backend.


@pytest.mark.reads_scalars  # the range of the lengths
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_backend_gives_what_numpy_gives(
    kind: Any, backend: backends.Backend, float_dtype: Any
) -> None:
    """Eager and compiled; and other padding gives the same bits."""
    layer = kind(5, return_sequences=True, reverse=kind is RNN)
    host = (drawn(layer), X, LENGTHS)
    params, x, lengths = placed(host, backend, float_dtype)
    single = dtype_name(float_dtype, backend) == "float32"
    close = {"rtol": 1e-5, "atol": 1e-5} if single else {"rtol": 1e-11, "atol": 1e-12}
    value_and_grad = tinynn.value_and_grad(squares(layer))
    value, gradient = value_and_grad(*host)
    compiled = tinynn.compile(value_and_grad)
    results = [compiled(params, x, lengths)]
    if backend.name != "jax":  # which compiles each function anew when called by itself
        results.append(value_and_grad(params, x, lengths))
        y = layer(params, (x, lengths))
        assert_close(y, layer(host[0], (X, LENGTHS)), backend, dtype=float_dtype, **close)
    for found in results:
        assert_close(found[0], value, backend, dtype=float_dtype, **close)
        for name, array in found[1].items():
            assert_close(array, gradient[name], backend, dtype=float_dtype, **close)
    padded = backend.asarray(np.where(VALID[:, :, None], X, np.nan), dtype=float_dtype)
    again = compiled(params, padded, lengths)
    for a, b in zip(tree.leaves(again), tree.leaves(results[0]), strict=True):
        assert_equal(a, backend.to_host(b), backend)


@pytest.mark.only("numpy")
def test_a_carry_may_be_donated() -> None:
    layer, x = LSTM(3), np.ones((2, 4, 5))
    carry = layer.carry(x)
    assert len({id(leaf) for leaf in tree.leaves(carry)}) == 2
    params, _ = layer.init(0, x, carry)
    expected = layer(params, x, carry)
    step = tinynn.compile(lambda carry: layer(params, x, carry), donate_argnums=(0,))
    for a, b in zip(tree.leaves(step(carry)), tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.reads_scalars  # the range of the lengths
def test_jvp_and_vmap(backend: backends.Backend) -> None:
    layer = Bidirectional(LSTM(3))  # the layer with the larger carry
    params, x, lengths = placed((drawn(layer), X, LENGTHS), backend, backend.default_float)
    host = layer(drawn(layer), (X, LENGTHS))
    alone = tinynn.vmap(lambda x, n: layer(params, (x[None, ...], n[None, ...]))[0, ...])
    assert_close(alone(x, lengths), host, backend, rtol=1e-5, atol=1e-6)
    y, change = tinynn.jvp(lambda x: layer(params, (x, lengths)), (x,), (x,))
    assert_close(y, host, backend, rtol=1e-5, atol=1e-6)
    ours = tinynn.jvp(lambda x: layer(drawn(layer), (x, LENGTHS)), (X,), (X,))[1]
    assert_close(change, ours, backend, rtol=1e-4, atol=1e-5)


@pytest.mark.reads_scalars
def test_compiled_training_is_eager_training_of_numpy(backend: backends.Backend) -> None:
    """With lengths, which `fit` gives as a second input."""
    net = Sequential(LSTM(3), Linear(2))

    def trained(x: Any, lengths: Any, y: Any, engine: str) -> Any:
        return fit(
            net, (x, lengths), y, loss=SquaredError(), optimizer=SGD(0.1), epochs=3, batch_size=2,
            seed=1, progress=False, engine=engine,
        ).params  # fmt: skip

    host = (X.astype("f4"), LENGTHS, Y.astype("f4"))
    expected = dict(tree.paths(trained(*host, "eager")))
    for name, leaf in tree.paths(trained(*map(backend.asarray, host), compiled_by(backend))):
        assert_close(leaf, expected[name], backend, rtol=1e-4, atol=1e-5)


@pytest.mark.only("numpy")
@pytest.mark.reads_scalars
def test_training_does_not_see_the_padding() -> None:
    def trained(padding: float) -> Any:
        x = np.where(VALID[:, :, None], X, padding)
        return fit(
            Sequential(GRU(4), Linear(2)), (x, LENGTHS), Y, loss=SquaredError(), optimizer=SGD(0.1),
            epochs=2, batch_size=2, seed=1, progress=False,
        ).params  # fmt: skip

    for a, b in zip(tree.leaves(trained(0.0)), tree.leaves(trained(1e30)), strict=True):
        np.testing.assert_array_equal(a, b)


# Settings, files and errors.


@pytest.mark.only("numpy")
@pytest.mark.reads_scalars
def test_a_saved_model_predicts_the_same(tmp_path: Path) -> None:
    net = Sequential(
        RNN(3, return_sequences=True), Bidirectional(LSTM(4, reverse=True, bias=False)), Linear(2)
    )
    assert layers.from_config(layers.to_config(net)) == net
    model = fit(net, X, Y, loss=SquaredError(), epochs=1, progress=False)
    model.save(tmp_path / "net.safetensors")
    read = tinynn.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(read.predict(X), model.predict(X))


@pytest.mark.only("numpy")
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (X[0], ShapeError, r"layer 0, LSTM\(4\): expected input of shape \(batch, time, features"),
        (X[:, :0], ShapeError, r"of one step or more, got \(4, 0, 3\)"),
        ((X[0], LENGTHS), ShapeError, r"got \(6, 3\). To fix it"),
        ((X, LENGTHS[:3]), ShapeError, r"expected lengths of shape \(batch,\), here \(4,\), got"),
        ((X, 3), ShapeError, r"got int. To fix it: give the number of valid steps"),
        ((X, LENGTHS, LENGTHS), ShapeError, r"a pair \(x, lengths\), got 3 inputs"),
        ((X, LENGTHS + 7), InputError, "expected lengths from 0 to 6, got lengths from 7 to"),
        ((X, LENGTHS - 7), InputError, "expected lengths from 0 to 6, got lengths from -"),
        ((X, LENGTHS * 1.0), DtypeError, r"lengths of an integer dtype, got float64"),
    ],
)
def test_bad_input_is_named(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Sequential(LSTM(4)).init(0, given)


@pytest.mark.only("numpy")
def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="features"):
        GRU(0)
    with pytest.raises(ValueError, match="RNN, GRU or LSTM"):
        Bidirectional(Linear(3))


@pytest.mark.only("jax")
def test_a_second_fit_of_the_same_layer_is_not_compiled_again(backend: backends.Backend) -> None:
    from tinynn.compiler.train_loop import Scanned

    x = backend.asarray(np.ones((4, 3, 2), dtype="float32"))

    def trained() -> set[Any]:
        fit(Sequential(GRU(2), Linear(1)), x, x[:, 0, 0], loss="squared_error", epochs=1,
            batch_size=4, engine="jit")  # fmt: skip
        return set(Scanned._compiled)

    assert trained() == trained()
