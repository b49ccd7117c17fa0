"""Every rule: against central differences, to second order, forward, batched, and against JAX.

Complex arrays are pairs of reals here: <a, b> is Re sum(a * b), without conjugation, as in JAX.
"""

from functools import partial
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_array, assert_close
from tests.rule_cases import CASES
from tests.rule_rows import Case, require, skip_if_missing
from tinynn import tree
from tinynn.rules import RULES
from tinynn.trace import Namespace, plain
from tinynn.trace.standard import FUNCTIONS
from tinynn.transforms.cond import CHECKED, COND, WHILE
from tinynn.transforms.scan import PULLED, SCAN

STEP = 1e-5
KINDS = {"real": ("real",), "complex": ("complex",), "both": ("real", "complex")}
DTYPES = {"real": ("float32", "float64"), "complex": ("complex64", "complex128")}
INTEGERS = """all any argmax argmin argsort bitwise_and bitwise_invert bitwise_left_shift bitwise_or
    bitwise_right_shift bitwise_xor count_nonzero equal greater greater_equal isfinite isin isinf
    isnan less less_equal linalg.matrix_rank logical_and logical_not logical_or logical_xor nonzero
    not_equal searchsorted signbit""".split()

#: JAX, slow to compile but with derivatives of its own, has fewer tests, beside its own.
LIBRARIES = ("numpy", "array_api_strict", "torch", "dpnp", "cupy")

Host = np.ndarray


smooth_row = pytest.mark.parametrize(
    ("key", "case", "kind"),
    [
        pytest.param(key, case, kind, id=f"{getattr(key, 'name', key)}-{i}-{kind}")
        for key, cases in CASES.items()
        for i, case in enumerate(cases)
        if case.smooth
        for kind in KINDS[case.numbers]
    ],
)
each_key = pytest.mark.parametrize("key", CASES, ids=lambda key: getattr(key, "name", key))
in_single_precision = pytest.mark.only(*LIBRARIES, "jax-x32")
measured_by_differences = pytest.mark.only(*LIBRARIES)


#: Functions that run graphs, which tests/test_control_flow.py draws.
RUN_GRAPHS = {SCAN, PULLED, COND, WHILE, CHECKED}


def test_no_rule_lacks_a_row() -> None:
    assert set(RULES) - RUN_GRAPHS - set(INTEGERS) == set(CASES)


def test_every_function_of_the_standard_has_a_rule_or_integer_results() -> None:
    assert set(FUNCTIONS) - set(CASES) == set(INTEGERS)
    assert all(RULES[name].constant for name in set(INTEGERS) & set(RULES))


def draw(rng: np.random.Generator, shape: Any, kind: str, low: float, high: float) -> Host:
    real = np.asarray(rng.uniform(low, high, shape))
    return real if kind == "real" else real + 1j * rng.uniform(low, high, shape)


def arguments(case: Case, kind: str, seed: int) -> list[Host]:
    rng = np.random.default_rng(seed)
    pairs = zip(case.shapes, case.domains, strict=True)
    return [draw(rng, shape, kind, *domain) for shape, domain in pairs]


def beside(values: Any, backend: backends.Backend, seed: int) -> list[Host]:
    """Numbers for a direction or a cotangent of each of these arrays, on the host."""
    rng, reals = np.random.default_rng(seed), DTYPES["real"]
    kinds = [
        "real" if backend.dtype_name(leaf.dtype) in reals else "complex"
        for leaf in tree.leaves(values)
    ]
    shapes = [tuple(leaf.shape) for leaf in tree.leaves(values)]
    return [draw(rng, shape, kind, -1, 1) for shape, kind in zip(shapes, kinds, strict=True)]


def placed(hosts: list[Host], like: Any, backend: backends.Backend) -> Any:
    """A tree like `like` of these numbers, each with the dtype of its leaf."""
    leaves, structure = tree.flatten(like)
    pairs = zip(hosts, leaves, strict=True)
    return structure.unflatten([backend.asarray(host, dtype=leaf.dtype) for host, leaf in pairs])


def inner(a: list[Host], b: list[Host]) -> float:
    return float(sum(np.sum((x * y).real) for x, y in zip(a, b, strict=True)))


def hosts_of(values: Any, backend: backends.Backend) -> list[Host]:
    return [backend.to_host(plain(leaf)) for leaf in tree.leaves(values)]


class Call:
    """A case on a backend: its function, of plain arrays, and its arguments."""

    def __init__(
        self,
        key: Any,
        case: Case,
        kind: str,
        backend: backends.Backend,
        seed: int,
        wide: bool = True,
    ) -> None:
        require(key, backend)
        space = Namespace(backend.xp)
        self.key, self.case, self.kind = key, case, kind
        self.name = f"{CASES[key].index(case)}-{kind}"
        self.backend, self.dtype = backend, backend.dtypes()[DTYPES[kind][wide]]
        self.f = backends.scoped(lambda *arrays: plain(case.f(space, *arrays)))
        self.hosts = arguments(case, kind, seed)
        self.args = [backend.asarray(host, dtype=self.dtype) for host in self.hosts]
        skip_if_missing(lambda: self.f(*self.args), backend)


def calls_of(key: Any, backend: backends.Backend, seed: int, wide: bool = True) -> list[Call]:
    return [
        Call(key, case, kind, backend, seed, wide)
        for case in CASES[key]
        for kind in KINDS[case.numbers]
    ]


def compiled(f: Any, calls: list[Call]) -> Any:
    """As one program where a library compiles: JAX's operations, one by one, take far longer.

    What JAX is no measure of, it mostly cannot compile either.
    """
    if not calls or any(call.backend.name != "jax" or call.case.jax for call in calls):
        return f
    import jax

    return jax.jit(f)


def check_direction(call: Call, f: Any) -> None:
    """`vjp` and `jvp` of `f` in one random direction: against differences, and each other."""
    backend = call.backend
    out, pullback = tinynn.vjp(f, *call.args)
    weights, direction = beside(out, backend, 7), beside(call.args, backend, 8)
    gradients = pullback(placed(weights, out, backend))
    for gradient, host in zip(gradients, call.hosts, strict=True):
        assert_array(gradient, backend, dtype=call.dtype, shape=host.shape)

    def moved(step: float) -> list[Host]:
        ahead = [host + step * d for host, d in zip(call.hosts, direction, strict=True)]
        return hosts_of(f(*placed(ahead, call.args, backend)), backend)

    difference = (inner(weights, moved(STEP)) - inner(weights, moved(-STEP))) / (2 * STEP)
    backward = inner(hosts_of(gradients, backend), direction)
    bound = 1e-7 * max(1.0, abs(difference))
    assert abs(backward - difference) < bound, f"rule: {backward}, differences: {difference}"
    _, tangent = tinynn.jvp(f, tuple(call.args), tuple(placed(direction, call.args, backend)))
    forward = inner(weights, hosts_of(tangent, backend))
    bound = 1e-11 * max(1.0, abs(backward))
    assert abs(forward - backward) < bound, f"forward: {forward}, backward: {backward}"


@measured_by_differences
@smooth_row
def test_rule_agrees_with_central_differences(
    key: Any, case: Case, kind: str, backend: backends.Backend, float64: Any
) -> None:
    call = Call(key, case, kind, backend, seed=3)
    check_direction(call, call.f)


# Of the same functions as the rules' own calls, which those of all libraries are tested with.
@pytest.mark.only("numpy", "array_api_strict", "torch")
@smooth_row
def test_rule_agrees_with_central_differences_to_second_order(
    key: Any, case: Case, kind: str, backend: backends.Backend, float64: Any
) -> None:
    call = Call(key, case, kind, backend, seed=4)
    out = call.f(*call.args)
    g = placed(beside(out, backend, 5), out, backend)
    check_direction(call, lambda *arrays: tinynn.vjp(call.f, *arrays)[1](g))


def with_gradients(call: Call, weights: list[Host]) -> Any:
    """A function that gives the case's results and, for this cotangent, its gradients."""

    def run(*arrays: Any) -> list[Any]:
        out, pullback = tinynn.vjp(call.f, *arrays)
        return tree.leaves(out) + list(pullback(placed(weights, out, call.backend)))

    return run


def reference(call: Call, seed: int) -> tuple[list[Host], list[Host]]:
    """A cotangent, and what NumPy makes of it in double precision."""
    numpy = backends.get("numpy")
    call = Call(call.key, call.case, call.kind, numpy, seed)
    weights = beside(call.f(*call.args), numpy, seed=5)
    return weights, hosts_of(with_gradients(call, weights)(*call.args), numpy)


def each_of(runs: list[Any]) -> Any:
    return lambda args: [run(*mine) for run, mine in zip(runs, args, strict=True)]


def check_single(found: list[Any], expected: list[Host], call: Call) -> None:
    scale = max([1.0, *[float(np.max(np.abs(host), initial=0.0)) for host in expected]])
    for array, host in zip(found, expected, strict=True):
        assert_close(array, host, call.backend, rtol=1e-4, atol=1e-5 * scale)
    for gradient in found[len(found) - len(call.args) :]:
        assert_array(gradient, call.backend, dtype=call.dtype)


@in_single_precision
@each_key
def test_rules_in_single_precision_agree_with_double(
    key: Any, backend: backends.Backend, subtests: Any
) -> None:
    """On every device, also those without float64; the reference is checked above."""
    calls = calls_of(key, backend, seed=3, wide=False)
    checked = [reference(call, seed=3) for call in calls]
    runs = [with_gradients(call, g) for call, (g, _) in zip(calls, checked, strict=True)]
    found = compiled(each_of(runs), calls)([call.args for call in calls])
    for call, arrays, (_, expected) in zip(calls, found, checked, strict=True):
        with subtests.test(call.name):
            check_single(arrays, expected, call)


@in_single_precision
@each_key
def test_batched_agrees_with_one_by_one(key: Any, backend: backends.Backend, subtests: Any) -> None:
    first, second = [
        [call for call in calls_of(key, backend, seed, wide=False) if call.case.batch]
        for seed in (3, 4)
    ]
    checked = [(reference(call, seed=3), reference(call, seed=4)[1]) for call in first]
    runs, batches = [], []
    for call, other, ((g, _), _) in zip(first, second, checked, strict=True):
        runs.append(tinynn.vmap(with_gradients(call, g)))
        batches.append([backend.xp.stack(pair) for pair in zip(call.args, other.args, strict=True)])
    found = compiled(each_of(runs), first)(batches)
    for call, arrays, ((_, one), two) in zip(first, found, checked, strict=True):
        with subtests.test(call.name):
            check_single(arrays, [np.stack(pair) for pair in zip(one, two, strict=True)], call)


@pytest.mark.only("jax-x64")
@each_key
def test_rules_agree_with_jax(key: Any, backend: backends.Backend, subtests: Any) -> None:
    """Backward, forward, and to second order: JAX's own derivatives of the very same function."""
    import jax

    def derivatives(call: Call, vjp: Any, jvp: Any, f: Any) -> Any:
        out = jax.eval_shape(call.f, *call.args)
        g = placed(beside(out, backend, 5), out, backend)
        t = tuple(placed(beside(call.args, backend, 8), call.args, backend))

        def all_of(*arrays: Any) -> Any:
            pull = lambda *arrays: vjp(f, *arrays)[1](g)  # noqa: E731
            return pull(*arrays), jvp(f, arrays, t)[1], jvp(pull, arrays, t)[1]

        return all_of

    calls = [call for call in calls_of(key, backend, seed=3) if not call.case.jax]
    runs = [derivatives(call, tinynn.vjp, tinynn.jvp, call.f) for call in calls]
    theirs = [
        derivatives(call, jax.vjp, jax.jvp, partial(call.case.f, jax.numpy)) for call in calls
    ]
    args = [call.args for call in calls]
    ours, theirs = jax.jit(lambda args: (each_of(runs)(args), each_of(theirs)(args)))(args)
    for call, mine, others in zip(calls, ours, theirs, strict=True):
        assert jax.tree.structure(mine) == jax.tree.structure(others)
        with subtests.test(call.name):
            for found, expected in zip(tree.leaves(mine), tree.leaves(others), strict=True):
                host = backend.to_host(expected)
                assert_close(found, host, backend, dtype=expected.dtype, rtol=1e-9, atol=1e-9)
