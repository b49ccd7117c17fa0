"""scan, cond, while_loop: in a recording they give what the loop of Python gives without one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backends
import tinynn
from tests.checks import assert_close, assert_trees, placed, tolerance
from tinynn import initializers
from tinynn.layers import Layer, Linear, Scope, Sequential
from tinynn.trace import namespace
from tinynn.transforms import custom_vjp
from tinynn.transforms.cond import LoopBoundError
from tinynn.transforms.record import RecordingError

# Without a recording, cond and while_loop read their predicates, as they say.
pytestmark = pytest.mark.reads_scalars

DRAW = np.random.default_rng(3)
W, U = DRAW.normal(size=(3, 3)), DRAW.normal(size=(2, 3))
H, XS = DRAW.normal(size=(3,)), DRAW.normal(size=(5, 2))


# Drawn bodies: a carry of two floating arrays and a counter, two arrays to go through.

STEPS: dict[str, Callable[..., Any]] = {
    "dense": lambda xp, c, x: c | {"h": xp.tanh(
        xp.matmul(c["h"], c["w"]) + xp.matmul(x["x"], c["u"]))},
    "gate": lambda xp, c, x: c | {"h": c["h"] * x["k"] + xp.sin(c["s"])},
    "sum": lambda xp, c, x: c | {"s": c["s"] + xp.sum(xp.square(c["h"]))},
    "swap": lambda xp, c, x: c | {"h": xp.flip(c["h"]), "s": -c["s"]},
    "count": lambda xp, c, x: c | {"n": c["n"] + 1},
    "branch": lambda xp, c, x: c | {"h": tinynn.cond(
        c["s"] > 0.1, lambda h: h * c["s"], lambda h: xp.cos(h) + x["k"], c["h"])},
    "inner": lambda xp, c, x: c | {"s": tinynn.scan(
        lambda s, h: (xp.sin(s + h) * x["k"], None), c["s"], c["h"])[0]},
    "halve": lambda xp, c, x: c | {"s": tinynn.while_loop(
        lambda s: xp.abs(s) > 0.5, lambda s: s / 2 + 0 * x["k"], c["s"], bound=12)},
    "where": lambda xp, c, x: c | {"h": xp.where(c["h"] > 0, c["h"], c["s"] * c["h"])},
}  # fmt: skip


def drawn(names: list[str], reverse: bool, saved: bool) -> Callable[..., Any]:
    """A number from (w, u, h, xs, ks), by a scan whose body does these steps in order."""

    def f(w: Any, u: Any, h: Any, xs: Any, ks: Any) -> Any:
        xp = namespace(w, u, h, xs, ks)
        w, u, h, xs, ks = map(xp.asarray, (w, u, h, xs, ks))  # all of them of one namespace

        def advanced(carry: Any, x: Any, w: Any, u: Any) -> Any:
            now = carry | {"w": w, "u": u}
            for name in names:
                now = STEPS[name](xp, now, x)
            return {key: now[key] for key in carry}

        def body(carry: Any, x: Any) -> Any:
            new = advanced(carry, x, w, u)
            if saved:
                h = tinynn.checkpoint(
                    lambda h, s, *rest: advanced({"h": h, "s": s, "n": 0}, *rest)["h"]
                )
                new = new | {"h": h(carry["h"], carry["s"], x, w, u)}
            return new, (new["h"] * new["s"], new["n"])

        zero = xp.sum(h) * 0
        count = xp.astype(xp.zeros_like(ks[0]), xp.int32)
        carry, (ys, counts) = tinynn.scan(
            body, {"h": h, "s": zero + 0.3, "n": count}, {"x": xs, "k": ks}, reverse=reverse
        )
        seen = xp.astype(xp.sum(counts), carry["s"].dtype)
        return xp.sum(xp.sin(ys)) + xp.sum(carry["h"]) * carry["s"] + seen

    return f


def transformed(f: Callable[..., Any]) -> dict[str, tuple[Callable[..., Any], Any]]:
    """Transformations of a function of (w, u, h, xs, ks), each with its axes of batching."""
    every = (0, 1, 2, 3, 4)
    return {
        "value": f,
        "grad": tinynn.grad(f, every),
        "jvp": lambda *args: tinynn.jvp(f, args, args)[1],
        "hvp": lambda *args: tinynn.jvp(tinynn.grad(f), args, args)[1],
        "grad of grad": tinynn.grad(lambda *args: _squares(tinynn.grad(f, every)(*args))),
        "vmap": lambda w, u, h, xs, ks: tinynn.vmap(f, (0, None, None, 0, None))(
            _twice(w), u, h, _twice(xs), ks
        ),
        "vmap of grad": lambda w, u, h, xs, ks: tinynn.vmap(
            tinynn.grad(f, (1, 4)), (None, 0, 0, None, 0)
        )(w, _twice(u), _twice(h), xs, _twice(ks)),
    }


def _twice(x: Any) -> Any:
    return namespace(x).stack([x, 0.5 * x])


def _squares(arrays: Any) -> Any:
    xp = namespace(*arrays)
    total = xp.sum(xp.square(arrays[0]))
    for a in arrays[1:]:
        total = xp.add(total, xp.sum(xp.square(a)))
    return total


@pytest.mark.only("numpy", "array_api_strict", "torch", "cupy")
@settings(max_examples=12)
@given(
    names=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4),
    reverse=st.booleans(),
    saved=st.booleans(),
    kind=st.sampled_from(sorted(transformed(lambda *args: args[0]))),
)
def test_drawn_bodies(
    backend: backends.Backend, names: list[str], reverse: bool, saved: bool, kind: str
) -> None:
    f = transformed(drawn(names, reverse, saved))[kind]
    args = placed(backend, W, U, H, XS, XS[:, 0])
    with backend.scope():
        assert_trees(tinynn.compile(f)(*args), f(*args), backend)


@pytest.mark.only("numpy")
def test_scans_that_others_do_not_read_any_more(backend: backends.Backend) -> None:
    f = transformed(drawn(["gate", "halve", "count"], reverse=False, saved=True))["hvp"]
    args = placed(backend, W, U, H, XS, XS[:, 0])
    assert_trees(tinynn.compile(f)(*args), f(*args), backend)  # one of three, and another with it


@pytest.mark.only("jax", "dpnp")  # each takes seconds to compile or to run there
@pytest.mark.parametrize(
    ("names", "kind"),
    [(["dense", "branch", "count"], "grad"), (["inner", "halve"], "vmap of grad")],
)
def test_a_few_bodies(backend: backends.Backend, names: list[str], kind: str) -> None:
    f = transformed(drawn(names, reverse=True, saved=False))[kind]
    args = placed(backend, W, U, H, XS, XS[:, 0])
    with backend.scope():
        assert_trees(tinynn.compile(f)(*args), f(*args), backend)


def test_a_hundred_steps_are_recorded_as_two(backend: backends.Backend) -> None:
    w, u, h = placed(backend, W, U, H)
    f = drawn(["dense", "sum"], reverse=False, saved=False)
    counts = []
    for steps in (2, 100):
        xs, ks = placed(backend, np.zeros((steps, 2)), np.zeros(steps))
        with backend.scope():
            graph = tinynn.record(tinynn.grad(f), w, u, h, xs, ks)
        scans = [node for node in graph.nodes if node.name == "scan"]
        assert len(scans) == 2  # there and back
        bodies = [len(node.kwargs["body"].nodes) for node in scans]
        counts.append((len(graph.nodes), bodies))
    assert counts[0] == counts[1]


def test_residuals_of_a_checkpoint_are_its_arguments(backend: backends.Backend) -> None:
    h, xs = placed(backend, H, np.zeros((4, 3)))

    def step(h: Any, x: Any) -> Any:
        xp = namespace(h)
        return xp.tanh(xp.sin(xp.cos(h * x)))

    def stacked(step: Callable[..., Any]) -> int:
        def f(h: Any, xs: Any) -> Any:
            h, _ = tinynn.scan(lambda h, x: (step(h, x), None), h, xs)
            return namespace(h).sum(h)

        with backend.scope():
            graph = tinynn.record(tinynn.grad(f), h, xs)
        forward = next(node for node in graph.nodes if node.name == "scan")
        return len(forward.kwargs["body"].outputs) - 1

    assert stacked(step) > 2
    assert stacked(tinynn.checkpoint(step)) == 1  # the carry; xs are there anyway


def test_no_steps_at_all(backend: backends.Backend) -> None:
    h, xs = placed(backend, H, np.zeros((0, 3)))

    def f(h: Any) -> Any:
        last, ys = tinynn.scan(lambda h, x: (h * x, {"y": 2 * h}), h, xs)
        assert tuple(ys["y"].shape) == (0, 3)
        return namespace(last).sum(last * last)

    with backend.scope():
        for way in (tinynn.grad(f), tinynn.compile(tinynn.grad(f))):
            assert_close(way(h), 2 * H, backend, **tolerance(backend))


def test_length_alone_and_reverse(backend: backends.Backend) -> None:
    [one] = placed(backend, 1.0)

    def powers(x: Any) -> Any:
        return tinynn.scan(lambda c, _: (c * x, c), x, None, 4, reverse=True)

    with backend.scope():
        for way in (powers, tinynn.compile(powers)):
            last, ys = way(one * 2)
            assert_close(last, 32, backend)
            assert_close(ys, [16, 8, 4, 2], backend)


def root(a: Any) -> Any:
    """The square root, by Newton's method."""
    xp = namespace(a)
    return tinynn.while_loop(
        lambda x: xp.abs(x * x - a) > 1e-5, lambda x: (x + a / x) / 2, xp.ones_like(a), bound=30
    )


def test_a_while_loop_and_its_derivatives(backend: backends.Backend) -> None:
    [a, many] = placed(backend, 3.0, [1.0, 2.0, 9.0])
    with backend.scope():
        for way in (lambda f: f, tinynn.compile):
            close = {"rtol": 1e-4, "atol": 1e-5}
            assert_close(way(root)(a), 3**0.5, backend, **close)
            assert_close(way(tinynn.grad(root))(a), 0.5 * 3**-0.5, backend, **close)
            assert_close(way(tinynn.vmap(root))(many), [1, 2**0.5, 3], backend, **close)
            slopes = way(tinynn.vmap(tinynn.grad(root)))(many)
            # At 1 it is done at once, whatever a is.
            assert_close(slopes, [0, 0.5 * 2**-0.5, 1 / 6], backend, **close)


def test_a_bound_of_no_steps_leaves_nothing_empty(backend: backends.Backend) -> None:
    """Its derivative has nothing to go through, which loops would have no words for."""
    [a] = placed(backend, 3.0)

    def f(a: Any) -> Any:
        return a * tinynn.while_loop(lambda x: x < 0, lambda x: x * a, a, bound=0)

    with backend.scope():
        assert_close(tinynn.compile(tinynn.grad(f))(a), 6, backend)
        assert "scan" not in [node.name for node in tinynn.record(tinynn.grad(f), a).nodes]


def test_a_bound_that_is_exceeded(backend: backends.Backend) -> None:
    [a] = placed(backend, 1.0)

    def f(a: Any) -> Any:
        return tinynn.while_loop(lambda x: x < 10, lambda x: x + a, a, bound=5)

    with backend.scope():
        ways = [f, tinynn.grad(f), tinynn.vmap(f)]
        for way in ways:
            given = a if way is not ways[2] else backend.xp.stack([3 * a, a])
            with pytest.raises(LoopBoundError, match=r"5 steps at most.*raise bound"):
                way(given)
            compiled = tinynn.compile(way)
            compiled(3 * given)
            if backend.xp.__name__.startswith("jax"):  # XLA's programs cannot raise
                assert np.isnan(backend.to_host(compiled(given))).any()
            else:
                with pytest.raises(LoopBoundError, match=r"5 steps at most.*raise bound"):
                    compiled(given)


@dataclass(frozen=True)
class Growing(Layer):
    """Adds one until an element is large, three times at most."""

    def forward(self, scope: Scope, x: Any) -> Any:
        xp = namespace(x)
        return tinynn.while_loop(lambda c: xp.max(c) < 9, lambda c: c + 1, x, bound=3)


@pytest.mark.parametrize("engine", ["eager", "calls", "loops"])
def test_a_bound_that_training_exceeds_names_the_layer_and_the_line(
    backend: backends.Backend, engine: str
) -> None:
    if backend.repeat or (engine == "loops" and not backend.native()):
        pytest.skip(f"{backend} has no engine {engine!r} that can raise")
    net = Sequential(Growing(), Linear(1))
    [x, y] = placed(backend, [[7.0], [1.0]], [[0.0], [1.0]])
    start = net.init(0, 9 + 0 * x)[0]
    data: dict[str, Any] = {"loss": "mse", "batch_size": 1, "epochs": 2, "shuffle": False}
    with pytest.raises(LoopBoundError, match=r"test_control_flow.py:\d+: .*3 steps") as caught:
        tinynn.fit(net, x, y, params=start, engine=engine, progress=False, **data)
    assert any("layer 0, Growing()" in note for note in caught.value.__notes__)


def test_only_the_branch_that_is_taken_is_computed(backend: backends.Backend) -> None:
    calls: list[str] = []

    def called(name: str) -> Callable[..., Any]:
        @custom_vjp(lambda g, y, x: (g,))
        def f(x: Any) -> Any:
            calls.append(name)
            return x * 1

        return f

    first, second = called("first"), called("second")

    def f(x: Any) -> Any:
        return tinynn.cond(x > 0, first, second, x)

    x, other = placed(backend, 2.0, -2.0)
    with backend.scope():
        f(x)
        assert calls == ["first"]
        compiled = tinynn.compile(f)
        compiled(x)
        calls.clear()
        compiled(other)
    # JAX compiles both branches once, and calls Python no more.
    assert calls == ([] if backend.xp.__name__.startswith("jax") else ["second"])


def test_bad_input(backend: backends.Backend) -> None:
    h, xs = placed(backend, H, XS)
    xp = backend.xp

    def refused(match: str, f: Callable[..., Any], kind: type[Exception] = ValueError) -> None:
        for way in (f, tinynn.compile(lambda h: f() or h)):
            with pytest.raises(kind, match=match), backend.scope():
                way(*([h] if way is not f else []))

    same = lambda c, x: (c, x)  # noqa: E731
    refused(
        "scan of .*: init, '1': expected an array, got float",
        lambda: tinynn.scan(same, (h, 1.0), xs),
        TypeError,
    )
    refused(
        "xs, '1': expected 5 entries along axis 0, as xs, '0' has",
        lambda: tinynn.scan(same, h, (xs, h)),
    )
    refused("expected 5 entries.*length", lambda: tinynn.scan(same, h, h, length=5))
    refused("without xs there is no number of steps.*give length", lambda: tinynn.scan(same, h))
    refused("expected an array of shape \\(length", lambda: tinynn.scan(same, h, xp.sum(h)))
    refused("a pair \\(carry, y\\)", lambda: tinynn.scan(lambda c, x: c, h, xs), TypeError)
    refused(
        r"scan of <lambda>, test_control_flow.py:\d+: the carry that f .* shape \(3,\)",
        lambda: tinynn.scan(lambda c, x: (namespace(c).sum(c), None), h, xs),
    )
    refused(
        "the carry that f gives: expected shape .*float.* got .*int32.*xp.astype",
        lambda: tinynn.scan(lambda c, x: (namespace(c).astype(c, xp.int32), None), h, xs),
    )
    refused(
        "the carry that f gives: expected a tree like",
        lambda: tinynn.scan(lambda c, x: ((c, c), None), h, xs),
    )
    refused(
        "the y that f gives: expected an array, got int",
        lambda: tinynn.scan(lambda c, x: (c, 3), h, xs),
        TypeError,
    )
    refused(
        "bound: expected an integer of 0 or more, got -1",
        lambda: tinynn.while_loop(lambda x: x < 3, lambda x: x, xp.sum(h), bound=-1),
    )
    refused(
        "cond_fun: expected a boolean array of shape",
        lambda: tinynn.while_loop(lambda x: x < 3, lambda x: x, h, bound=3),
        TypeError,
    )
    refused(
        "expected a boolean array, got",
        lambda: tinynn.cond(xp.sum(h), lambda: h, lambda: h),
        TypeError,
    )
    refused("predicate: expected a boolean array of shape \\(\\), got shape \\(3,\\).*xp.where",
            lambda: tinynn.cond(h > 0, lambda: h, lambda: h), TypeError)  # fmt: skip


def test_branches_that_differ_are_named_in_a_recording(backend: backends.Backend) -> None:
    [h] = placed(backend, H)

    def f(h: Any) -> Any:
        xp = namespace(h)
        return tinynn.cond(xp.sum(h) > 0, lambda h: {"y": h}, lambda h: {"y": h[:2]}, h)

    with backend.scope(), pytest.raises(ValueError, match="the results, 'y': expected shape"):
        tinynn.compile(f)(h)


def test_an_effect_in_a_body_is_refused_in_a_recording(backend: backends.Backend) -> None:
    seen: list[int] = []

    @custom_vjp(lambda g, y, x: (g,), effect="writes")
    def noted(x: Any) -> Any:
        seen.append(1)
        return x * 1

    def f(h: Any) -> Any:
        return tinynn.scan(lambda h, _: (noted(h), None), h, length=3)[0]

    [h] = placed(backend, H)
    with backend.scope():
        f(h)
        assert len(seen) == 3
        with pytest.raises(RecordingError, match=r"noted at .* writes.*call it afterwards"):
            tinynn.compile(f)(h)


@dataclass(frozen=True)
class Recurrent(Layer):
    """The last state of a recurrent layer: (batch, steps, features) to (batch, width)."""

    width: int

    def forward(self, scope: Scope, x: Any) -> Any:
        across = scope.param("across", initializers.glorot_uniform, (x.shape[-1], self.width))
        along = scope.param("along", initializers.glorot_uniform, (self.width, self.width))
        xp = namespace(x, across)

        def step(state: Any, now: Any) -> Any:
            return xp.tanh(xp.matmul(state, along) + xp.matmul(now, across)), None

        start = xp.zeros((x.shape[0], self.width), dtype=across.dtype, device=x.device)
        return tinynn.scan(step, start, xp.permute_dims(x, (1, 0, 2)))[0]


def test_a_recurrent_layer_under_every_engine(backend: backends.Backend) -> None:
    draw = np.random.default_rng(0)
    X, Y = draw.normal(size=(10, 6, 2)), draw.normal(size=(10, 1))
    net = Sequential(Recurrent(5), Linear(1))
    data = {"loss": "mse", "epochs": 3, "batch_size": 4}
    host = tinynn.fit(net, X, Y, engine="eager", **data)
    [x, y] = placed(backend, X, Y)
    # JAX carries out what is not compiled a call at a time, each of which it compiles.
    for engine in ("jit",) if backend.repeat else ("eager", "calls"):
        model = tinynn.fit(net, x, y, engine=engine, **data)
        np.testing.assert_allclose(model.history["loss"], host.history["loss"], rtol=1e-5)
        assert_close(model.predict(x), host.predict(X), backend, rtol=1e-4, atol=1e-5)


@pytest.mark.only("jax")
def test_beside_jax(backend: backends.Backend) -> None:
    import jax

    def net(scan: Any, cond: Any) -> Callable[..., Any]:
        def f(w: Any, u: Any, h: Any, xs: Any) -> Any:
            def step(h: Any, x: Any) -> Any:
                xp = namespace(w, u, h, xs)
                h = xp.tanh(h @ w + x @ u)
                h = cond(xp.sum(h) > 0, lambda h: h * 2, lambda h: xp.sin(h), h)
                return h, xp.sum(h * h)

            h, ys = scan(step, h, xs)
            return namespace(ys).sum(ys) + namespace(h).sum(h)

        return f

    args = placed(backend, W, U, H, XS)
    ours, theirs = net(tinynn.scan, tinynn.cond), net(jax.lax.scan, jax.lax.cond)
    every = (0, 1, 2, 3)
    expected = jax.grad(theirs, every)(*args)
    for way in (tinynn.grad(ours, every), tinynn.compile(tinynn.grad(ours, every)),
                jax.jit(tinynn.grad(ours, every)), jax.jit(jax.grad(ours, every))):  # fmt: skip
        assert_trees(way(*args), expected, backend)
    program = str(jax.make_jaxpr(ours)(*args))  # JAX's own recording holds JAX's own loop
    assert "scan[" in program
    assert "cond[" in program
