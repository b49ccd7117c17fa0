"""What a call keeps of the memory it takes, by `tracemalloc`."""

import gc
import itertools
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ROUNDS = 5


@contextmanager
def traced_memory() -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def left_behind(run: Callable[[], object], rounds: int = ROUNDS) -> int:
    """Bytes that `run` leaves behind in every one of a few rounds.

    A leak grows in each of them; a cache filled late, or the test runner's own thread, does not.
    """
    with traced_memory():
        run()
        sizes = [_held()]
        for _ in range(rounds):
            run()
            sizes.append(_held())
    return min(after - before for before, after in itertools.pairwise(sizes))


def peak_of(run: Callable[[], object]) -> tuple[int, int]:
    """The most bytes that `run` takes at once, and those that are left when it is done."""
    with traced_memory():
        run()
        peak = tracemalloc.get_traced_memory()[1]
        return peak, _held()


def _held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
