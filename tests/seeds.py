"""Which random programs a test takes, and what is said of one that fails.

More of them, or some: `TINYNN_PROGRAMS=3000` or `TINYNN_PROGRAMS=1234:1235` (seeds from, to).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from backends import Backend

PARTS = 4  # tests that the seeds are spread over

parts = pytest.mark.parametrize("part", range(PARTS))


def seeds(count: int, part: int) -> range:
    """A part of so many seeds, or of those that the environment names; skipped if it is empty."""
    first, _, last = os.environ.get("TINYNN_PROGRAMS", f"0:{count}").rpartition(":")
    chosen = range(int(first or 0), int(last))
    if not chosen:
        raise ValueError(f"TINYNN_PROGRAMS: expected seeds from, to, got {first}:{last}")
    if part >= len(chosen):
        pytest.skip(f"{len(chosen)} programs, the last of them in part {len(chosen) - 1}")
    return chosen[part::PARTS]


@contextmanager
def shown(what: object) -> Iterator[None]:
    """Whatever goes wrong inside is said to be about this program."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{what}\n\n{type(error).__name__}: {error}") from error


def fourier(backend: Backend) -> bool:
    """Whether programs may have Fourier transforms."""
    return hasattr(backend.xp, "fft")
