"""Random programs and random nestings, against JAX, differences, and one backend another."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from backends import Backend
from tests.programs import ROUNDING, Program, nested
from tests.seeds import fourier, parts, seeds, share, shown
from tinynn import tree
from tinynn.trace import namespace

SEEDS = 100
# Against JAX itself, 0.6 s of processor time a program and 0.1 s a nesting.
AGAINST_JAX, NESTINGS_AGAINST_JAX = 24, 40
TOLERANCE = 1e-8
# A program compiles in a quarter of a second instead of two. What XLA makes of it then is wrong
# now and then (of seed 265 inf, in JAX 0.10.2), or nothing (an FFT that cannot run, of seed 526).
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
Way = Callable[..., Callable[..., Any]]

with_float64 = pytest.mark.usefixtures("float64")


def ours(program: Program, backend: Backend) -> dict[str, Any]:
    """tinynn's answers over this backend, on the host."""
    f = program.over(tinynn.Namespace(backend.xp), backend.asarray)
    x, direction, batch = points(program, lambda host: backend.asarray(np.asarray(host)))
    every = tuple(range(len(x)))
    gradient = tinynn.grad(f, every)

    def whole(*batch: Any) -> Any:
        values = tinynn.vmap(f)(*batch)
        return namespace(values).sum(values)

    value, change = tinynn.jvp(f, x, direction)
    found = {
        "value": value,
        "jvp": change,
        "gradient": gradient(*x),
        "hvp": tinynn.jvp(gradient, x, direction)[1],
        "gradients of a batch": tinynn.vmap(gradient)(*batch),
        "gradient over a batch": tinynn.grad(whole, every)(*batch),
        "batched in one argument": tinynn.vmap(gradient, (0, *[None] * (len(x) - 1)))(
            batch[0], *x[1:]
        ),
    }
    for leaf in tree.leaves(found):
        assert backends.of(leaf) == backend
    return tree.map(backend.to_host, found)


def points(program: Program, place: Callable[[Any], Any]) -> list[tuple[Any, ...]]:
    """Where the program is differentiated, in which direction, and a batch of other points."""
    groups = (program.inputs.values(), program.direction, program.batch)
    return [tuple(place(x) for x in group) for group in groups]


def compiled(f: Callable[..., Any], *at: Any) -> Callable[..., Any]:
    """`f` as XLA compiles it whole, for arguments like these."""
    import jax

    return jax.jit(f).lower(*at).compile(QUICK)


def op_by_op(f: Callable[..., Any], *at: Any) -> Callable[..., Any]:
    """`f` as JAX runs it, each operation compiled by itself: ten times slower, as a rule."""
    return f


def agrees_with_jax(check: Callable[[Way], None]) -> None:
    """The check passes by what JAX answers quickly or, where that differs, by its last word."""
    import jax

    try:
        check(compiled)
    except (AssertionError, jax.errors.JaxRuntimeError):  # options come and go with versions
        check(op_by_op)


def jax_answers(program: Program, backend: Backend, way: Way) -> dict[str, Any]:
    """The same by JAX: batches entry by entry, since compiling is what takes the time."""
    import jax
    import jax.numpy as jnp

    f = program.over(jnp, jnp.asarray)
    x, direction, batch = points(program, jnp.asarray)
    both = jax.value_and_grad(f, tuple(range(len(x))))
    # One function, compiled once, answers all.
    answer = way(lambda *at: jax.jvp(both, at, direction), *x)

    def gradients(*batch: Any) -> Any:
        rows = [answer(*entry)[0][1] for entry in zip(*batch, strict=True)]
        return tuple(jnp.stack(row) for row in zip(*rows, strict=True))

    (value, gradient), (change, curvature) = answer(*x)
    looped = gradients(*batch)
    repeated = [jnp.stack([leaf] * len(batch[0])) for leaf in x[1:]]
    found = {
        "value": value,
        "jvp": change,
        "gradient": gradient,
        "hvp": curvature,
        "gradients of a batch": looped,
        "gradient over a batch": looped,
        "batched in one argument": gradients(batch[0], *repeated),
    }
    return tree.map(backend.to_host, found)


def assert_alike(found: dict[str, Any], expected: dict[str, Any], rtol: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        leaves, wanted = tree.leaves(value), tree.leaves(expected[name])
        assert len(leaves) == len(wanted)
        size = max(float(np.max(np.abs(leaf))) for leaf in wanted)
        for place, (leaf, want) in enumerate(zip(leaves, wanted, strict=True)):
            assert leaf.dtype == want.dtype == np.float64
            np.testing.assert_allclose(
                leaf, want, rtol, max(rtol * size, ROUNDING), err_msg=f"{name}, input {place}"
            )


@parts
@with_float64
def test_programs_agree_with_numpy(backend: Backend, part: int) -> None:
    for seed in seeds(share(SEEDS, backend), part):
        program = Program(seed, fourier(backend))
        with shown(program):
            found = ours(program, backend)
            assert_alike(found, ours(program, backends.get("numpy")), TOLERANCE)


@parts
def test_programs_agree_with_differences_and_loops(part: int) -> None:
    for seed in seeds(SEEDS, part):
        program = Program(seed)
        with shown(program):
            found = ours(program, backends.get("numpy"))
            assert_loops_agree(program, found)
            assert_differences_agree(program, found)


def assert_loops_agree(program: Program, found: dict[str, Any]) -> None:
    f = program.over(tinynn.Namespace(np), np.asarray)
    gradient = tinynn.grad(f, tuple(range(len(program.inputs))))
    rows = [gradient(*entry) for entry in zip(*program.batch, strict=True)]
    looped = tuple(np.stack(row) for row in zip(*rows, strict=True))
    pairs = zip(found["gradient"], program.direction, strict=True)
    alike = {
        "jvp": sum(np.sum(g * d) for g, d in pairs),
        "gradients of a batch": looped,
        "gradient over a batch": looped,
    }
    assert_alike({name: found[name] for name in alike}, alike, TOLERANCE)


def assert_differences_agree(program: Program, found: dict[str, Any]) -> None:
    f = program.over(tinynn.Namespace(np), np.asarray)
    x, direction = list(program.inputs.values()), program.direction
    gradient = tinynn.grad(f, tuple(range(len(x))))

    def moved(h: float) -> list[Any]:
        return [each + h * d for each, d in zip(x, direction, strict=True)]

    assert_near(lambda h: f(*moved(h)), found["jvp"])
    assert_near(lambda h: flat(gradient(*moved(h))), flat(found["hvp"]))
    first = tinynn.hvp(lambda each: f(each, *x[1:]), (x[0],), (direction[0],))
    assert_near(lambda h: flat(gradient(moved(h)[0], *x[1:])[:1]), first.ravel())


def flat(arrays: Any) -> np.ndarray:
    return np.concatenate([np.ravel(a) for a in arrays])


def assert_near(f: Callable[[float], Any], slope: Any) -> None:
    """`slope` is the derivative of f at 0, as well as differences of fourth order can tell."""
    misses = []
    for h in (3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5):  # it can be steep: a smaller one; or flat
        rise = (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)
        misses.append(float(np.max(np.abs(rise - slope) / (1e-3 + np.max(np.abs(slope))))))
    assert min(misses) < 1e-6, f"differences miss by {misses}"


@parts
@pytest.mark.only("jax-x64")
def test_programs_agree_with_jax(backend: Backend, part: int) -> None:
    for seed in seeds(AGAINST_JAX, part):
        program = Program(seed)
        found = ours(program, backends.get("numpy"))

        def check(way: Way) -> None:
            assert_alike(found, jax_answers(program, backend, way), TOLERANCE)  # noqa: B023

        with shown(program):
            agrees_with_jax(check)


def nesting(backend: Backend, seed: int, at: float) -> tuple[str, Any]:
    many = backend.asarray(np.asarray([0.3, -0.6, 0.9]))
    name, f = nested(tinynn, tinynn.Namespace(backend.xp), seed, many)
    with shown(f"nesting {seed}: {name}"):
        return name, backend.to_host(f(backend.asarray(np.asarray(at))))


@parts
@with_float64
def test_nestings_agree_with_numpy(backend: Backend, part: int) -> None:
    for seed in seeds(share(SEEDS, backend), part):
        name, found = nesting(backend, seed, 0.7)
        _, expected = nesting(backends.get("numpy"), seed, 0.7)
        with shown(f"nesting {seed}: {name}"):
            np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@parts
@pytest.mark.only("jax-x64")
def test_nestings_agree_with_jax(backend: Backend, part: int) -> None:
    import jax
    import jax.numpy as jnp

    many, at = jnp.asarray([0.3, -0.6, 0.9]), jnp.asarray(0.7)
    for seed in seeds(NESTINGS_AGAINST_JAX, part):
        name, found = nesting(backends.get("numpy"), seed, 0.7)
        f = nested(jax, jnp, seed, many)[1]

        def check(way: Way) -> None:
            expected = backend.to_host(way(f, at)(at))  # noqa: B023
            np.testing.assert_allclose(found, expected, TOLERANCE, TOLERANCE)  # noqa: B023

        with shown(f"nesting {seed}: {name}"):
            agrees_with_jax(check)
