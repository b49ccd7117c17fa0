"""Reading ahead: what an iterable gives is made in a thread, while what came before is used."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any

_TICK = 0.1  # seconds after which a waiting thread looks whether it is still wanted


def ahead(items: Iterable[Any], most: int = 2) -> Generator[Any, None, None]:
    """The items of an iterable, which a thread goes through ahead of the consumer.

    An error in the thread is raised here, where its item would have come. The thread ends with the
    items, and when the generator is closed, let go of or left by an exception.

    Parameters
    ----------
    items
        Gone through in the thread alone.
    most
        Items that wait to be taken; one more is being made.

    Examples
    --------
    >>> list(ahead(range(4)))
    [0, 1, 2, 3]
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(most)
    wanted = threading.Event()
    wanted.set()
    end = object()

    def put(entry: tuple[Any, BaseException | None]) -> None:
        while wanted.is_set():
            try:
                waiting.put(entry, timeout=_TICK)
                return
            except queue.Full:
                continue

    def read() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                put((item, None))
                del item  # only the queue holds it
                if not wanted.is_set():
                    return
        except BaseException as raised:
            error = raised
        put((end, error))

    thread = threading.Thread(target=read, name="tinynn reading ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
            del item
    finally:
        wanted.clear()
        thread.join()
