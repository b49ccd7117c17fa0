"""Threads of the processor: work that is shared among them, in pieces that are independent.

What runs in them has to let go of Python's lock, as machine code called through ctypes does. How
many there are is what OMP_NUM_THREADS says, else one for each processor that the process may use.
Threads are started for each piece of work and end with it, so that a process which forks has none
to lose.
"""

import os
import threading
from collections.abc import Callable
from itertools import count


def available() -> int:
    """The number of threads to use at most.

    >>> available() >= 1
    True
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else processors()


def processors() -> int:
    """The number of processors that this process may use.

    >>> processors() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shared(work: Callable[[int], None], items: int) -> None:
    """Do `work(i)` for each i below `items`, each once, by whichever thread is free.

    It returns when all is done. An error, or Ctrl-C, ends it when the items that were begun are
    done, and is raised here.

    >>> done = []
    >>> shared(done.append, 3)
    >>> sorted(done)
    [0, 1, 2]
    """
    places, errors = count(), list[BaseException]()

    def go() -> None:
        while not errors and (place := next(places)) < items:  # one item for one thread: it is C
            try:
                work(place)
            except BaseException as error:
                errors.append(error)

    others = [threading.Thread(target=go) for _ in range(min(available(), items) - 1)]
    for each in others:
        each.start()
    try:
        go()
    finally:
        for each in others:
            each.join()
    if errors:
        raise errors[0]
