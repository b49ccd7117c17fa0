"""A hundred steps of training of layers with several inputs or parts: the numbers of torch.nn."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinynn
from tinynn import functional, layers, tree
from tinynn.layers import (
    Bilinear,
    Embedding,
    EmbeddingBag,
    Linear,
    MultiHeadAttention,
    PReLU,
    Sequential,
    TransformerDecoderBlock,
    TransformerEncoderBlock,
)
from tinynn.trace import namespace

STEPS, RATE, WIDTH, TIMES = 100, 0.05, 4, 5


class Pair(NamedTuple):
    """A layer and PyTorch's, which is called by `call`; inputs; and the parameters of PyTorch's.

    `weights` gives them as a tree of ours; `keep` are the places of the output that count.
    """

    layer: Any
    theirs: Any
    call: Callable[..., Any]
    inputs: tuple[Any, ...]
    weights: Callable[[], Any]
    keep: Any = 1.0


def array(parameter: Any) -> Any:
    return parameter.detach().numpy().copy()


def both(module: Any, weight: Callable[[Any], Any] = np.transpose) -> dict[str, Any]:
    """Weight and bias of a module of PyTorch's as ours."""
    found = {"weight": weight(array(module.weight))}
    return found if module.bias is None else found | {"bias": array(module.bias)}


def norm(module: Any) -> dict[str, Any]:
    return both(module, lambda weight: weight)


def convolved(draw: Any, data: Any, nn: Any, kind: str) -> Pair:
    """A convolution over three axes, or a transposed one over any number."""
    transposed = kind == "transposed"
    axes = data.draw(st.integers(1, 3)) if transposed else 3
    groups, width = data.draw(st.sampled_from([1, 2])), WIDTH
    stride = data.draw(st.integers(1, 2))
    options: dict[str, Any] = {
        "kernel_size": data.draw(st.integers(1, 2 if axes == 3 else 3)),
        "stride": stride,
        "dilation": data.draw(st.integers(1, 2)),
        "padding": 0 if axes == 3 else data.draw(st.integers(0, 1)),
        "groups": groups,
        "bias": data.draw(st.booleans()),
    }
    name = f"Conv{'Transpose' if transposed else ''}{axes}d"
    if transposed and stride == 2:
        options["output_padding"] = data.draw(st.integers(0, 1))
    ours = getattr(layers, name)(2, **options)
    theirs = getattr(nn, name)(width, 2, **options)
    x = draw.normal(size=(2, *(3,) * axes, width))

    def turned(weight: Any) -> Any:
        if not transposed:  # (outputs, inputs / groups, *kernel)
            return np.moveaxis(weight, (1, 0), (-2, -1))
        parts = np.split(weight, groups)  # (inputs, outputs / groups, *kernel)
        return np.concatenate([np.moveaxis(part, (0, 1), (-2, -1)) for part in parts], axis=-1)

    return Pair(
        ours, theirs, lambda x: theirs(x.movedim(-1, 1)).movedim(1, -1), (x,),
        lambda: both(theirs, turned),
    )  # fmt: skip


def pooled(draw: Any, data: Any, nn: Any, kind: str) -> Pair:
    """A pool behind a linear layer, which learns through it."""
    axes, adaptive = data.draw(st.integers(1, 2)), data.draw(st.booleans())
    linear, x = nn.Linear(WIDTH, 3), draw.normal(size=(2, *(6,) * axes, WIDTH))
    title = {"max": "Max", "avg": "Avg"}[kind]
    if adaptive:
        size = data.draw(st.integers(1, 4))
        ours = getattr(layers, f"Adaptive{title}Pool")((size,) * axes)
        theirs = getattr(nn, f"Adaptive{title}Pool{axes}d")((size,) * axes if axes > 1 else size)
    else:
        window = data.draw(st.integers(2, 3))
        options = {"stride": data.draw(st.integers(1, 3)), "padding": data.draw(st.integers(0, 1))}
        ours = getattr(layers, f"{title}Pool{axes}d")(window, **options)
        # PyTorch counts the padding in, unless it is told not to.
        more = {"count_include_pad": False} if kind == "avg" else {}
        theirs = getattr(nn, f"{title}Pool{axes}d")(window, **options, **more)
    return Pair(
        Sequential(Linear(3), ours), linear,
        lambda x: theirs(linear(x).movedim(-1, 1)).movedim(1, -1), (x,),
        lambda: {"0": both(linear)},
    )  # fmt: skip


def embedded(draw: Any, data: Any, nn: Any, kind: str) -> Pair:
    """Vectors of tokens, or one for all of a sequence's, whose lengths differ."""
    ids = draw.integers(0, 6, size=(3, TIMES))
    if kind == "embedding":
        theirs = nn.Embedding(6, WIDTH)
        layer: Any = Embedding(6, WIDTH)
        return Pair(layer, theirs, theirs, (ids,), lambda: {"weight": array(theirs.weight)})
    mode = data.draw(st.sampled_from(["sum", "mean", "max"]))
    lengths = draw.integers(1, TIMES + 1, size=3)
    theirs, layer = nn.EmbeddingBag(6, WIDTH, mode=mode), EmbeddingBag(6, WIDTH, mode=mode)

    def call(ids: Any, lengths: Any) -> Any:
        starts = lengths.cumsum(0) - lengths
        parts = [row[:n] for row, n in zip(ids, lengths.tolist(), strict=True)]
        return theirs(ids.new_tensor([i for part in parts for i in part.tolist()]), starts)

    return Pair(layer, theirs, call, (ids, lengths), lambda: {"weight": array(theirs.weight)})


def attended(module: Any) -> dict[str, Any]:
    """The parameters of PyTorch's attention as ours."""
    parts = np.split(array(module.in_proj_weight), 3)
    names = ("query", "key", "value")
    found = {name: {"weight": part.T} for name, part in zip(names, parts, strict=True)}
    if module.in_proj_bias is not None:
        for name, part in zip(names, np.split(array(module.in_proj_bias), 3), strict=True):
            found[name]["bias"] = part
    return found | {"out": both(module.out_proj)}


def attention(draw: Any, data: Any, nn: Any, kind: str) -> Pair:
    bias, causal, crossed = (data.draw(st.booleans()) for _ in range(3))
    theirs = nn.MultiheadAttention(WIDTH, 2, bias=bias, batch_first=True)
    blocks = data.draw(st.sampled_from([None, 2]))
    layer = MultiHeadAttention(2, bias=bias, causal=causal, block=blocks)
    x, lengths = draw.normal(size=(3, TIMES, WIDTH)), draw.integers(1, TIMES + 1, size=3)
    context = draw.normal(size=(3, TIMES, WIDTH)) if crossed else x
    unseen = np.arange(TIMES) >= lengths[:, None]

    def call(*inputs: Any) -> Any:
        given = inputs[1] if crossed else inputs[0]
        ahead = given.new_ones(TIMES, TIMES).triu(1).bool() if causal else None
        hidden = given.new_tensor(unseen).bool()
        return theirs(inputs[0], given, given, hidden, attn_mask=ahead, need_weights=False)[0]

    inputs = (x, context, lengths) if crossed else (x, lengths)
    keep = 1.0 if crossed else ~unseen[..., None]
    return Pair(layer, theirs, call, inputs, lambda: attended(theirs), keep)


def block(draw: Any, data: Any, nn: Any, kind: str) -> Pair:
    activation = data.draw(st.sampled_from(["relu", "gelu"]))
    first, hidden = data.draw(st.booleans()), data.draw(st.sampled_from([3, 8]))
    options = {"norm_first": first, "activation": getattr(functional, activation)}
    x, context = draw.normal(size=(2, 3, TIMES, WIDTH))
    lengths = draw.integers(1, TIMES + 1, size=3)
    unseen = np.arange(TIMES) >= lengths[:, None]
    title = kind.capitalize()
    theirs = getattr(nn, f"Transformer{title}Layer")(
        WIDTH, 2, hidden, 0.0, activation, batch_first=True, norm_first=first
    )
    own = {"attention": theirs.self_attn, "cross": getattr(theirs, "multihead_attn", None)}
    norms = [getattr(theirs, f"norm{i}", None) for i in (1, 2, 3)]

    def weights() -> Any:
        found = {name: attended(module) for name, module in own.items() if module is not None}
        found |= {f"norm{i}": norm(each) for i, each in enumerate(norms, 1) if each is not None}
        return found | {"hidden": both(theirs.linear1), "out": both(theirs.linear2)}

    if kind == "encoder":

        def call(x: Any, lengths: Any) -> Any:
            return theirs(x, src_key_padding_mask=x.new_tensor(unseen).bool())

        layer: Any = TransformerEncoderBlock(2, hidden=hidden, **options)
        return Pair(layer, theirs, call, (x, lengths), weights, ~unseen[..., None])

    def of_two(x: Any, context: Any, lengths: Any) -> Any:
        ahead = x.new_ones(TIMES, TIMES).triu(1).bool()
        hidden = x.new_tensor(unseen).bool()
        return theirs(x, context, tgt_mask=ahead, memory_key_padding_mask=hidden)

    layer = TransformerDecoderBlock(2, hidden=hidden, **options)
    return Pair(layer, theirs, of_two, (x, context, lengths), weights)


def bilinear(draw: Any, data: Any, nn: Any, kind: str) -> Pair:
    bias = data.draw(st.booleans())
    a, b = draw.normal(size=(3, 2)), draw.normal(size=(3, WIDTH))
    theirs = nn.Bilinear(2, WIDTH, 3, bias=bias)
    turned = lambda weight: np.moveaxis(weight, 0, -1)  # noqa: E731
    return Pair(Bilinear(3, bias=bias), theirs, theirs, (a, b), lambda: both(theirs, turned))


def prelu(draw: Any, data: Any, nn: Any, kind: str) -> Pair:
    shared, x = data.draw(st.booleans()), draw.normal(size=(3, TIMES, WIDTH))
    theirs = nn.PReLU(1 if shared else WIDTH)
    call = lambda x: theirs(x.movedim(-1, 1)).movedim(1, -1)  # noqa: E731
    return Pair(PReLU(shared=shared), theirs, call, (x,), lambda: {"weight": array(theirs.weight)})


KINDS: dict[str, Callable[..., Pair]] = {
    "conv3d": convolved,
    "transposed": convolved,
    "max": pooled,
    "avg": pooled,
    "embedding": embedded,
    "bag": embedded,
    "attention": attention,
    "encoder": block,
    "decoder": block,
    "bilinear": bilinear,
    "prelu": prelu,
}


@pytest.mark.only("torch")
@pytest.mark.parametrize("kind", list(KINDS))
@settings(max_examples=3, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_hundred_steps_are_those_of_torch(kind: str, data: st.DataObject) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    with torch.random.fork_rng():
        torch.manual_seed(data.draw(st.integers(0, 99)))
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            layer, theirs, call, inputs, weights, keep = KINDS[kind](draw, data, torch.nn, kind)
        finally:
            torch.set_default_dtype(dtype)
    params, like = weights(), layer.init(0, *inputs)[0]
    shapes = [(path, a.shape) for path, a in sorted(tree.paths(like))]
    assert shapes == [(path, a.shape) for path, a in sorted(tree.paths(params))]

    def loss(params: Any) -> Any:
        y = layer(params, *inputs)
        xp = namespace(y)
        return xp.mean(xp.where(keep > 0, xp.sin(y) * y, 0.0))

    step = tinynn.compile(tinynn.value_and_grad(loss))
    given_inputs, keep_theirs = [torch.tensor(a) for a in inputs], torch.as_tensor(keep) > 0
    for _ in range(STEPS):
        value, gradient = step(params)
        params = tree.map(lambda p, g: p - RATE * g, params, gradient)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            y = call(*given_inputs)
        expected = torch.where(keep_theirs, torch.sin(y) * y, 0.0).mean()
        theirs.zero_grad()
        expected.backward()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter -= RATE * parameter.grad
    assert float(value) == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)
    found, wanted = (dict(tree.paths(each)) for each in (params, weights()))
    for path, parameter in found.items():
        np.testing.assert_allclose(parameter, wanted[path], rtol=1e-8, atol=1e-10, err_msg=path)
