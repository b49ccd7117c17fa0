"""Which random programs a test takes, and what is said of one that fails.

More of them, or some: `TINYNN_PROGRAMS=3000` or `TINYNN_PROGRAMS=1234:1235` (seeds from, to).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from backends import Backend

PARTS = 4  # tests that the seeds are spread over

# The share of NumPy's programs that another library gets. XLA takes seconds for a program, and so
# do dpnp's kernels; nightly runs take thousands.
SHARES = {"torch": 1 / 4, "array_api_strict": 1 / 8, "cupy": 1 / 8, "dpnp": 1 / 24, "jax": 1 / 48}

parts = pytest.mark.parametrize("part", range(PARTS))


def share(count: int, backend: Backend) -> int:
    """How many of `count` programs this library gets; one at least."""
    return max(1, round(count * SHARES.get(backend.name, 1)))


def seeds(count: int, part: int = 0, of: int = PARTS) -> range:
    """A part of so many seeds, or of those that the environment names; skipped if it is empty."""
    first, _, last = os.environ.get("TINYNN_PROGRAMS", f"0:{count}").rpartition(":")
    chosen = range(int(first or 0), int(last))
    if not chosen:
        raise ValueError(f"TINYNN_PROGRAMS: expected seeds from, to, got {first}:{last}")
    if part >= len(chosen):
        pytest.skip(f"{len(chosen)} programs, the last of them in part {len(chosen) - 1}")
    return chosen[part::of]


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
