"""Which program an engine of `fit` runs."""

from typing import Any

from tinynn.compiler.train_loop import Functional, InPlace, Scanned, TrainLoop


def kind_of(engine: str, backend: Any) -> type[TrainLoop]:
    """The kind of program that an engine of `fit` runs; "auto" takes the library's fastest.

    Raises ValueError for "jit" where the library has no compiler that takes a loop.
    """
    if engine == "jit" and backend.repeat is None:
        raise ValueError(
            f"engine: expected 'auto', 'eager' or 'calls' on {backend!r}, got 'jit': that library "
            "has no compiler of its own for a whole loop"
        )
    if engine == "loops":
        from tinynn.compiler.loops import Loops  # seldom needed

        return Loops
    if engine != "calls" and backend.repeat is not None:
        return Scanned
    return Functional if backend.lowering is None else InPlace
