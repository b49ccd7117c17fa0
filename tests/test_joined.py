"""Losses of several calls as one array."""

import numpy as np
import pytest

import backends


@pytest.mark.parametrize("lengths", [(4,), (3, 1, 2)])
def test_parts_follow_one_another(backend: backends.Backend, lengths: tuple[int, ...]) -> None:
    hosts = [np.arange(n, dtype="float32") for n in lengths]
    found = backend.joined([backend.asarray(host) for host in hosts])
    assert backends.of(found) == backend
    np.testing.assert_array_equal(backend.to_host(found), np.concatenate(hosts), strict=True)
