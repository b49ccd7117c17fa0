"""Embeddings, attention and transformer blocks as layers: against PyTorch, and on every backend."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_close, dtype_name
from tests.engines import compiled_by
from tests.gradients import placed
from tests.onnx_files import assert_same, exported
from tinynn import layers, tree
from tinynn.functional import gelu, relu
from tinynn.layers import (
    Embedding,
    EmbeddingBag,
    InputError,
    Layer,
    Linear,
    MultiHeadAttention,
    PositionEmbedding,
    Scope,
    Sequential,
    ShapeError,
    SinusoidalEncoding,
    TransformerDecoderBlock,
    TransformerEncoderBlock,
)
from tinynn.losses import SquaredError
from tinynn.onnx import OnnxError
from tinynn.optim import SGD
from tinynn.trace import namespace
from tinynn.training import Model, fit

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(3, 5, 8))
CONTEXT = DRAW.normal(size=(3, 4, 8))
LENGTHS = np.asarray([5, 2, 3])
CONTEXT_LENGTHS = np.asarray([1, 4, 2])
VALID = np.arange(5) < LENGTHS[:, None]
IDS = DRAW.integers(0, 7, size=(3, 5))
Y = DRAW.normal(size=(3, 2))


def drawn(layer: Any, *inputs: Any) -> Any:
    """Parameters of which none is 0."""
    draw = np.random.default_rng(1)
    return tree.map(lambda a: 0.4 * draw.normal(size=a.shape), layer.init(0, *inputs)[0])


def weighed(y: Any) -> Any:
    """A number in which every output has a weight of its own."""
    xp = namespace(y)
    return xp.sum(xp.sin(y) * y)


def loss(layer: Any) -> Any:
    return lambda params, *inputs: weighed(layer(params, *inputs))


@dataclass(frozen=True)
class Tokens(Layer):
    """Tokens, their places, blocks, and one output for each sequence; or each step and caches."""

    width: int = 8
    rate: float = 0.0

    def blocks(self) -> list[TransformerEncoderBlock]:
        attention = MultiHeadAttention(4, key_heads=2, causal=True, rotary=True)
        settings = {"hidden": 6, "dropout": self.rate}
        return [TransformerEncoderBlock(a, **settings) for a in (attention, 2)]

    def forward(self, scope: Scope, ids: Any, lengths: Any = None) -> Any:
        x = scope("places", PositionEmbedding(9), scope("tokens", Embedding(7, self.width), ids))
        for number, block in enumerate(self.blocks()):
            given = (x,) if lengths is None else (x, lengths)
            x = scope(f"block{number}", block, *given)
        return scope("out", Linear(2), namespace(x).mean(x, axis=1))


# PyTorch.


def parts_of(params: Any, own: str, theirs: str) -> dict[str, Any]:
    """Attention's parameters by PyTorch's names."""
    given, names = params[own] if own else params, ("query", "key", "value")
    return {
        f"{theirs}in_proj_weight": np.concatenate([given[name]["weight"].T for name in names]),
        f"{theirs}in_proj_bias": np.concatenate([given[name]["bias"] for name in names]),
        f"{theirs}out_proj.weight": given["out"]["weight"].T,
        f"{theirs}out_proj.bias": given["out"]["bias"],
    }


def by_torchs_names(kind: str, params: Any) -> dict[str, Any]:
    if kind == "attention":
        return parts_of(params, "", "")
    found = parts_of(params, "attention", "self_attn.")
    if kind == "decoder":
        found |= parts_of(params, "cross", "multihead_attn.")
    for number in (1, 2, 3) if kind == "decoder" else (1, 2):
        found |= {f"norm{number}.{k}": a for k, a in params[f"norm{number}"].items()}
    for own, theirs in (("hidden", "linear1"), ("out", "linear2")):
        found |= {
            f"{theirs}.weight": params[own]["weight"].T,
            f"{theirs}.bias": params[own]["bias"],
        }
    return found


def pairs_of_torch(torch: Any, name: str) -> tuple[Any, Any, tuple[Any, ...], Any]:
    """Our layer, theirs, our inputs, and a call of theirs."""
    settings = {"batch_first": True, "dtype": torch.float64}
    block = {"dropout": 0.0, "dim_feedforward": 6, **settings}
    causal = torch.triu(torch.full((5, 5), True), 1)
    padding, context_padding = torch.tensor(~VALID), torch.tensor(
        np.arange(4) >= CONTEXT_LENGTHS[:, None]
    )  # fmt: skip
    if name == "self":
        net = torch.nn.MultiheadAttention(8, 2, **settings)
        return MultiHeadAttention(2), net, (X,), lambda x: net(x, x, x)[0]
    if name == "causal":
        net = torch.nn.MultiheadAttention(8, 4, **settings)
        return MultiHeadAttention(4, causal=True), net, (X,), (
            lambda x: net(x, x, x, attn_mask=causal)[0]
        )  # fmt: skip
    if name == "cross":
        net = torch.nn.MultiheadAttention(8, 2, **settings)
        return MultiHeadAttention(2), net, (X, (CONTEXT, CONTEXT_LENGTHS)), (
            lambda x, y: net(x, y, y, key_padding_mask=context_padding)[0]
        )  # fmt: skip
    if name.startswith("encoder"):
        first, activation = "before" in name, gelu if "gelu" in name else relu
        net = torch.nn.TransformerEncoderLayer(
            8, 2, norm_first=first, activation=activation.__name__, **block
        )
        ours = TransformerEncoderBlock(2, hidden=6, activation=activation, norm_first=first)
        return ours, net, (X, LENGTHS), lambda x: net(x, src_key_padding_mask=padding)
    first = "before" in name
    net = torch.nn.TransformerDecoderLayer(8, 2, norm_first=first, activation="gelu", **block)
    ours = TransformerDecoderBlock(2, hidden=6, norm_first=first)
    return ours, net, (X, CONTEXT, CONTEXT_LENGTHS), lambda x, y: net(
        x, y, tgt_mask=causal, memory_key_padding_mask=context_padding
    )  # fmt: skip


NAMES = [
    *("self", "causal", "cross", "encoder, before, gelu", "encoder, after, relu"),
    *("decoder, before", "decoder, after"),
]


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", NAMES)
def test_layers_are_those_of_pytorch(name: str) -> None:
    """Values, first and second derivatives, and a hundred steps."""
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    layer, net, inputs, call = pairs_of_torch(torch, name)
    kind = name.partition(",")[0] if name[:2] in ("en", "de") else "attention"
    params = drawn(layer, *inputs)
    start = {k: torch.tensor(a.copy()) for k, a in by_torchs_names(kind, params).items()}
    net.load_state_dict(start)
    valid = VALID[:, :, None] if kind == "encoder" else np.ones((3, 5, 1), dtype=bool)
    given = [torch.tensor(a, requires_grad=True) for a in tree.leaves(inputs) if a.ndim == 3]
    keep = torch.tensor(valid)

    def ours(params: Any, *inputs: Any) -> Any:
        y = layer(params, *inputs)
        return weighed(namespace(y).where(valid, y, 0.0))

    def error(params: Any) -> Any:
        y = layer(params, *inputs)
        xp = namespace(y)
        return xp.mean(xp.where(valid, y - 1.0, 0.0) ** 2)

    def theirs(*given: Any) -> Any:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # twice derivable
            y = torch.where(keep, call(*given), 0.0)
        return y, (torch.sin(y) * y).sum()

    y, value = theirs(*given)
    found = np.where(valid, layer(params, *inputs), 0.0)
    np.testing.assert_allclose(found, y.detach().numpy(), rtol=1e-10, atol=1e-12)
    names, own = zip(*net.named_parameters(), strict=True)
    slopes = torch.autograd.grad(value, [*given, *own], create_graph=True)
    gradient = tinynn.grad(ours)(params, *inputs)
    ours_by_name = by_torchs_names(kind, gradient)
    for key, slope in zip(names, slopes[len(given) :], strict=True):
        np.testing.assert_allclose(
            ours_by_name[key], slope.detach().numpy(), rtol=1e-9, atol=1e-11, err_msg=key
        )

    def squares(x: Any) -> Any:
        g = tinynn.grad(lambda x: ours(params, x, *inputs[1:]))(x)
        return namespace(g).sum(g * g)

    (second,) = torch.autograd.grad((slopes[0] ** 2).sum(), given[:1])
    np.testing.assert_allclose(tinynn.grad(squares)(X), second.numpy(), rtol=1e-8, atol=1e-10)
    given = [a.detach() for a in given]
    step = tinynn.compile(lambda p: tree.map(lambda w, g: w - 0.1 * g, p, tinynn.grad(error)(p)))
    for _ in range(100):
        value = (torch.where(keep, call(*given) - 1.0, 0.0) ** 2).mean()
        slopes = torch.autograd.grad(value, own)
        with torch.no_grad():  # torch.optim takes seconds to import
            for parameter, slope in zip(own, slopes, strict=True):
                parameter -= 0.1 * slope
        params = step(params)
    last = by_torchs_names(kind, params)
    for key, parameter in zip(names, own, strict=True):
        np.testing.assert_allclose(last[key], parameter.detach().numpy(), rtol=1e-7, atol=1e-9)


@pytest.mark.only("torch")
@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
def test_embedding_bag_is_that_of_pytorch(mode: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    layer = EmbeddingBag(7, 4, mode=mode)
    params = drawn(layer, IDS)
    weight = torch.tensor(params["weight"], requires_grad=True)
    for lengths in (None, np.asarray([5, 2, 0])):
        counts = [5, 5, 5] if lengths is None else lengths
        flat = np.concatenate([row[:n] for row, n in zip(IDS, counts, strict=True)])
        offsets = torch.tensor(np.cumsum([0, *counts[:-1]]))
        bag = torch.nn.functional.embedding_bag(torch.tensor(flat), weight, offsets, mode=mode)
        (slope,) = torch.autograd.grad((torch.sin(bag) * bag).sum(), weight)
        padded = IDS if lengths is None else np.where(np.arange(5) < lengths[:, None], IDS, -5)
        given = (padded,) if lengths is None else (padded, lengths)
        np.testing.assert_allclose(layer(params, *given), bag.detach().numpy(), rtol=1e-12)
        gradient = tinynn.grad(loss(layer))(params, *given)["weight"]
        np.testing.assert_allclose(gradient, slope.numpy(), rtol=1e-10, atol=1e-12)
    mask = np.arange(5) < np.asarray([[5], [2], [0]])
    np.testing.assert_array_equal(layer(params, IDS, mask), layer(params, IDS, lengths))


# Padding and caches.


@pytest.mark.only("numpy")
@pytest.mark.parametrize("padding", [1e300, np.nan], ids=str)
@pytest.mark.parametrize(
    "layer",
    [MultiHeadAttention(2), TransformerEncoderBlock(MultiHeadAttention(2, block=2), hidden=6)],
    ids=["attention", "block"],
)
def test_padding_changes_nothing_by_one_bit(layer: Any, padding: float) -> None:
    other = np.where(VALID[:, :, None], X, padding)
    params = drawn(layer, X)
    f = tinynn.value_and_grad(loss(layer), argnums=(0, 1))
    for valid in (LENGTHS, VALID):
        for a, b in zip(
            tree.leaves(f(params, X, valid)), tree.leaves(f(params, other, valid)), strict=True
        ):
            assert np.isfinite(a).all()
            np.testing.assert_array_equal(a, b)
    alone = layer(params, X[1:2, :2])
    np.testing.assert_allclose(layer(params, X, LENGTHS)[1:2, :2], alone, rtol=1e-12, atol=1e-13)


@pytest.mark.only("numpy")
def test_padding_of_both_sequences_of_a_decoder_changes_nothing() -> None:
    layer = TransformerDecoderBlock(2, hidden=6)
    params = drawn(layer, X, CONTEXT)
    f = tinynn.value_and_grad(loss(layer), argnums=(0, 1, 2))
    given = (X, LENGTHS), (CONTEXT, CONTEXT_LENGTHS)
    seen = np.arange(4) < CONTEXT_LENGTHS[:, None]
    other = (np.where(VALID[:, :, None], X, np.nan), VALID), (
        np.where(seen[:, :, None], CONTEXT, np.nan), seen,
    )  # fmt: skip

    def total(params: Any, x: Any, context: Any, *valid: Any) -> Any:
        return loss(layer)(params, (x, valid[0]), (context, valid[1]))

    f = tinynn.value_and_grad(total, argnums=(0, 1, 2))
    one, two = (f(params, a[0], b[0], a[1], b[1]) for a, b in (given, other))
    for a, b in zip(tree.leaves(one), tree.leaves(two), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)
    flat = layer(params, X, LENGTHS, CONTEXT, CONTEXT_LENGTHS)
    np.testing.assert_array_equal(flat, layer(params, *given))


@pytest.mark.reads_scalars
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("attention", marks=pytest.mark.only("numpy")),
        "encoder",
        pytest.param("decoder", marks=pytest.mark.only("numpy")),
    ],
)
def test_a_cache_gives_what_all_steps_give_at_once(kind: str, backend: backends.Backend) -> None:
    attention = MultiHeadAttention(4, key_heads=2, causal=True, rotary=True)
    layer = {
        "attention": attention,
        "encoder": TransformerEncoderBlock(attention, hidden=6),
        "decoder": TransformerDecoderBlock(attention, hidden=6, cross=2),
    }[kind]
    host = (X, CONTEXT) if kind == "decoder" else (X,)
    expected = layer(drawn(layer, *host), *host)
    dtype = backend.default_float
    params, x, *context = placed((drawn(layer, *host), *host), backend, dtype)
    step = tinynn.compile(lambda params, x, cache, *more: layer(params, x, *more, cache))
    cache, ys = layer.cache(x, (3, 6, 8)), []
    for first, last in ((0, 2), (2, 3), (3, 4), (4, 5)):
        run = step if last - first == 1 else lambda params, x, cache, *more: layer(
            params, x, *more, cache
        )  # fmt: skip
        y, cache = run(params, x[:, first:last, :], cache, *context)
        ys.append(y)
    found = backend.xp.concat(ys, axis=1)
    assert_close(found, expected, backend, dtype=backend.dtype_name(dtype), rtol=1e-4, atol=1e-5)
    assert int(cache["index"]) == 5


@pytest.mark.only("numpy")
def test_a_cache_that_is_full_or_another_layers_is_named() -> None:
    layer = MultiHeadAttention(2, causal=True)
    params, cache = drawn(layer, X), layer.cache(X, (3, 6, 8))
    _, cache = layer(params, X, cache)
    with pytest.raises(ShapeError, match="expected a cache with room for 5 more steps"):
        layer(params, X, cache)
    with pytest.raises(ShapeError, match=r"expected a cache of \(3, 5, 2, 4\) for each step"):
        layer(params, X, MultiHeadAttention(4).cache(X, (3, 6, 8)))
    compiled = tinynn.compile(lambda x, cache: layer(params, x, cache))
    one, (y, cache) = X[:, :1], compiled(X[:, :1], cache)
    np.testing.assert_allclose(y, layer(params, np.concatenate([X, one], axis=1))[:, 5:])
    y, _ = compiled(one, cache)  # which has no room for it
    assert np.isnan(y).all()
    with pytest.raises(InputError, match="expected one sequence of valid steps beside a cache"):
        layer(params, X, LENGTHS, cache)
    open_ = MultiHeadAttention(2)  # which sees all steps that are there
    y, _ = open_(params, X, open_.cache(X, (3, 6, 8)))
    np.testing.assert_allclose(y, open_(params, X), rtol=1e-12)


@pytest.mark.reads_scalars
def test_positions_begin_where_a_cache_says(backend: backends.Backend) -> None:
    for layer in (PositionEmbedding(9), SinusoidalEncoding()):
        params, x = placed((drawn(layer, X), X), backend, backend.default_float)
        whole = layer(params, x)
        start = backend.asarray(np.asarray(2, dtype="int32"))
        part = layer(params, x[:, 2:, :], start)
        assert_close(part, backend.to_host(whole)[:, 2:], backend, rtol=1e-6, atol=1e-7)
        assert_close(whole, X + backend.to_host(whole - x), backend, rtol=1e-6, atol=1e-7)


# Every backend and engine.


@pytest.mark.reads_scalars
def test_every_backend_gives_what_numpy_gives(backend: backends.Backend) -> None:
    net, float_dtype = Tokens(), backend.default_float
    single = dtype_name(float_dtype, backend) == "float32"
    close = {"rtol": 1e-4, "atol": 1e-5} if single else {"rtol": 1e-10, "atol": 1e-12}
    host = (drawn(net, IDS), IDS.astype("int32"), LENGTHS)
    params, ids, lengths = placed(host, backend, float_dtype)
    both = tinynn.value_and_grad(loss(net))
    value, gradient = both(*host)
    results = [tinynn.compile(both)(params, ids, lengths)]
    if backend.name != "jax":  # which compiles each function anew when called by itself
        results.append(both(params, ids, lengths))
    expected = dict(tree.paths(gradient))
    for found in results:
        assert_close(found[0], value, backend, dtype=float_dtype, **close)
        for name, array in tree.paths(found[1]):
            assert_close(array, expected[name], backend, dtype=float_dtype, **close)


# XLA compiles these steps for most of a minute, and dpnp takes as long for its calls.
@pytest.mark.only("numpy", "torch", "array_api_strict", "cupy")
@pytest.mark.reads_scalars
def test_compiled_training_is_eager_training_of_numpy(backend: backends.Backend) -> None:
    """With lengths, which `fit` gives as a second input, and dropout, drawn by row."""

    host = (IDS, LENGTHS, Y.astype("f4"))
    expected = dict(tree.paths(trained(*host, "eager")))
    for name, leaf in tree.paths(trained(*map(backend.asarray, host), compiled_by(backend))):
        assert_close(leaf, expected[name], backend, rtol=1e-3, atol=1e-5)


@pytest.mark.only("numpy")
@pytest.mark.reads_scalars
def test_an_engine_that_cannot_fuse_it_says_so_and_another_runs() -> None:
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    host = (IDS, LENGTHS, Y.astype("f4"))
    with pytest.warns(RuntimeWarning, match='engine="calls" instead: .* cannot be written as'):
        found = trained(*host, "loops")
    for a, b in zip(tree.leaves(found), tree.leaves(trained(*host, "calls")), strict=True):
        np.testing.assert_array_equal(a, b)


def trained(ids: Any, lengths: Any, y: Any, engine: str) -> Any:
    return fit(
        Tokens(rate=0.2), (ids, lengths), y, loss=SquaredError(), optimizer=SGD(0.05), epochs=1,
        batch_size=2, seed=1, dtype="float32", progress=False, engine=engine,
    ).params  # fmt: skip


@pytest.mark.only("numpy")
@pytest.mark.reads_scalars
def test_a_saved_model_predicts_the_same(tmp_path: Path) -> None:
    net = Sequential(
        Embedding(7, 8), SinusoidalEncoding(), TransformerEncoderBlock(2, activation=relu),
        TransformerEncoderBlock(MultiHeadAttention(2, causal=True, block=4), norm_first=False),
        lambda_free_mean, Linear(2),
    )  # fmt: skip
    custom = {"lambda_free_mean": lambda_free_mean}
    assert layers.from_config(layers.to_config(net), custom) == net
    model = fit(net, IDS, Y, loss=SquaredError(), epochs=1, progress=False)
    model.save(tmp_path / "net.safetensors")
    read = tinynn.load(tmp_path / "net.safetensors", custom=custom)
    np.testing.assert_array_equal(read.predict(IDS), model.predict(IDS))


def lambda_free_mean(x: Any) -> Any:
    return namespace(x).mean(x, axis=1)


# ONNX.

FILES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "tokens": (Tokens(), (IDS,)),
    "tokens and lengths": (Tokens(), (IDS, LENGTHS)),
    "bag": (Sequential(EmbeddingBag(7, 4, mode="max"), Linear(2)), (IDS, LENGTHS)),
    "sinusoidal": (Sequential(SinusoidalEncoding(), MultiHeadAttention(2, causal=True)), (X,)),
    "cross": (TransformerDecoderBlock(2, activation=relu), (X, CONTEXT, CONTEXT_LENGTHS)),
    "after": (TransformerEncoderBlock(4, norm_first=False), (X, LENGTHS)),
}


@pytest.mark.only("numpy")
@pytest.mark.parametrize(("net", "inputs"), FILES.values(), ids=list(FILES))
def test_onnx_gives_the_same(net: Any, inputs: tuple[Any, ...], tmp_path: Path) -> None:
    host = tuple(a.astype("f4") if a.dtype.kind == "f" else a for a in inputs)
    model = Model(net, tree.map(lambda a: a.astype("f4"), drawn(net, *host)))
    given = host if len(host) > 1 else host[0]
    assert_same(exported(model, tmp_path, given), model, given, rows=(1, 4))


@pytest.mark.only("numpy")
def test_attention_in_blocks_is_refused_by_name(tmp_path: Path) -> None:
    net = MultiHeadAttention(2, block=2)
    with pytest.raises(OnnxError, match="scan"):
        Model(net, drawn(net, X)).to_onnx(tmp_path / "net.onnx", X)
    assert not (tmp_path / "net.onnx").exists()
