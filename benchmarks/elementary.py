"""What the elementary functions of loops cost beside NumPy's own, on the same arrays.

    python benchmarks/elementary.py [--rounds 40] [--only tanh,pow]

Nanoseconds an element in float32 and float64, for 1,000 and 100,000 elements on one thread; both
take turns, the least of each. NumPy writes into an array that is there; a kernel goes through the
array many times a call, so its call costs it nothing. NumPy has no erf: SciPy's takes its place.
"""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy is imported

import argparse  # noqa: E402
from collections.abc import Callable  # noqa: E402
from time import perf_counter  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from eager import machine  # noqa: E402
from scipy import special  # noqa: E402

from backends import llvm  # noqa: E402
from tinynn.compiler.codegen.language import (  # noqa: E402
    INDEX,
    Buffer,
    Function,
    Index,
    Load,
    Loop,
    Store,
    Variable,
)
from tinynn.compiler.codegen.operations import operation  # noqa: E402
from tinynn.compiler.codegen.renderers import RENDERERS  # noqa: E402

DRAW = np.random.default_rng(0)
ARGUMENTS: dict[str, Callable[[int], Any]] = {
    "normal": lambda n: 2 * DRAW.normal(size=n),
    "positive": lambda n: np.exp(3 * DRAW.normal(size=n)),
    "above one": lambda n: 1 + np.exp(3 * DRAW.normal(size=n)),
    "up to one": lambda n: DRAW.uniform(-1, 1, n),
}
FUNCTIONS = {
    **dict.fromkeys("exp expm1 sin cos tan atan sinh cosh tanh asinh erf".split(), ("normal",)),
    **dict.fromkeys("log log2 log10 log1p".split(), ("positive",)),
    **dict.fromkeys("asin acos atanh".split(), ("up to one",)),
    "acosh": ("above one",),
    **dict.fromkeys("atan2 hypot logaddexp".split(), ("normal", "normal")),
    "pow": ("positive", "normal"),
}


def kernel(name: str, dtype: str, count: int) -> Any:
    """`times` over, outs[i] = name(x[i], ...) for i < steps, as machine code."""
    steps, times, turn, i = (Variable(v, INDEX) for v in ("steps", "times", "turn", "i"))
    out, *given = (Buffer(n, dtype) for n in ("outs", "x", "y"))
    args = [Load(each, Index.of(i)) for each in given[:count]]
    body = Store(Load(out, Index.of(i)), operation(name, args, dtype))
    loops = Loop(turn, 0, times, 1, (Loop(i, 0, steps, 1, (body,)),))
    function = Function("run", (steps, times), (out, *given), (), (loops,))
    return llvm.build(RENDERERS["llvm"](function), [dtype] * 3)


def least(call: Callable[[], Any], times: int) -> float:
    spent = []
    for _ in range(times):
        start = perf_counter()
        call()
        spent.append(perf_counter() - start)
    return min(spent)


def measured(name: str, dtype: str, count: int, rounds: int) -> tuple[float, float]:
    """Nanoseconds an element, NumPy's and of loops."""
    arrays = [ARGUMENTS[kind](count).astype(dtype) for kind in FUNCTIONS[name]]
    run = kernel(name, dtype, len(arrays))
    function: Any = special.erf if name == "erf" else getattr(np, name)
    one, two = np.empty(count, dtype), np.empty(count, dtype)
    turns = max(100_000 // count, 1)
    given, theirs, ours = (arrays[0], arrays[-1]), float("inf"), float("inf")
    for _ in range(rounds):
        theirs = min(theirs, least(lambda: function(*arrays, one), 3 * turns))
        ours = min(ours, least(lambda: run(count, turns, two, *given), 3) / turns)
    close = 2e-6 if dtype == "float32" else 1e-14
    np.testing.assert_allclose(two, one, rtol=close, atol=close)
    return theirs / count * 1e9, ours / count * 1e9


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=40)
    options.add_argument("--only", default="", help="names of functions, separated by commas")
    given = options.parse_args()
    only = set(filter(None, given.only.split(",")))
    print(f"{machine(('numpy', 'scipy', 'llvmlite'))}; {given.rounds} rounds. Nanoseconds.\n")
    kinds = [(dtype, count) for dtype in ("float32", "float64") for count in (1000, 100_000)]
    print("| | " + " | | | ".join(f"{d}, {n:,}: NumPy" for d, n in kinds) + " | | |")
    print("|---" * (1 + 3 * len(kinds)) + "|")
    for name in FUNCTIONS:
        if only and name not in only:
            continue
        cells = []
        for dtype, count in kinds:
            theirs, ours = measured(name, dtype, count, given.rounds)
            cells.append(f"{theirs:.2f} | {ours:.2f} | {ours / theirs:.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
