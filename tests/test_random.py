import math
from statistics import NormalDist

import numpy as np
import pytest

import backends
from backends import random
from tests.checks import assert_array, assert_equal
from tests.seventh import seventh_library

FLOATS = ("float32", "float64")

# threefry2x32 with 20 rounds in Random123's kat_vectors: counters, key, result.
KNOWN = (
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
)


def words(values, backend=None):
    """32-bit words as the int32 that have their bits."""
    signed = np.asarray(values, dtype=np.uint32).view(np.int32)
    return signed if backend is None else backend.asarray(signed)


def on_numpy(draw, *args, seed=7, **settings):
    return draw(random.key(seed, "numpy"), *args, **settings)


def floats(backend):
    return [name for name in FLOATS if name in backend.dtypes()]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_known_answers(backend, counter, key, result):
    first, second = (words([word], backend) for word in counter)
    found = backends.scoped(random._threefry)(words(key, backend), first, second)
    for word, expected in zip(found, result, strict=True):
        assert_equal(word, words([expected]), backend)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**32 - 1, 2**40 + 5, 2**64 - 1, -(2**63)])
def test_key_holds_the_64_bits_of_the_seed(backend, seed):
    key = random.key(seed, backend)
    assert_array(key, backend, dtype="int32", shape=(2,))
    assert_equal(key, words([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF]), backend)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_seed_of_too_many_bits(seed):
    with pytest.raises(ValueError, match=r"expected a seed from .* got"):
        random.key(seed, "numpy")


def test_split_is_fold_in_of_each(backend):
    key = random.key(3, backend)
    keys = random.split(key, 4)
    for i, one in enumerate(keys):
        assert_equal(one, backend.to_host(random.fold_in(key, i)), backend)
    assert len({tuple(backend.to_host(one)) for one in keys}) == 4


def test_fold_in_takes_the_low_32_bits(backend):
    key = random.key(3, backend)
    whole = random.fold_in(key, 2**32 - 1)
    assert_equal(random.fold_in(key, -1), backend.to_host(whole), backend)


@pytest.mark.parametrize("shape", [0, 1, 7, (), (3,), (2, 3), (0, 4), (5, 1, 3)])
def test_bits_are_the_same_everywhere(backend, shape):
    found = random.bits(random.key(7, backend), shape)
    expected = on_numpy(random.bits, shape)
    assert_array(found, backend, dtype="int32", shape=expected.shape)
    assert_equal(found, expected, backend)


def test_uniform_is_the_same_everywhere(backend):
    for dtype in floats(backend):
        found = random.uniform(random.key(7, backend), (33, 3), backend.dtypes()[dtype], -2.0, 3.0)
        assert_array(found, backend, dtype=dtype, shape=(33, 3))
        assert_equal(found, on_numpy(random.uniform, (33, 3), dtype, -2.0, 3.0), backend)


def test_normal_is_the_same_everywhere(backend):
    # Large enough for the libraries' vectorised, less exact, log and sqrt to have their chance.
    for dtype in floats(backend):
        found = random.normal(random.key(7, backend), (100, 501), backend.dtypes()[dtype])
        assert_array(found, backend, dtype=dtype, shape=(100, 501))
        assert_equal(found, on_numpy(random.normal, (100, 501), dtype), backend)


@pytest.mark.parametrize("p", [0.0, 0.25, 1 / 3, 1.0])
def test_bernoulli_is_the_same_everywhere(backend, p):
    found = random.bernoulli(random.key(7, backend), p, (50, 3))
    assert_array(found, backend, dtype="bool", shape=(50, 3))
    assert_equal(found, on_numpy(random.bernoulli, p, (50, 3)), backend)


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_permutation_is_the_same_everywhere(backend, xp, n):
    found = random.permutation(random.key(7, backend), n)
    assert found.dtype == xp.arange(1, device=backend.device).dtype
    assert backends.of(found) == backend
    values = backend.to_host(found)
    assert sorted(values.tolist()) == list(range(n))
    assert values.tolist() == on_numpy(random.permutation, n).tolist()


def test_draws_take_the_librarys_dtypes_and_their_names(backend, xp):
    key = random.key(1, backend)
    named = random.uniform(key, 3, "float32")
    assert_equal(random.uniform(key, 3, xp.float32), backend.to_host(named), backend)


def test_dtypes_that_cannot_be_drawn(backend):
    key = random.key(1, backend)
    for draw in (random.uniform, random.normal):
        with pytest.raises(TypeError, match=r"float32 or float64.* got int32"):
            draw(key, 3, "int32")
        if "float64" not in backend.dtypes():
            with pytest.raises(TypeError, match="float64 does not exist on"):
                draw(key, 3, "float64")


def test_a_probability_is_from_0_to_1():
    with pytest.raises(ValueError, match=r"probability from 0 to 1, got 1\.5"):
        on_numpy(random.bernoulli, 1.5, 3)


# The distributions: on NumPy alone, for the draws are the same everywhere.


def distance(draws, cdf):
    """Kolmogorov and Smirnov's: the greatest distance to the distribution, times sqrt(n)."""
    ordered = np.sort(draws.astype("float64").ravel())
    n = ordered.size
    theory = np.asarray([cdf(x) for x in ordered.tolist()])
    steps = np.arange(n + 1) / n
    return math.sqrt(n) * max(np.max(steps[1:] - theory), np.max(theory - steps[:-1]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_normal_is_normal(dtype):
    draws = on_numpy(random.normal, (20_000,), dtype)
    assert distance(draws, NormalDist().cdf) < 1.63  # the 1 % point
    assert abs(draws.mean()) < 0.02
    assert abs(draws.var() - 1.0) < 0.03


@pytest.mark.parametrize("dtype", FLOATS)
def test_uniform_is_uniform(dtype):
    draws = on_numpy(random.uniform, (20_000,), dtype, -1.0, 3.0)
    assert draws.min() >= -1.0
    assert draws.max() < 3.0
    assert distance(draws, lambda x: (x + 1.0) / 4.0) < 1.63


def test_bernoulli_has_its_probability():
    for p in (0.0, 0.01, 0.3, 1.0):
        mean = on_numpy(random.bernoulli, p, (100_000,)).mean()
        assert abs(mean - p) <= 4.0 * math.sqrt(p * (1.0 - p) / 100_000)


def test_every_order_is_equally_likely():
    keys = random.split(random.key(0, "numpy"), 6000)
    counts = np.zeros((3, 3, 3))
    for key in keys:
        counts[tuple(random.permutation(key, 3))] += 1
    counts = counts[counts > 0]
    assert counts.size == 6
    assert np.sum((counts - 1000.0) ** 2) / 1000.0 < 20.5  # chi-squared, 5 degrees, the 0.1 % point


def test_keys_are_independent():
    first, second = random.split(random.key(0, "numpy"), 2)
    a, b = (random.normal(key, 20_000, "float64") for key in (first, second))
    assert abs(np.mean(a * b)) < 0.03


@pytest.mark.only("jax")
@pytest.mark.parametrize("seed", [0, 42, -1, 2**31 + 7])
def test_keys_and_bits_are_those_of_jax(backend, seed):
    import jax

    if not jax.config.jax_enable_x64:
        seed %= 2**32  # what JAX makes of a seed without 64 bits
    theirs = jax.random.key(seed, impl="threefry2x32")
    ours = random.key(seed, backend)

    def same(found, expected):
        bits = np.asarray(backend.to_host(expected), dtype=np.uint32)
        assert_equal(found, bits.view(np.int32), backend)

    same(ours, jax.random.key_data(theirs))
    same(random.fold_in(ours, 5), jax.random.key_data(jax.random.fold_in(theirs, 5)))
    before = jax.config.jax_threefry_partitionable
    for one, other in zip(random.split(ours, 3), jax.random.split(theirs, 3), strict=True):
        same(one, jax.random.key_data(other))
    try:
        jax.config.update("jax_threefry_partitionable", False)
        for size in (1, 6, 7, 100):
            same(random.bits(ours, size), jax.random.bits(theirs, (size,), "uint32"))
    finally:
        jax.config.update("jax_threefry_partitionable", before)


@pytest.mark.only("jax")
def test_draws_can_be_compiled(backend):
    import jax

    key = random.key(3, backend)
    compiled = jax.jit(lambda key: random.bits(random.fold_in(key, 1), (4, 5)))(key)
    plain = random.bits(random.fold_in(key, 1), (4, 5))
    assert_equal(compiled, backend.to_host(plain), backend)


@pytest.mark.only("jax")
def test_a_shape_is_compiled_once(backend, monkeypatch):
    """Operation by operation, each new shape costs JAX seconds."""
    import jax

    random.uniform(random.fold_in(random.key(3, backend), 0), (17, 3), "float32")
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name)
    )
    try:
        key = random.fold_in(random.key(4, backend), 2)
        random.uniform(key, (17, 3), "float32")
        assert not compiled
        random.uniform(key, (17, 4), "float32")
        assert sum("backend_compile" in name for name in compiled) == 1
    finally:
        jax.monitoring.clear_event_listeners()


def test_a_wrapped_key_gives_wrapped_draws(backend, xp):
    """Its library is one that nobody registered: a wrapper around the backend under test."""
    library = seventh_library(xp)
    key = random.key(9, backend)
    for draw, args in (
        (random.bits, ((4, 5),)),
        (random.uniform, (7, "float32", -1.0, 1.0)),
        (random.normal, ((3, 2), "float32")),
        (random.bernoulli, (0.5, 9)),
        (random.permutation, (10,)),
        (random.fold_in, (3,)),
        (lambda key, n: random.split(key, n)[1], (2,)),
    ):
        found = draw(library.Array(key), *args)
        assert type(found) is library.Array
        assert_equal(found.value, backend.to_host(draw(key, *args)), backend)
