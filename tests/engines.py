"""The engines of `fit` as tests ask for them, and what every one of them has to give."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

import tinynn
from backends import Backend
from backends.lowering import LoopCompiler
from tests.programs import ROUNDING, Program
from tinynn.compiler import pipelines
from tinynn.compiler.codegen import interpreter
from tinynn.compiler.loops import Loops
from tinynn.compiler.rewrite import CannotEmit
from tinynn.compiler.train_loop import TrainLoop
from tinynn.trace import namespace
from tinynn.transforms.record import record


def compiled_by(backend: Backend) -> str:
    """The engine that compiles there; a library's own compiler is tested where it has one."""
    return "calls" if backend.repeat is None else "jit"


def compilers_of(backend: Backend) -> tuple[str, ...]:
    """Those that compile there. NumPy's loops have tests of their own, since they take seconds."""
    return (compiled_by(backend), *(("loops",) if backend.name == "cupy" else ()))


class Interpreted(Loops):
    """Loops that the interpreter carries out: by threads, each time in another order.

    They go through what a renderer of CUDA C is given, with little shared memory.
    """

    threads, shared_bytes, language = 4, 256, "cuda"
    products: ClassVar[dict[str, int]] = {}

    def compiler(self) -> LoopCompiler:
        return LoopCompiler(
            lambda source, dtypes, **launch: self._interpret,
            np.ravel,
            self.products,
            self.language,
            self.threads,
            self.shared_bytes,
        )

    def _interpret(self, steps: int, times: int, *arrays: Any) -> None:
        for seed in (1, 0):
            memory = [array.tolist() for array in arrays]
            interpreter.run(self.function, (steps, times), *memory, seed=seed)
            results = [np.asarray(m, a.dtype) for m, a in zip(memory, arrays, strict=True)]
            if seed:
                first = results
        for array, result, other in zip(arrays, results, first, strict=True):
            np.testing.assert_array_equal(result, other)  # whichever thread came first
            array[...] = result


class InterpretedSerially(Interpreted):
    """Loops for one thread that the interpreter carries out."""

    threads, shared_bytes, language = 1, 0, "python"
    products: ClassVar[dict[str, int]] = {"float32": 512, "float64": 512}


STEPS, RATE, DECAY, TOLERANCE = 4, 1e-4, 0.9, 1e-9

Step = Callable[..., tuple[Any, ...]]


def training(program: Program, backend: Backend) -> tuple[Step, list[Any], Any, Any]:
    """A step of momentum on the program's value; where it starts, the data's rows, and factors."""
    f = program.over(tinynn.Namespace(backend.xp), backend.asarray)
    start = [backend.asarray(np.asarray(x)) for x in program.inputs.values()]
    count = len(start)

    def step(*given: Any) -> tuple[Any, ...]:
        params, moving, (row, factor) = given[:count], given[count : 2 * count], given[2 * count :]
        xp = namespace(*given)
        scaled = lambda *x: namespace(*x).multiply(f(*x), factor)  # noqa: E731
        loss, slopes = tinynn.value_and_grad(scaled, tuple(range(count)))(*params)
        moving = [DECAY * m + g for m, g in zip(moving, slopes, strict=True)]
        new = [p - RATE * m for p, m in zip(params, moving, strict=True)]
        return (*new, *moving, loss + xp.sum(row))

    kept = start + [0 * x for x in start]
    rows = backend.asarray(np.linspace(-1, 1, 2 * STEPS).reshape(STEPS, 2))
    return step, kept, rows, backend.asarray(np.linspace(1.0, 0.7, STEPS))


def as_written(step: Step, kept: list[Any], rows: Any, factors: Any) -> tuple[list[Any], list[Any]]:
    """The carry after all steps, and the output of each."""
    wanted = []
    for i in range(STEPS):
        *kept, out = step(*kept, rows[i : i + 1, :], factors[i, ...])
        wanted.append(out)
    return kept, wanted


def assert_engine_agrees(program: Program, backend: Backend, kind: type[TrainLoop]) -> bool:
    """False if the engine has no form for the program; else its results are the step's."""
    step, kept, rows, factors = training(program, backend)
    params, wanted = as_written(step, kept, rows, factors)
    decompositions = pipelines.decompositions(backend.lowering)
    given = (*kept, rows[:1, :], factors[0, ...])
    graph = record(step, *given, decompositions=decompositions)
    places, half = list(range(len(kept))), len(kept) // 2
    try:
        loop = kind(graph, len(kept), backend, [places[:half], places[half:]])
    except CannotEmit:
        return False
    for _ in range(2):  # a program that ran keeps nothing of it
        loop.load(kept)
        outs = loop.run(loop.batches(1, [rows], [factors]))
        found = [*loop.values(), *[outs[i, ...] for i in range(STEPS)]]
        for leaf, want in zip(found, [*params, *wanted], strict=True):
            leaf, want = backend.to_host(leaf), backend.to_host(want)
            assert (leaf.dtype, leaf.shape) == (want.dtype, want.shape)
            scale = float(np.max(np.abs(want), initial=0.0))
            floor = max(TOLERANCE * scale, ROUNDING)
            np.testing.assert_allclose(leaf, want, rtol=TOLERANCE, atol=floor)
    return True
