"""Engines: the ways in which `fit` carries out steps. Each gives the same numbers, to rounding.

"eager" runs the step as it is written. "calls" records it once and runs the emitted program, with
the loop over the batches inside. "loops" runs it as one function of explicit loops, compiled to
machine code. "jit" hands that program to the library's own compiler. "auto" takes what is fastest
from start to end, and decides from the program's size, so that it takes the same every time.
"""

import warnings
from contextlib import nullcontext, suppress
from typing import Any

from backends import BackendUnavailable
from tinynn.training.batches import Batches
from tinynn.training.engines.eager import Eager
from tinynn.training.progress import Bar
from tinynn.training.step import Carry, TrainingStep
from tinynn.transforms.record import RecordingError

ENGINES = ("auto", "eager", "calls", "loops", "jit")

# Recording and emitting cost about as much as this many steps of a small network without them.
_WORTH_IT = 200


def select(
    engine: str,
    step: TrainingStep,
    batches: Batches,
    carry: Carry,
    bar: Bar,
    epochs: int,
    never_stops_early: bool,
) -> Any:
    """The engine of that name, ready to run; an eager one, with a warning, if it must be.

    Args:
        engine: one of ENGINES.
        step, batches: what is to be done.
        carry: where to start from.
        bar: what shows the progress.
        epochs: how many of them there are to be.
        never_stops_early: whether nothing but a loss that is not finite can end them sooner.
    """
    steps = epochs * batches.steps
    ways = [] if engine == "eager" or (engine == "auto" and steps < _WORTH_IT) else [engine]
    ways += ["calls"] if ways and engine != "calls" else []
    for way in ways:
        # Imported here, since short runs never need it.
        from tinynn.compiler.engines import kind_of
        from tinynn.compiler.loops import Loops, worth_compiling
        from tinynn.compiler.rewrite import CannotEmit
        from tinynn.training.engines.compiled import Compiled

        arguments = (step, batches, carry, bar)
        try:
            made = Compiled(*arguments, kind_of(way, batches.backend))
        except CannotEmit as error:
            _warn(f'the training step runs with engine="calls" instead: {error}')
        except RecordingError as error:
            _warn(f"the training step runs without compiling: {error}")
            break
        else:
            if engine == "auto" and never_stops_early and worth_compiling(made.loop.graph, steps):
                # Not where there is no compiler of loops, nor for a step that they cannot express.
                with suppress(BackendUnavailable, CannotEmit):
                    return Compiled(*arguments, Loops)
            return made
    return Eager(*(step, batches, carry, bar))


def diagnose_nonfinite(engine: Any, epoch: int) -> str:
    """The first operation with a non-finite result in this epoch, at whose start the engine is.

    "" for a step that cannot be recorded.
    """
    from tinynn.compiler import compile  # few runs fail

    batches, carry = engine.batches, engine.snapshot()[0]
    order, keys = batches.order(epoch), batches.keys(epoch)
    step, lowering = compile(engine.step, check_finite=True), batches.backend.lowering
    try:
        with lowering.context() if lowering else nullcontext():
            for place in range(batches.steps):
                key = None if keys is None else keys[place, ...]
                carry, _ = step(carry, batches.samples(order, place, 1), key)
    except FloatingPointError as error:
        return str(error).partition(": ")[2]  # without the name of the step
    except Exception:  # whatever the search meets, the failure itself is what has to be told
        pass
    return ""


def _warn(what: str) -> None:
    warnings.warn(f"fit: {what}", RuntimeWarning, stacklevel=5)
