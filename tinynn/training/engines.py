"""Engines: the ways in which `fit` carries out epochs. Each gives the same numbers, to rounding.

"eager" runs the step as it is written. "calls" records it once and runs the emitted program, with
the loop over the batches inside. "loops" runs it as one function of explicit loops, compiled to
machine code. "jit" hands that program to the library's own compiler. "auto" takes what is fastest
from start to end, and goes by numbers of the program alone, so that it takes the same every time.
"""

import warnings
from contextlib import nullcontext, suppress
from typing import Any

from backends import BackendUnavailable
from tinynn.training.progress import Bar
from tinynn.training.step import Epoch, Snapshot
from tinynn.transforms.record import RecordingError

ENGINES = ("auto", "eager", "calls", "loops", "jit")

# Recording and emitting cost about as much as this many steps of a small network without them.
_WORTH_IT = 200


class Eager:
    """The step as it is written, batch by batch."""

    at_once = False  # epochs come one at a time

    def __init__(self, epoch: Epoch, bar: Bar) -> None:
        self.epoch, self.bar = epoch, bar
        self.state: Any = None
        self.held: Any = None

    def start(self, params: Any, state: Any) -> None:
        """Go on from these parameters; a state of None keeps the optimizer's own."""
        self.held = params
        self.state = self.state if state is None else state

    def run(self, first: int, count: int) -> Any:
        """The losses of `count` epochs from number `first` on: (count,)."""
        totals = []
        for number in range(first, first + count):
            self.held, self.state, total = self.epoch(self.held, self.state, number, self.bar)
            totals.append(total)
        return self.epoch.xp.stack(totals)

    def look_again(self) -> None:
        """The data, which may be others than before, are read in every step."""

    def snapshot(self, room: Snapshot | None = None) -> Snapshot:
        """How it stands now."""
        return Snapshot(self.held, self.state)


def chosen(
    engine: str, epoch: Epoch, bar: Bar, params: Any, state: Any, epochs: int, sure: bool
) -> Any:
    """The engine of that name, ready to run; an eager one, with a warning, if it must be.

    Args:
        engine: one of ENGINES.
        epoch: what is to be done.
        bar: what shows the progress.
        params, state: where to start from.
        epochs: how many of them there are to be.
        sure: whether nothing but a loss that is not finite can end them sooner.
    """
    steps = epochs * -(-epoch.samples.size // epoch.size)
    ways = [] if engine == "eager" or (engine == "auto" and steps < _WORTH_IT) else [engine]
    ways += ["calls"] if ways and engine != "calls" else []
    for way in ways:
        # Imported here, since short runs never need it.
        from tinynn.compiler.engines import kind_of
        from tinynn.compiler.loops import Loops, worth_compiling
        from tinynn.compiler.rewrite import CannotEmit
        from tinynn.training.programs import Compiled

        try:
            made = Compiled(epoch, bar, params, state, kind_of(way, epoch.backend))
        except CannotEmit as error:
            _say(f'the training step runs with engine="calls" instead: {error}')
        except RecordingError as error:
            _say(f"the training step runs without compiling: {error}")
            break
        else:
            if engine == "auto" and sure and worth_compiling(made.loop.graph, steps):
                # Not where there is no compiler of loops, nor for a step that they cannot say.
                with suppress(BackendUnavailable, CannotEmit):
                    return Compiled(epoch, bar, params, state, Loops)
            return made
    eager = Eager(epoch, bar)
    eager.start(params, state)
    return eager


def failure(engine: Any, number: int) -> str:
    """What made NaN or infinity first in epoch `number`, before which the engine is, and where.

    "" for a step that cannot be recorded.
    """
    from tinynn.compiler import compile  # few runs fail

    epoch, (params, state, _) = engine.epoch, engine.snapshot()
    step, lowering = compile(epoch.step, check_finite=True), epoch.backend.lowering
    try:
        with lowering.context() if lowering else nullcontext():
            for batch, key in epoch.batches(number):
                params, state, _ = step(params, state, batch, key)
    except FloatingPointError as error:
        return str(error).partition(": ")[2]  # without the name of the step
    except Exception:  # whatever the search meets, the failure itself is what has to be told
        pass
    return ""


def _say(what: str) -> None:
    warnings.warn(f"fit: {what}", RuntimeWarning, stacklevel=5)
