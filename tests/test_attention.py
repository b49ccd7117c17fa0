"""Attention and embeddings as functions: against PyTorch, JAX and each other."""

from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_close, assert_equal, dtype_name
from tests.gradients import placed
from tests.memory import peak_of
from tinynn import functional, tree
from tinynn.functional.errors import DtypeError, ShapeError
from tinynn.trace import namespace

BATCH, TIMES, KEYS, HEADS, KEY_HEADS, WIDTH, FEATURES = 2, 5, 7, 4, 2, 6, 3
DRAW = np.random.default_rng(0)
Q = DRAW.normal(size=(BATCH, TIMES, HEADS, WIDTH))
K = DRAW.normal(size=(BATCH, KEYS, KEY_HEADS, WIDTH))
V = DRAW.normal(size=(BATCH, KEYS, KEY_HEADS, FEATURES))
PAIRS = DRAW.random((BATCH, HEADS, TIMES, KEYS)) > 0.4
PAIRS[0, 1, 2] = False  # a query that sees nothing
FLOATS = tuple(a.astype("float32") for a in (Q, K, V))
LENGTHS = np.asarray([4, 0])
VALID = np.arange(KEYS) < LENGTHS[:, None]
OPTIONS: dict[str, dict[str, Any]] = {
    "all": {},
    "causal": {"causal": True, "scale": 0.3},
    "pairs": {"mask": PAIRS},
    "pairs of keys": {"mask": PAIRS[:1, :1, :1], "causal": True},
    "keys": {"mask": VALID},
    "lengths": {"lengths": LENGTHS, "causal": True},
    "both": {"lengths": np.asarray([5, 7], dtype="uint8"), "mask": PAIRS[:, :1]},
}


def visible(options: dict[str, Any]) -> Any:
    """(batch, heads, time, keys) booleans of what these options let be seen."""
    seen = np.ones((BATCH, HEADS, TIMES, KEYS), dtype=bool)
    if "mask" in options:
        mask = options["mask"]
        seen = seen & (mask if mask.ndim == 4 else mask[:, None, None])
    if "lengths" in options:
        seen = seen & (np.arange(KEYS) < options["lengths"][:, None])[:, None, None]
    return np.tril(seen) if options.get("causal") else seen


def weighed(y: Any) -> Any:
    """A number in which every output has a weight of its own."""
    xp = namespace(y)
    return xp.sum(xp.sin(y) * y)


def loss(options: dict[str, Any], **more: Any) -> Any:
    return lambda q, k, v: weighed(functional.attention(q, k, v, **options, **more))


def squares_of_gradient(f: Any) -> Any:
    """A number whose gradient takes second derivatives."""

    def total(*args: Any) -> Any:
        return sum(namespace(g).sum(g * g) for g in tinynn.grad(f, argnums=(0, 1, 2))(*args))

    return total


def assert_near(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    for a, b in zip(tree.leaves(found), tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.only("torch")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_values_and_derivatives_are_those_of_pytorch(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    seen = torch.tensor(visible(options))
    empty = ~seen.any(-1)[..., None]  # where PyTorch's derivatives are NaN

    def theirs(q: Any, k: Any, v: Any) -> Any:
        k, v = (a.repeat_interleave(HEADS // KEY_HEADS, dim=2) for a in (k, v))
        q, k, v = (a.transpose(1, 2) for a in (q, k, v))
        y = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=seen | empty, scale=options.get("scale")
        )
        return torch.where(empty, 0.0, y).transpose(1, 2)

    args = [torch.tensor(a, requires_grad=True) for a in (Q, K, V)]
    y = theirs(*args)
    gradients = torch.autograd.grad((torch.sin(y) * y).sum(), args, create_graph=True)
    second = torch.autograd.grad(sum((g * g).sum() for g in gradients), args)
    assert_near(functional.attention(Q, K, V, **options), y.detach().numpy())
    f = loss(options)
    assert_near(tinynn.grad(f, argnums=(0, 1, 2))(Q, K, V), [g.detach().numpy() for g in gradients])
    ours = tinynn.grad(squares_of_gradient(f), argnums=(0, 1, 2))(Q, K, V)
    assert_near(ours, [g.numpy() for g in second], 1e-11)


@pytest.mark.only("numpy")
@pytest.mark.parametrize("block", [2, 3, 16])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_blocks_change_nothing(options: dict[str, Any], block: int) -> None:
    plain, blocks = loss(options), loss(options, block=block)
    y = functional.attention(Q, K, V, **options)
    assert_near(functional.attention(Q, K, V, **options, block=block), y)
    expected = tinynn.grad(plain, argnums=(0, 1, 2))(Q, K, V)
    gradient = tinynn.grad(blocks, argnums=(0, 1, 2))
    assert_near(gradient(Q, K, V), expected)
    if block == 3:  # which leaves a block of queries and one of keys that are not full
        assert_near(tinynn.compile(gradient)(Q, K, V), expected)
        args = ((Q, K, V), (K[:, :TIMES].repeat(2, axis=2), K * K, V * V))
        assert_near(tinynn.jvp(blocks, *args), tinynn.jvp(plain, *args))
        second = tinynn.grad(squares_of_gradient(blocks))(Q, K, V)
        assert_near(second, tinynn.grad(squares_of_gradient(plain))(Q, K, V), 1e-11)


@pytest.mark.only("numpy")
def test_blocks_take_memory_by_the_length_and_not_by_its_square() -> None:
    gradient = tinynn.grad(loss({"causal": True}, block=64))
    peaks = []
    for length in (128, 256, 512):
        x = np.random.default_rng(1).normal(size=(1, length, 1, 8))
        program = tinynn.compile(gradient)
        program(x, x, x)
        peaks.append(peak_of(lambda x=x, program=program: program(x, x, x))[0])
    assert peaks[2] < 2.2 * peaks[1] < 2.2 * 2.2 * peaks[0]
    assert peaks[2] < 512 * 512 * 2  # bytes; the products alone would be four times that


@pytest.mark.only("numpy")
@pytest.mark.parametrize("padding", [1e300, np.nan, np.inf], ids=str)
@pytest.mark.parametrize("block", [None, 3])
@pytest.mark.parametrize("kind", ["keys", "lengths"])
def test_padding_changes_nothing_by_one_bit(kind: str, block: int | None, padding: float) -> None:
    options, rows = OPTIONS[kind], VALID[:, :, None, None]
    f = tinynn.value_and_grad(loss(options, block=block), argnums=(0, 1, 2))
    one = f(Q, K, V)
    two = f(Q, np.where(rows, K, padding), np.where(rows, V, padding))
    for a, b in zip(tree.leaves(one), tree.leaves(two), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)


@pytest.mark.only("numpy")
@pytest.mark.parametrize("block", [None, 3])
def test_a_query_that_sees_nothing_gives_zeros(block: int | None) -> None:
    y = functional.attention(Q, K, V, mask=PAIRS, block=block)
    assert (y[0, 2, 1] == 0.0).all()
    assert (y[0, 1, 1] != 0.0).all()
    (of_q,) = tinynn.grad(loss({"mask": PAIRS}, block=block), argnums=(0,))(Q, K, V)
    assert (of_q[0, 2, 1] == 0.0).all()
    assert (functional.attention(Q, K, V, lengths=LENGTHS, block=block)[1] == 0.0).all()


@pytest.mark.reads_scalars
@pytest.mark.only("numpy", "torch", "array_api_strict")
@pytest.mark.parametrize("block", [None, 4])
def test_any_array_may_be_the_only_one_that_is_traced(
    block: int | None, backend: backends.Backend
) -> None:
    q, k, v, lengths, pairs = map(backend.asarray, (*FLOATS, LENGTHS, PAIRS))
    f = lambda q, k, v, lengths, pairs: functional.attention(  # noqa: E731
        q, k, v, lengths=lengths, mask=pairs, block=block
    )
    given = (q, k, v, lengths, pairs)
    all_of_it = tinynn.grad(lambda *three: weighed(f(*three, *given[3:])), argnums=(0, 1, 2))
    for i, slope in enumerate(all_of_it(q, k, v)):
        alone = tinynn.grad(lambda a, i=i: weighed(f(*given[:i], a, *given[i + 1 :])))
        assert_close(alone(given[i]), backend.to_host(slope), backend, dtype="float32")
    expected = backend.to_host(f(*given))
    for i in (3, 4):
        mapped = tinynn.vmap(lambda a, i=i: f(*given[:i], a, *given[i + 1 :]))
        assert_close(mapped(given[i][None, ...])[0, ...], expected, backend, dtype="float32")


@pytest.mark.only("jax")
@pytest.mark.parametrize("name", ["causal", "keys"])
def test_jvp_and_vmap_are_those_of_jax(name: str, backend: backends.Backend, float64: Any) -> None:
    import jax

    options = {n: backend.asarray(o) if n == "mask" else o for n, o in OPTIONS[name].items()}
    q, k, v = (backend.asarray(a, dtype=float64) for a in (Q, K, np.sin(K)))

    def theirs(q: Any, k: Any, v: Any) -> Any:
        return jax.nn.dot_product_attention(
            q, k, v, mask=jax.numpy.asarray(visible(OPTIONS[name])), scale=options.get("scale")
        )

    def ours(q: Any, k: Any, v: Any) -> Any:
        return functional.attention(q, k, v, **options)

    close = {"rtol": 1e-5, "atol": 1e-6}  # JAX takes this softmax in float32
    rows = 1 if name == "keys" else BATCH  # the other row sees nothing, which JAX makes a mean
    y, change = tinynn.jvp(ours, (q, k, v), (q * q, k * k, v * v))
    expected, slope = jax.jvp(theirs, (q, k, v), (q * q, k * k, v * v))
    for a, b in ((y, expected), (change, slope)):
        assert_close(a[:rows], backend.to_host(b[:rows]), backend, **close)
    stacked = [backend.xp.stack([a, a * a]) for a in (q, k, v)]
    expected = jax.vmap(theirs)(*stacked)[:, :rows]
    for block in (4,) if name == "causal" else (None,):
        mapped = tinynn.vmap(lambda *a, n=block: functional.attention(*a, **options, block=n))
        found = mapped(*stacked)[:, :rows]
        assert_close(found, backend.to_host(expected), backend, **close)


def test_every_backend_gives_what_numpy_gives(backend: backends.Backend) -> None:
    """Compiled, in blocks and whole, of grouped heads, of lengths and a mask; rotary."""
    float_dtype = backend.default_float
    single = dtype_name(float_dtype, backend) == "float32"
    close = {"rtol": 1e-5, "atol": 1e-5} if single else {"rtol": 1e-11, "atol": 1e-12}

    def f(q: Any, k: Any, v: Any, lengths: Any, mask: Any) -> Any:
        q, k = functional.rotary(q), functional.rotary(k)
        options = {"lengths": lengths, "mask": mask, "causal": True}
        return sum(weighed(functional.attention(q, k, v, **options, block=n)) for n in (None, 3))

    host = (Q, K, V, LENGTHS, PAIRS[:, :1])
    both = tinynn.value_and_grad(f, argnums=(0, 1, 2))
    expected = both(*host)
    found = tinynn.compile(both)(*placed(host, backend, float_dtype))
    for a, b in zip(tree.leaves(found), tree.leaves(expected), strict=True):
        assert_close(a, b, backend, dtype=float_dtype, **close)


@pytest.mark.only("numpy")
@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((Q[0], K, V), {}, ShapeError, r"attention: expected q, k and v of shape \(batch, time"),
        ((Q, K[:1], V), {}, ShapeError, "k of the batch and width of q"),
        ((Q, K[:, :0], V[:, :0]), {}, ShapeError, "of one key or more"),
        ((Q[:, :, :3], K, V), {}, ShapeError, "expected the heads of k to divide those of q, got"),
        ((Q, K, V), {"mask": PAIRS[0, 0]}, ShapeError, r"give a mask of \(time, keys\) as"),
        ((Q, K, V), {"mask": VALID * 1.0}, DtypeError, "a mask of booleans, .* got float64"),
        ((Q, K, V), {"lengths": LENGTHS[:1]}, ShapeError, r"lengths of shape \(batch,\), here"),
        ((Q, K, V), {"lengths": LENGTHS * 1.0}, DtypeError, "lengths of an integer dtype"),
        ((Q, K, V), {"block": 0}, ValueError, "expected block to be None or 1 or more, got 0"),
    ],
)
def test_bad_input_is_named(args: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        functional.attention(*args, **options)


# Embeddings.


def test_embedding_takes_rows_and_adds_gradients_up(
    backend: backends.Backend, float_dtype: Any
) -> None:
    weight, ids = DRAW.normal(size=(5, 3)), np.asarray([[0, 4, 0], [2, 4, 4]])
    for name in ("uint8", "int32"):
        given = backend.asarray(weight, dtype=float_dtype), backend.asarray(ids.astype(name))
        y, gradient = functional.embedding(given[1], given[0]), tinynn.grad(
            lambda w, ids=given[1]: weighed(functional.embedding(ids, w))
        )(given[0])  # fmt: skip
        assert_close(y, weight[ids], backend, dtype=float_dtype)
        expected = np.zeros_like(weight)
        np.add.at(expected, ids, np.cos(weight[ids]) * weight[ids] + np.sin(weight[ids]))
        assert_close(gradient, expected, backend, dtype=float_dtype, rtol=1e-5)


def test_ids_out_of_range_are_nan_and_have_no_gradient(backend: backends.Backend) -> None:
    weight = backend.asarray([[1.0], [2.0]])
    ids = backend.asarray(np.asarray([0, -1, 1, 2]))
    both = tinynn.value_and_grad(lambda w: weighed(functional.embedding(ids, w)))
    for f in (both, tinynn.compile(both)):
        assert_close(f(weight)[1], [[np.sin(1) + np.cos(1)], [np.sin(2) + 2 * np.cos(2)]], backend,
                     dtype=backend.dtype_name(weight.dtype), rtol=1e-5)  # fmt: skip
    y = tinynn.compile(functional.embedding)(ids, weight)
    assert_equal(y, [[1.0], [np.nan], [2.0], [np.nan]], backend)


@pytest.mark.only("numpy")
def test_rotary_turns_pairs_by_their_distance_alone() -> None:
    x = DRAW.normal(size=(1, 6, 2, 8))
    pairs = x[..., :4] + 1j * x[..., 4:]
    angles = np.arange(6)[:, None] * 100.0 ** (-np.arange(4) / 4)
    turned = pairs * np.exp(1j * angles)[:, None, :]
    found = functional.rotary(x, base=100.0)
    np.testing.assert_allclose(found[..., :4] + 1j * found[..., 4:], turned, rtol=1e-12)
    later = functional.rotary(x, np.arange(6) + 1000)
    products = np.einsum("bthw,bshw->bhts", later, later)
    found = functional.rotary(x, np.stack([np.arange(6) + 3]))
    np.testing.assert_allclose(products, np.einsum("bthw,bshw->bhts", found, found), rtol=1e-9)
    half = functional.rotary(x.astype("float16"), np.arange(6) + 1000)
    np.testing.assert_allclose(half, later, atol=4e-3)
    with pytest.raises(ShapeError, match="of an even width"):
        functional.rotary(x[..., :3])
    with pytest.raises(ShapeError, match=r"positions of shape \(6,\) or \(1, 6\), got \(5,\)"):
        functional.rotary(x, np.arange(5))
    with pytest.raises(DtypeError, match="integer"):
        functional.rotary(x, np.arange(6) * 1.0)


@pytest.mark.only("numpy")
def test_sinusoidal_is_the_formula_of_the_paper() -> None:
    found = functional.sinusoidal(np.arange(7), 6, dtype=np.float64)
    for position in range(7):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            expected = [np.sin(angle), np.cos(angle)]
            np.testing.assert_allclose(found[position, 2 * i : 2 * i + 2], expected, rtol=1e-12)
    late = np.arange(3000, 3003)
    found, exact = (functional.sinusoidal(late, 6, dtype=d) for d in (np.float16, np.float64))
    np.testing.assert_allclose(found, exact, atol=1e-3)
    with pytest.raises(DtypeError, match="sinusoidal: expected positions of an integer dtype"):
        functional.sinusoidal(late * 1.0, 6, dtype=np.float64)
    with pytest.raises(ValueError, match="an even width of 2 or more, got 3"):
        functional.sinusoidal(np.arange(7), 3, dtype=np.float64)


@pytest.mark.only("numpy")
def test_bad_ids_are_named() -> None:
    with pytest.raises(DtypeError, match="ids of an integer dtype, got float64"):
        functional.embedding(np.zeros(3), np.zeros((2, 2)))
    with pytest.raises(ShapeError, match=r"a weight of shape \(count, width\), got \(3,\)"):
        functional.embedding(np.zeros(3, dtype=int), np.zeros(3))


@pytest.mark.parametrize("block", [None, 2])
def test_queries_begin_anywhere_among_the_keys(
    block: int | None, backend: backends.Backend
) -> None:
    q, k, v = (backend.asarray(a[:1], dtype="float32") for a in (K, K, V))
    whole = functional.attention(q, k, v, causal=True)
    for start in (2, backend.asarray(2, dtype="int32")):
        late = functional.attention(q[:, 2:, ...], k, v, causal=True, start=start, block=block)
        assert_close(late, backend.to_host(whole)[:, 2:], backend, dtype="float32")
    keys = int(k.shape[1])
    for start in (-1, keys):
        with pytest.raises(ValueError, match=f"a start from 0 to {keys - 1}, the last"):
            functional.attention(q, k, v, causal=True, start=start, block=block)
    starts = backend.asarray([1], dtype="int32")
    with pytest.raises(ShapeError, match=r"a 0-d start, got \(1,\)"):
        functional.attention(q, k, v, causal=True, start=starts, block=block)
