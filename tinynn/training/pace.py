"""The number of steps that an engine carries out in one call."""

from time import perf_counter

_CHUNK = 0.5  # seconds that one call of an engine is to take, about


class Pace:
    """The number of steps in one call, so that the bar moves and Ctrl-C is handled in time.

    Parameters
    ----------
    steps
        In an epoch, if that is known.
    alone
        False: `adapt` is called with what several processes agree on.

    Attributes
    ----------
    steps
        In the next call.
    took
        Seconds that the last one took.
    """

    def __init__(self, steps: int | None, alone: bool = True) -> None:
        self.steps, self.alone = min(steps or 64, 64), alone
        self.since = self.took = 0.0

    def __enter__(self) -> None:
        self.since = perf_counter()

    def __exit__(self, *_: object) -> None:
        self.took = perf_counter() - self.since
        if self.alone:
            self.adapt(self.took)

    def adapt(self, took: float) -> None:
        """Make the next call longer or shorter by the seconds that one took."""
        if took < _CHUNK / 2:
            self.steps *= 2
        elif took > 2 * _CHUNK:
            self.steps = max(1, self.steps // 2)
