"""Engines: the ways in which `fit` carries out steps. Each gives the same numbers, to rounding.

"eager" runs the step as it is written. "calls" records it once and runs the emitted program, with
the loop over the batches inside. "loops" runs it as one function of explicit loops: machine code,
or a kernel of CUDA. "jit" hands that program to the library's own compiler. "auto" takes what is
fastest from start to end, and decides from the program's size, so that it takes the same every
time.
"""

from contextlib import nullcontext
from functools import partial
from math import inf, prod
from typing import Any

from backends import BackendUnavailable
from backends.lowering import KernelError
from backends.user_code import warn
from tinynn import tree
from tinynn.training.engines.eager import Eager
from tinynn.training.engines.late import Late
from tinynn.training.engines.searching import searching
from tinynn.training.problem import Problem
from tinynn.training.progress import Bar
from tinynn.training.sharded import ShardedBatches
from tinynn.training.step import Carry
from tinynn.transforms.record import RecordingError

ENGINES = ("auto", "eager", "calls", "loops", "jit")

# Recording and emitting cost about as much as this many steps of a small network without them.
_WORTH_IT = 200
# Steps of a search, and of second order, after which they are recorded where the library's compiler
# takes seconds. How many there will be is not known before: training ends where they have
# converged. Elsewhere they are recorded at once, since most searches take tens.
_SEARCHES, _SECOND_ORDER = 40, 240
# Of a large network a program saves more in each step: one more for so many numbers in parameters.
_LARGE = 2**18


def select(
    problem: Problem,
    engine: str = "auto",
    *,
    epochs: int = 1,
    carry: Carry | None = None,
    never_stops_early: bool = False,
    bar: Bar | None = None,
) -> Any:
    """The engine of that name, ready to run; an eager one, with a warning, if it must be.

    An engine has `run(epoch, first, count)`, which carries out steps of an epoch and gives
    their losses, `snapshot()`, which gives the carry, and `load(carry)`.

    Parameters
    ----------
    problem
        What is to be trained on what.
    engine
        One of ENGINES.
    epochs
        How many there are to be.
    carry
        Where to start from, if not at the problem's start.
    never_stops_early
        Whether nothing but a loss that is not finite can end them sooner.
    bar
        What shows the progress.
    """
    batches: Any = problem.batches
    if problem.communicator is not None:
        batches = ShardedBatches(problem.batches, problem.communicator)
    arguments = (
        *(problem.step, batches),
        problem.start if carry is None else carry,
        Bar() if bar is None else bar,
    )
    # A stream that does not know its length is taken for a long one.
    steps = None if batches.steps is None else epochs * batches.steps
    sizes = (prod(leaf.shape) for leaf in tree.leaves(problem.start.params))
    counted = inf if steps is None else steps * (1 + sum(sizes) // _LARGE)
    needs = getattr(problem.step.optimizer, "needs", ())
    alone = problem.communicator is None
    searches = "value_and_grad" in needs and "loss_scale" not in needs
    if engine == "jit":
        from tinynn.compiler.engines import kind_of

        kind_of(engine, batches.backend)  # an error where the library has no such compiler
    if searches and alone and not batches.backend.sharded:
        return searching(*arguments, _after(engine, batches.backend, _SEARCHES))
    if "objective" in needs and engine == "auto" and steps is not None:
        # Never in loops, which do not hold what it solves with; to ask costs an import.
        made = partial(_compiled, problem, engine, arguments, steps, False)
        if after := _after(engine, batches.backend, _SECOND_ORDER):
            return Late(Eager(*arguments), made, after)
        return made(arguments[2])
    if engine == "eager" or (engine == "auto" and counted < _WORTH_IT):
        return Eager(*arguments)
    return _compiled(problem, engine, arguments, steps, never_stops_early, arguments[2])


def _after(engine: str, backend: Any, slow: int) -> int | None:
    """From which step on it is to be recorded; None: never."""
    if engine == "eager":
        return None
    return slow if engine == "auto" and backend.repeat is not None else 0


def _compiled(
    problem: Problem,
    engine: str,
    arguments: tuple[Any, ...],
    steps: int | None,
    never_stops_early: bool,
    carry: Carry,
) -> Any:
    """The compiled engine that goes on from a carry; an eager one if the step is not recorded."""
    step, batches, _, bar = arguments
    alone = problem.communicator is None
    # A loop that the library compiles calls nothing back, and so cannot communicate.
    compiled = "jit" if alone and batches.backend.repeat is not None else "calls"
    computed = problem.step.compute_dtype
    narrow = computed if computed not in (None, *batches.backend.dtypes()) else ""
    for way in dict.fromkeys((compiled if engine == "auto" else engine, "calls")):
        # Imported here, since short runs never need it.
        from tinynn.compiler.engines import kind_of
        from tinynn.compiler.rewrite import CannotEmit
        from tinynn.training.engines.compiled import Compiled

        try:
            if way == "loops" and narrow:
                raise CannotEmit(f"machine code has no {narrow}")
            made = Compiled(step, batches, carry, bar, kind_of(way, batches.backend), way)
        except CannotEmit as error:
            _warn(f'the training step runs with engine="calls" instead: {error}')
        except RecordingError as error:
            _warn(f"the training step runs without compiling: {error}")
            break
        else:
            sure = engine == "auto" and never_stops_early and not narrow and alone
            if not sure or steps is None:
                return made
            from tinynn.compiler.worth import worth_compiling

            if worth_compiling(made.loop.graph, steps):
                from tinynn.compiler.loops import Loops  # which takes its time

                # Keep the calls if there is no compiler of loops, or loops cannot express the step.
                try:
                    native = batches.backend.native()
                    if native is not None and native.automatic:
                        return Compiled(step, batches, carry, bar, Loops, "loops")
                except BackendUnavailable:
                    pass
                except CannotEmit as error:
                    if isinstance(error.__cause__, KernelError):  # which should not be
                        _warn(f'the training step runs with engine="calls" instead: {error}')
            return made
    return Eager(step, batches, carry, bar)


def diagnose_nonfinite(engine: Any, number: int) -> str:
    """The first operation with a non-finite result in this epoch, at whose start the engine is.

    "" for a step that cannot be recorded.
    """
    from tinynn.compiler import compile  # few runs fail

    batches, carry = engine.batches, engine.snapshot()[0]
    epoch = batches.epoch(number)
    step, lowering = compile(engine.step, check_finite=True), batches.backend.lowering
    try:
        with lowering.context() if lowering else nullcontext():
            place = 0
            while batches.available(epoch, place, 1):
                keys = batches.keys(epoch, place, 1)
                key = None if keys is None else keys[0, ...]
                carry, _ = step(carry, batches.samples(epoch, place, 1), key)
                place += 1
    except FloatingPointError as error:
        return str(error).partition(": ")[2]  # without the name of the step
    except Exception:  # an error of the search must not hide the failure itself
        pass
    return ""


def _warn(what: str) -> None:
    warn(f"fit: {what}")
