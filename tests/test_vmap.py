"""vmap, jvp and what is derived from them: axes, trees, stacking, errors.

That every function is batched rightly is checked row by row in test_rules.py.
"""

from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_array, assert_close
from tinynn import (
    checkpoint,
    custom_jvp,
    custom_vjp,
    grad,
    hessian,
    hvp,
    jacobian,
    jvp,
    vjp,
    vmap,
)
from tinynn.trace import namespace

A = np.asarray([[0.5, -1.0, 2.0], [1.5, 0.25, -0.5]])
X = np.asarray([0.3, -0.7, 1.1])


def place(backend: backends.Backend, values: Any, name: str = "float32") -> Any:
    return backend.asarray(np.asarray(values), dtype=backend.dtypes()[name])


def bend(a: Any, x: Any) -> Any:
    """(2, 3), (3,) -> (2,)"""
    xp = namespace(a, x)
    return xp.tanh(xp.matmul(a, x))


def scalar(x: Any) -> Any:
    xp = namespace(x)
    return xp.sum(xp.sin(x) * xp.square(x))


def test_axes_in_and_out(backend: backends.Backend) -> None:
    xp = backend.xp
    rows = np.stack([X, 2 * X, -X])
    a, batch = place(backend, A), place(backend, rows)
    expected = np.tanh(rows @ A.T)
    assert_close(vmap(bend, (None, 0))(a, batch), expected, backend, dtype="float32")
    columns = xp.permute_dims(batch, (1, 0))
    for axis in (1, -1):
        assert_close(vmap(bend, (None, axis))(a, columns), expected, backend)
    assert_close(vmap(bend, (None, 0), out_axes=1)(a, batch), expected.T, backend)
    twice = vmap(vmap(bend, (0, None)), (None, 0))(xp.stack([a, a]), batch)
    assert_close(twice, np.stack([expected, expected], axis=1), backend)


def test_trees_in_and_out(backend: backends.Backend) -> None:
    def f(params: Any, x: Any) -> Any:
        xp = namespace(params["w"])
        return {"y": xp.matmul(params["w"], x) + params["b"], "same": 2 * params["b"]}

    params = {"w": place(backend, np.stack([A, -A])), "b": place(backend, [1.0, 2.0])}
    out = vmap(f, ({"w": 0, "b": None}, None), {"y": 0, "same": None})(params, place(backend, X))
    expected = np.stack([A @ X, -A @ X]) + np.asarray([1.0, 2.0])
    assert_close(out["y"], expected, backend, dtype="float32", rtol=1e-5)
    assert_close(out["same"], [2, 4], backend, dtype="float32")


def test_constant_results_are_repeated(backend: backends.Backend) -> None:
    x = place(backend, [1.0, 2.0, 3.0])
    out = vmap(lambda x: (x, place(backend, 7.0)))(x)[1]
    assert_close(out, [7, 7, 7], backend, dtype="float32")


def test_a_default_axis_is_the_entrys_own(backend: backends.Backend) -> None:
    x = place(backend, A)
    assert vmap(lambda x: namespace(x).expand_dims(x))(x).shape == (2, 1, 3)
    with pytest.raises(ValueError, match="out of range under vmap"):
        vmap(lambda x: namespace(x).squeeze(x, axis=-2))(x[:1, ...])


@pytest.mark.parametrize(
    "f",
    [
        lambda xp, x: xp.roll(x, 1),
        lambda xp, x: xp.concat([x, x], axis=None),
        lambda xp, x: xp.argmax(x),
        lambda xp, x: xp.take(x, xp.argmax(x, axis=1), axis=1),
        lambda xp, x: x[xp.argmax(x, axis=0), ...],
        lambda xp, x: xp.searchsorted(xp.sum(x, axis=0), xp.sum(x, axis=1)),
        lambda xp, x: xp.isin(x, xp.square(x)),
        lambda xp, x: xp.tensordot(x, x),
    ],
)
def test_a_batch_of_nothing_has_the_shape_of_its_results(backend: backends.Backend, f: Any) -> None:
    one = place(backend, [[[1.0, 2.0], [4.0, 5.0]]])
    none = place(backend, np.ones((0, 2, 2)))
    over = lambda x: f(namespace(x), x)  # noqa: E731
    alike = vmap(over)(one)
    assert_array(vmap(over)(none), backend, dtype=alike.dtype, shape=(0, *alike.shape[1:]))
    if namespace(alike).isdtype(alike.dtype, "real floating"):
        slopes = vmap(grad(lambda x: namespace(x).sum(over(x))))(none)
        assert_array(slopes, backend, dtype="float32", shape=(0, 2, 2))


def test_vmap_of_grad_and_grad_of_vmap(backend: backends.Backend) -> None:
    rows = np.stack([X, 2 * X])
    expected = np.cos(rows) * rows**2 + 2 * rows * np.sin(rows)
    x = place(backend, rows)
    assert_close(vmap(grad(scalar))(x), expected, backend, dtype="float32", rtol=1e-5)
    total = lambda x: namespace(x).sum(vmap(scalar)(x))  # noqa: E731
    assert_close(grad(total)(x), expected, backend, dtype="float32", rtol=1e-5)


def test_jvp_and_vjp_are_transposes(backend: backends.Backend) -> None:
    a, x = place(backend, A), place(backend, X)
    ta, tx, g = place(backend, A[::-1]), place(backend, X[::-1]), place(backend, [1.0, -2.0])
    out, change = jvp(bend, (a, x), (ta, tx))
    same, pullback = vjp(bend, a, x)
    ga, gx = (backend.to_host(each) for each in pullback(g))
    assert_close(same, backend.to_host(out), backend, dtype="float32")
    assert_array(change, backend, dtype="float32", shape=(2,))
    left = np.sum(backend.to_host(change) * backend.to_host(g))
    right = np.sum(ga * A[::-1]) + np.sum(gx * X[::-1])
    np.testing.assert_allclose(left, right, rtol=1e-5)


def test_jacobian_of_more_and_of_fewer_results_than_inputs(backend: backends.Backend) -> None:
    a, x = place(backend, A), place(backend, X)
    wide = (1 - np.tanh(A @ X) ** 2)[:, None] * A
    assert_close(jacobian(bend, 1)(a, x), wide, backend, dtype="float32", rtol=1e-5)
    tall = lambda y: bend(namespace(y).matrix_transpose(a), y)  # noqa: E731
    y = np.asarray([0.2, -0.4])
    expected = (1 - np.tanh(A.T @ y) ** 2)[:, None] * A.T
    assert_close(jacobian(tall)(place(backend, y)), expected, backend, rtol=1e-5)


def test_hessian_and_hvp(backend: backends.Backend) -> None:
    second = -np.sin(X) * X**2 + 4 * X * np.cos(X) + 2 * np.sin(X)
    x, v = place(backend, X), place(backend, [1.0, 2.0, 3.0])
    assert_close(hessian(scalar)(x), np.diag(second), backend, dtype="float32", rtol=1e-5)
    found = hvp(scalar, (x,), (v,))
    assert_close(found, second * [1, 2, 3], backend, dtype="float32", rtol=1e-5)


def test_transformations_nest_in_any_order(backend: backends.Backend, float64: Any) -> None:
    cube = lambda x: namespace(x).sin(x) * x * x  # noqa: E731
    x = place(backend, X, "float64")
    one = place(backend, np.ones(3), "float64")
    expected = -np.sin(X) * X**2 + 4 * X * np.cos(X) + 2 * np.sin(X)
    push = lambda f: lambda x: jvp(f, (x,), (namespace(x).ones_like(x),))[1]  # noqa: E731
    for second in (
        vmap(grad(grad(cube))),
        vmap(push(grad(cube))),
        vmap(grad(push(cube))),
        push(push(vmap(cube))),
        push(vmap(grad(cube))),
        lambda x: vjp(vmap(grad(cube)), x)[1](one)[0],
        lambda x: vmap(vmap(grad(grad(cube))))(x[None, ...])[0, ...],
    ):
        assert_close(second(x), expected, backend, dtype="float64", rtol=1e-12)


@custom_vjp(lambda g, y, x, scale: (3 * g * scale, None))
def rounded(x: Any, scale: Any) -> Any:
    xp = namespace(x, scale)
    return xp.multiply(xp.round(x), scale)


@custom_jvp(lambda tangents, y, x: 5 * tangents[0])
def sine(x: Any) -> Any:
    return namespace(x).sin(x)


def test_custom_rules_are_followed_by_every_transformation(backend: backends.Backend) -> None:
    x, scale = place(backend, [1.2, 2.6]), place(backend, [2.0, 4.0])
    one, s = place(backend, [1.0, 1.0]), place(backend, 2.0)
    assert_close(rounded(x, scale), [2, 12], backend, dtype="float32")
    assert_close(vjp(rounded, x, scale)[1](one)[0], [6, 12], backend, dtype="float32")
    assert_close(jvp(lambda x: rounded(x, scale), (x,), (one,))[1], [6, 12], backend)
    assert_close(vmap(rounded)(x, scale), [2, 12], backend, dtype="float32")
    assert_close(vmap(grad(rounded), (0, None))(x, s), [6, 6], backend, dtype="float32")
    batched = lambda x: namespace(x).sum(vmap(rounded, (0, None))(x, s))  # noqa: E731
    assert_close(grad(batched)(x), [6, 6], backend, dtype="float32")
    assert_close(grad(lambda x: namespace(x).sum(sine(x)))(x), [5, 5], backend, dtype="float32")
    assert_close(vmap(grad(sine))(x), [5, 5], backend, dtype="float32")


def test_checkpoint_computes_again_and_gives_the_same(backend: backends.Backend) -> None:
    runs = []

    def deep(params: Any) -> Any:
        runs.append(1)
        return namespace(params["w"]).sin(params["w"]) * params["b"]

    def loss(f: Any) -> Any:
        return lambda w: namespace(w).sum(f({"w": w, "b": w * w}))

    x = place(backend, X)
    expected = backend.to_host(grad(loss(deep))(x))
    assert len(runs) == 1
    assert_close(grad(loss(checkpoint(deep)))(x), expected, backend, dtype="float32")
    assert len(runs) == 3
    second = backend.to_host(hessian(loss(deep))(x))
    assert_close(hessian(loss(checkpoint(deep)))(x), second, backend, rtol=1e-5)


@pytest.mark.parametrize(
    ("mistake", "kind", "message"),
    [
        (lambda x: vmap(lambda x: x, in_axes=None)(x), ValueError, "nothing to batch over"),
        (lambda x: vmap(lambda x: x, in_axes=2)(x), ValueError, r"argument 0: axis 2 .* \(2, 3\)"),
        (
            lambda x: vmap(lambda x, y: x, in_axes=(0, 1))(x, x),
            ValueError,
            "differ in size: 2 in argument 0, 3 in argument 1",
        ),
        (lambda x: vmap(lambda x, y: x, (0, 0, 0))(x, x), ValueError, "3 entries for 2 arguments"),
        (
            lambda x: vmap(lambda x: x)(3.0),
            ValueError,
            "expected an array to batch over, got float",
        ),
        (
            lambda x: vmap(lambda x: namespace(x).sum(x, axis=1))(x),
            ValueError,
            r"axis 1 is out of range under vmap.* shape \(3,\)",
        ),
        (
            lambda x: vmap(lambda x: x if x[0] > 0 else -x)(x),
            TypeError,
            r"bool\(x\) inside vmap.*xp\.where",
        ),
        (lambda x: vmap(lambda x: x, out_axes=None)(x), ValueError, "out_axes is None"),
        (
            lambda x: vmap(lambda x: namespace(x).unique_values(x))(x),
            NotImplementedError,
            "unique_values: vmap of .* depends on the values",
        ),
        (lambda x: jvp(lambda x: x, (x,), (x, x)), ValueError, "1 primals but 2 tangents"),
        (lambda x: jvp(lambda x: x, (x,), (x[0, ...],)), ValueError, r"tangent 0: .*\(2, 3\)"),
        (lambda x: jvp(lambda x: x, ({"a": x},), ({"b": x},)), ValueError, "tangent 0: .*'a'"),
        (lambda x: jacobian(lambda x: x)({"a": x}), TypeError, "expected an array, got dict"),
    ],
)
def test_mistakes_are_explained(
    backend: backends.Backend, mistake: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        mistake(place(backend, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))


def test_a_batch_of_networks_trains_as_each_alone(backend: backends.Backend) -> None:
    """vmap over the whole of a training step: initialisation, gradient and update."""
    from tinynn.functional import sigmoid
    from tinynn.layers import Linear, Sequential
    from tinynn.losses import SquaredError
    from tinynn.optim import Adam

    x = place(backend, [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = place(backend, [[0.0], [1.0], [1.0], [0.0]])
    net, loss, optimizer = Sequential(Linear(3), sigmoid, Linear(1)), SquaredError(), Adam(0.1)

    def train(key: Any) -> Any:
        params = net.init(key, x)[0]
        state = optimizer.init(params)
        for _ in range(3):
            gradient = grad(lambda params: loss(net(params, x), y))(params)
            params, state = optimizer.update(gradient, state, params)
        return params

    keys = [backends.random.key(seed, backend) for seed in range(3)]
    together = vmap(train)(backend.xp.stack(keys))
    for i, key in enumerate(keys):
        for (name, whole), (_, alone) in zip(
            tinynn.tree.paths(together), tinynn.tree.paths(train(key)), strict=True
        ):
            expected = backend.to_host(alone)
            assert_close(whole[i, ...], expected, backend, rtol=1e-4, atol=1e-5), name


def test_indices_that_differ_from_entry_to_entry(backend: backends.Backend) -> None:
    host = np.arange(60.0, dtype="float32").reshape(2, 3, 10)
    x, picks = backend.asarray(host), backend.asarray(np.asarray([1, -1]))
    found = vmap(lambda x, i: x[i, ...])(x, picks)
    assert_close(found, np.stack([host[0, 1], host[1, -1]]), backend)
    beyond = vmap(lambda x, i: namespace(x).take(x, i, axis=1))(
        x, backend.asarray(np.asarray([[10], [-11]]))
    )
    assert_close(beyond, np.stack([host[0, :, 9:], host[1, :, :1]]), backend)  # not a neighbour's
    with pytest.raises(ValueError, match="understood alone only"):
        vmap(lambda x, i: x[..., i])(x, picks)
    with pytest.raises(NotImplementedError, match=r"mask that differs .* xp\.where"):
        vmap(lambda x: x[x > 3])(x)


def test_small_integers_as_indices() -> None:
    host = np.arange(3000.0).reshape(300, 10)
    picks = (np.arange(600) % 10).astype("uint8").reshape(300, 2)
    expected = np.take_along_axis(host, picks.astype(int), 1)
    np.testing.assert_array_equal(vmap(lambda x, i: namespace(x).take(x, i))(host, picks), expected)


def test_an_array_from_around_a_users_function(backend: backends.Backend) -> None:
    x = place(backend, [3.0, 4.0])
    words = "closes over a traced array.* pass the array as an argument"
    times = lambda a, b: namespace(a, b).multiply(a, b)  # noqa: E731
    with pytest.raises(ValueError, match=words):
        vmap(lambda w, v: checkpoint(lambda x: times(x, v))(w))(x, x)
    with pytest.raises(ValueError, match=words):
        grad(lambda w: namespace(w).sum(checkpoint(lambda x: times(x, w))(w * 2)))(x)


def test_cotangents_are_arrays_like_the_results(backend: backends.Backend) -> None:
    _, pullback = vjp(lambda x: 2 * x, place(backend, [1.0, 2.0]))
    for wrong in (place(backend, [[1.0, 2.0]]), 1.0):
        with pytest.raises(ValueError, match=r"cotangent: expected an array of shape \(2,\)"):
            pullback(wrong)


def test_an_argument_named_twice(backend: backends.Backend) -> None:
    x = place(backend, 2.0)
    for argnums in ((0, 0), (0, -2)):
        with pytest.raises(ValueError, match="named twice"):
            grad(lambda x, y: x * y, argnums)(x, x)


def test_the_jacobian_of_a_complex_result() -> None:
    for f in (lambda x: x * (1 + 2j), lambda x: namespace(x).concat([x, x]) * (1 + 2j)):
        np.testing.assert_allclose(jacobian(f)(np.ones(2))[:2], np.eye(2) * (1 + 2j))


def test_arguments_counted_from_the_end() -> None:
    x, y = np.asarray([1.0, 2.0]), np.asarray([3.0, 4.0])
    np.testing.assert_allclose(jacobian(lambda x, y: x * y, -1)(x, y), np.diag(x))


def test_the_gradient_of_taking_from_the_end(backend: backends.Backend) -> None:
    x, last = place(backend, [1.0, 2.0, 3.0]), backend.asarray(np.asarray([-1, 0]))
    found = grad(lambda x: namespace(x).sum(namespace(x).take(x, last) ** 2))(x)
    assert_close(found, np.asarray([2.0, 0.0, 6.0]), backend)
