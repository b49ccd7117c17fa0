"""A communicator of threads: several ranks in one process, for tests on every library."""

import threading
from collections.abc import Callable
from typing import Any

from tinynn.parallel import ParallelError


class Threads:
    """One rank of several threads, which sum in the order of the ranks."""

    def __init__(self, rank: int, barrier: threading.Barrier, shared: list[Any]) -> None:
        self.rank, self.size = rank, barrier.parties
        self._barrier, self._shared = barrier, shared
        self.calls: list[str] = []

    def all_reduce(self, array: Any) -> Any:
        self.calls.append("all_reduce")
        arrays = self._exchanged(array)
        total = arrays[0]
        for other in arrays[1:]:
            total = total + other
        return total

    def broadcast(self, array: Any) -> Any:
        return self._exchanged(array)[0]

    def barrier(self) -> None:
        self._wait()

    def abort(self, message: str) -> None:
        self._barrier.abort()

    def _exchanged(self, array: Any) -> list[Any]:
        self._shared[self.rank] = array
        self._wait()
        arrays = list(self._shared)
        self._wait()
        return arrays

    def _wait(self) -> None:
        try:
            self._barrier.wait(timeout=60)
        except threading.BrokenBarrierError as error:
            raise ParallelError(f"rank {self.rank}: another rank has gone") from error


def together(size: int, function: Callable[[Threads], Any]) -> list[Any]:
    """What a function gives, or raises, in each of so many ranks at once."""
    barrier, shared = threading.Barrier(size), [None] * size
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = function(Threads(rank, barrier, shared))
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a rank waits for the others"
    return results


def succeeded(results: list[Any]) -> list[Any]:
    """The results, none of which is an error; else the first error."""
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
