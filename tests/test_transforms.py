"""grad, value_and_grad, vjp: trees, stacking, awkward points, errors."""

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_array, assert_close
from tinynn import custom_vjp, grad, stop_gradient, value_and_grad, vjp
from tinynn.rules import RULES
from tinynn.trace import namespace
from tinynn.trace.scopes import Origin, scopes


def place(backend: backends.Backend, values: Any, name: str = "float32") -> Any:
    return backend.asarray(np.asarray(values), dtype=backend.dtypes()[name])


def total(x: Any) -> Any:
    return namespace(x).sum(x)


@dataclass(frozen=True)
class Affine:
    weight: Any
    bias: Any


def test_gradient_is_a_tree_like_the_argument(backend: backends.Backend) -> None:
    params = {
        "layer": Affine(place(backend, [[1.0, 2.0], [3.0, 4.0]]), place(backend, [0.5, 0.5])),
        "scales": [place(backend, 2.0), (place(backend, [1.0, 1.0]), None)],
    }

    def f(params: Any, x: Any) -> Any:
        layer, (scale, (shift, _)) = params["layer"], params["scales"]
        xp = namespace(layer.weight)
        return xp.sum(scale * xp.matmul(x, layer.weight) + layer.bias) + xp.sum(shift * shift)

    gradient = grad(f)(params, place(backend, [[1.0, 2.0]]))
    assert isinstance(gradient["layer"], Affine)
    assert_close(gradient["layer"].weight, [[2, 2], [4, 4]], backend, dtype="float32")
    assert_close(gradient["layer"].bias, [1, 1], backend, dtype="float32")
    assert_close(gradient["scales"][0], 17, backend, dtype="float32")
    assert_close(gradient["scales"][1][0], [2, 2], backend, dtype="float32")


def test_each_gradient_keeps_its_own_dtype(backend: backends.Backend, float64: Any) -> None:
    x, y = place(backend, [1.0, 2.0]), place(backend, [3.0, 4.0], "float64")

    def f(x: Any, y: Any) -> Any:
        xp = namespace(x)
        return xp.sum(xp.multiply(x, y))

    value, (gx, gy) = value_and_grad(f, argnums=(0, 1))(x, y)
    assert_array(value, backend, dtype="float64", shape=())
    assert_close(gx, [3, 4], backend, dtype="float32")
    assert_close(gy, [1, 2], backend, dtype="float64")


def test_unused_arguments_have_zero_gradients(backend: backends.Backend) -> None:
    gx, gy = grad(lambda x, y: total(x), argnums=(0, 1))(
        place(backend, [1.0, 2.0]), place(backend, [[3.0]])
    )
    assert_close(gx, [1, 1], backend, dtype="float32")
    assert_close(gy, [[0]], backend, dtype="float32")


def test_auxiliary_results_come_out_plain(backend: backends.Backend) -> None:
    def f(x: Any) -> Any:
        return total(x * x), {"double": 2 * x, "name": "f"}

    x = place(backend, [1.0, 2.0])
    (value, aux), gradient = value_and_grad(f, has_aux=True)(x)
    assert_close(value, 5, backend, dtype="float32")
    assert_close(aux["double"], [2, 4], backend, dtype="float32")
    assert aux["name"] == "f"
    again, aux = grad(f, has_aux=True)(x)
    assert_close(again, [2, 4], backend, dtype="float32")
    assert_close(gradient, [2, 4], backend, dtype="float32")


def test_pullback_may_be_called_again(backend: backends.Backend) -> None:
    out, pullback = vjp(lambda x, y: {"a": x * y, "b": x}, *[place(backend, [2.0, 3.0])] * 2)
    assert_close(out["a"], [4, 9], backend)
    g = place(backend, [1.0, 10.0])
    for _ in range(2):
        gx, gy = pullback({"a": g, "b": g})
        assert_close(gx, [3, 40], backend, dtype="float32")
        assert_close(gy, [2, 30], backend, dtype="float32")


def test_perturbations_of_two_levels_are_not_confused(backend: backends.Backend) -> None:
    def outer(x: Any) -> Any:
        return x * grad(lambda y: x + y)(place(backend, 1.0))

    assert_close(grad(outer)(place(backend, 3.0)), 1, backend, dtype="float32")


def test_derivatives_stack_five_deep(backend: backends.Backend, float64: Any) -> None:
    f = lambda x: namespace(x).sin(2 * x)  # noqa: E731
    expected = [
        2 * np.cos(1.4), -4 * np.sin(1.4), -8 * np.cos(1.4), 16 * np.sin(1.4), 32 * np.cos(1.4)
    ]  # fmt: skip
    for value in expected:
        f = grad(f)
        assert_close(f(place(backend, 0.7, "float64")), value, backend, dtype="float64", rtol=1e-13)


def test_stop_gradient_holds_at_every_level(backend: backends.Backend) -> None:
    f = lambda x: x * x * stop_gradient(x)  # noqa: E731
    assert_close(grad(f)(place(backend, 3.0)), 18, backend, dtype="float32")
    assert_close(grad(grad(f))(place(backend, 3.0)), 6, backend, dtype="float32")


def test_stop_gradient_of_a_tree_is_that_of_its_arrays(backend: backends.Backend) -> None:
    def f(x: Any) -> Any:
        kept = stop_gradient({"square": [x * x, 2.0], "none": None})
        return x * kept["square"][0] * kept["square"][1]

    x = place(backend, 3.0)
    assert_close(grad(f)(x), 18, backend, dtype="float32")
    assert_close(tinynn.jvp(f, (x,), (x,))[1], 54, backend, dtype="float32")


@pytest.mark.only("torch", "jax")
@pytest.mark.parametrize("made", [lambda f: f, tinynn.compile], ids=["eager", "compiled"])
def test_stop_gradient_holds_in_the_librarys_own_derivatives(
    backend: backends.Backend, made: Any
) -> None:
    def f(x: Any) -> Any:
        later = lambda kept, entry: (kept + entry * stop_gradient(entry), entry)  # noqa: E731
        fixed = namespace(x).sum(x * x * stop_gradient(x))
        return fixed + tinynn.scan(later, 0.0 * x[0], x)[0]

    x, f = backend.asarray([1.0, 3.0], dtype="float32"), made(f)
    if backend.name == "torch":
        x.requires_grad_()
        f(x).backward()
        slope = x.grad
    else:
        import jax

        slope = jax.grad(f)(x)
    assert_close(slope, [3.0, 21.0], backend)


def test_constants_made_inside_do_not_change_the_library(backend: backends.Backend) -> None:
    def f(x: Any) -> Any:
        xp = x.__array_namespace__()
        weights = xp.asarray([1.0, 2.0, 3.0], dtype=x.dtype, device=x.device)
        return xp.sum(x * weights + xp.zeros_like(x))

    x = place(backend, [4.0, 5.0, 6.0])
    assert_close(grad(f)(x), [1, 2, 3], backend, dtype="float32")
    wrapped = tinynn.Namespace(backend.xp).asarray(x)
    assert_close(grad(f)(wrapped), [1, 2, 3], backend, dtype="float32")


@pytest.mark.reads_scalars
def test_control_flow_follows_the_values(backend: backends.Backend) -> None:
    def f(x: Any) -> Any:
        return x * x if x > 2 else -x

    assert_close(grad(f)(place(backend, 3.0)), 6, backend)
    assert_close(grad(f)(place(backend, 1.0)), -1, backend)


@pytest.mark.parametrize(
    ("f", "at", "slope"),
    [
        (lambda x: namespace(x).maximum(x, 0), 0.0, 0.5),
        (lambda x: namespace(x).abs(x), 0.0, 1.0),
        (lambda x: tinynn.rules.special.relu(x), 0.0, 0.0),
        (lambda x: x**2, 0.0, 0.0),
        (lambda x: x**1, 0.0, 1.0),
        (lambda x: x**0, 0.0, 0.0),
        (lambda x: namespace(x).pow(x, 3.0), -2.0, 12.0),
        (lambda x: namespace(x).clip(x, 0.0, 1.0), 0.0, 0.5),
        (lambda x: tinynn.rules.special.sigmoid(x), 200.0, 0.0),
        (lambda x: tinynn.rules.special.sigmoid(x), -200.0, 0.0),
        (lambda x: namespace(x).logaddexp(x, 0 * x), 200.0, 1.0),
        (lambda x: namespace(x).where(x > 0, x, namespace(x).zeros_like(x)), 0.0, 0.0),
        (lambda x: namespace(x).max(namespace(x).stack([x, x])), 1.0, 1.0),
    ],
)
def test_awkward_points_have_the_derivative_that_jax_gives(
    backend: backends.Backend, f: Any, at: float, slope: float
) -> None:
    assert_close(grad(f)(place(backend, at)), slope, backend, dtype="float32")


def test_a_long_chain_neither_recurses_nor_slows(backend: backends.Backend) -> None:
    def f(x: Any) -> Any:
        for _ in range(3000):
            x = x + 1
        return x

    assert_close(grad(f)(place(backend, 0.0)), 1, backend, dtype="float32")


def inside(f: Any, at: Any = 2.0) -> Any:
    return lambda backend: grad(f)(place(backend, at))


KEPT: list[Any] = []


def leak(x: Any) -> Any:
    KEPT.append(x)
    return x * x


def set_item(x: Any) -> Any:
    x[0] = 1.0
    return total(x)


@pytest.mark.parametrize(
    ("mistake", "kind", "message"),
    [
        (inside(lambda x: x, [1.0, 2.0]), TypeError, r"one real number .* shape \(2,\)"),
        (inside(lambda x: x > 1), TypeError, "one real number .* dtype .*bool"),
        (inside(lambda x: "text"), TypeError, "one real number .* got str"),
        (inside(set_item, [1.0, 2.0]), TypeError, r"cannot be changed in place.*xp\.where"),
        (inside(lambda x: float(x) * x), TypeError, r"float\(x\) inside grad.*stop_gradient"),
        (inside(lambda x: np.asarray(x)), TypeError, "does not know it"),
        (inside(lambda x: x.__array_namespace__().einsum), AttributeError, "not in it"),
        (lambda b: grad(lambda x: x)(1.0), TypeError, "argument 0: expected a floating-point"),
        (lambda b: grad(total)(place(b, [1, 2], "int32")), TypeError, "integers have no small"),
        (
            lambda b: grad(lambda p: total(p["w"]))({"w": place(b, [1.0]), "n": 3}),
            TypeError,
            "argument 0, 'n': expected a floating-point array, got int",
        ),
        (lambda b: (inside(leak)(b), KEPT[-1] + 1), ValueError, "finished grad of leak"),
        (
            lambda b: vjp(lambda x: x, place(b, [1.0]))[1]([place(b, [1.0])]),
            ValueError,
            "not a tree like",
        ),
        (inside(lambda x: x, 1.0) and (lambda b: grad(lambda x: x, has_aux=True)(place(b, 1.0))),
         TypeError, "returns a pair"),
    ],
)  # fmt: skip
def test_mistakes_are_explained(
    backend: backends.Backend, mistake: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        mistake(backend)


def test_a_gradient_lets_go_of_what_it_has_used_and_a_pullback_does_not() -> None:
    results: list[Any] = []

    def rule(g: Any, y: Any, x: Any) -> Any:
        alive.append(sum(result() is not None for result in results))
        results.append(weakref.ref(y))
        return 2 * g

    double = custom_vjp(rule)(lambda x: 2 * x)

    def f(x: Any) -> Any:
        return total(double(double(double(x))))

    alive: list[int] = []
    assert_close(grad(f)(np.ones(2)), [8.0, 8.0], backends.get("numpy"), dtype="float64")
    assert alive == [0, 0, 0]
    alive, results = [], []
    _, pullback = vjp(f, np.ones(2))
    for _ in range(2):
        assert_close(pullback(np.asarray(1.0))[0], [8.0, 8.0], backends.get("numpy"))
    assert alive == [0, 1, 2, 3, 4, 5]


def test_a_rule_that_raises_leaves_no_trace_of_its_pullback(backend: backends.Backend) -> None:
    """What was at work around the pullback is so again, for recordings and their errors."""
    x = backend.asarray([1.0, 2.0])
    _, pullback = tinynn.vjp(lambda x: namespace(x).sum(x * x), x)
    around = Origin(backward=True)
    scopes.pulled = around
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(RULES["sum"]), "vjps", lambda *args: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                pullback(backend.asarray(1.0))
        assert scopes.pulled is around
    finally:
        scopes.pulled = None


@pytest.mark.only("numpy")
def test_a_ufunc_is_told_what_to_write() -> None:
    def f(x: Any) -> Any:
        return np.tanh(x)

    x = np.ones(2)
    for transformed in (
        grad(f), tinynn.vmap(f), tinynn.compile(f), lambda x: tinynn.jvp(f, (x,), (x,))
    ):  # fmt: skip
        with pytest.raises(TypeError, match="ufuncs") as caught:
            transformed(x)
        assert any("then xp.tanh(x)" in note for note in caught.value.__notes__)
