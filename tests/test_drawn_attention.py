"""Options of attention drawn by Hypothesis, against PyTorch; and dropout and half precision."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinynn
from backends import Backend
from tests.checks import assert_close
from tinynn import functional, tree
from tinynn.functional.errors import ShapeError
from tinynn.layers import MultiHeadAttention
from tinynn.trace import namespace

EXACT: dict[str, float] = {"rtol": 1e-9, "atol": 1e-11}
drawn = settings(max_examples=8, deadline=None, derandomize=True)


def weighed(y: Any) -> Any:
    xp = namespace(y)
    return xp.sum(xp.sin(y) * y)


@pytest.mark.only("torch")
@drawn
@given(data=st.data())
def test_the_function_is_that_of_pytorch(data: st.DataObject) -> None:
    """And in blocks it is what it is as a whole."""
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    size = st.integers(1, 6)
    batch, times, width, features = (data.draw(size) for _ in range(4))
    causal = data.draw(st.booleans())
    keys = times if causal else data.draw(size)
    key_heads, groups = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    heads = key_heads * groups
    scale = data.draw(st.sampled_from([None, 0.3]))
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    host = [
        draw.normal(size=(batch, n, h, w))
        for n, h, w in (
            (times, heads, width), (keys, key_heads, width), (keys, key_heads, features)
        )
    ]  # fmt: skip
    mask = None
    if not causal and data.draw(st.booleans()):
        mask = draw.random((batch, heads, times, keys)) > 0.4
        mask[..., 0] = True  # PyTorch's rows of nothing are NaN
    options: dict[str, Any] = {"mask": mask, "causal": causal, "scale": scale}

    q, k, v = (torch.tensor(a, requires_grad=True) for a in host)
    turned = [a.transpose(1, 2) for a in (q, k, v)]
    turned[1:] = [a.repeat_interleave(groups, dim=1) for a in turned[1:]]
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *turned, None if mask is None else torch.tensor(mask), is_causal=causal, scale=scale
    ).transpose(1, 2)
    (torch.sin(theirs) * theirs).sum().backward()
    block = data.draw(st.integers(1, 4))
    for more in ({}, {"block": block}):
        y = functional.attention(*host, **options, **more)
        np.testing.assert_allclose(y, theirs.detach().numpy(), **EXACT)

        def loss(q: Any, k: Any, v: Any, more: Any = more) -> Any:
            return weighed(functional.attention(q, k, v, **options, **more))

        slopes = tinynn.grad(loss, argnums=(0, 1, 2))(*host)
        for slope, array in zip(slopes, (q, k, v), strict=True):
            np.testing.assert_allclose(slope, array.grad.numpy(), **EXACT)


@pytest.mark.only("torch")
@drawn
@given(data=st.data())
def test_the_layer_is_that_of_pytorch(data: st.DataObject) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is compared with")
    heads, head = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    batch, times, keys = (data.draw(st.integers(1, 5)) for _ in range(3))
    bias, cross, causal = (data.draw(st.booleans()) for _ in range(3))
    width, causal = heads * head, causal and not cross
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = draw.normal(size=(batch, times, width))
    context = draw.normal(size=(batch, keys, width)) if cross else x
    lengths = draw.integers(1, context.shape[1] + 1, size=batch)
    layer = MultiHeadAttention(heads, bias=bias, causal=causal)
    inputs = (x, context, lengths) if cross else (x, lengths)
    params = tree.map(lambda a: draw.normal(size=a.shape), layer.init(0, *inputs)[0])

    theirs = torch.nn.MultiheadAttention(
        width, heads, bias=bias, batch_first=True, dtype=torch.float64
    )
    parts = [params[name] for name in ("query", "key", "value")]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.tensor(np.hstack([p["weight"] for p in parts]).T))
        theirs.out_proj.weight.copy_(torch.tensor(params["out"]["weight"].T))
        if bias:
            theirs.in_proj_bias.copy_(torch.tensor(np.hstack([p["bias"] for p in parts])))
            theirs.out_proj.bias.copy_(torch.tensor(params["out"]["bias"]))
    padding = torch.tensor(np.arange(context.shape[1]) >= lengths[:, None])
    ahead = torch.ones(times, times, dtype=torch.bool).triu(1) if causal else None
    asked, answers = torch.tensor(x), torch.tensor(context)
    expected, _ = theirs(
        asked, answers, answers, key_padding_mask=padding, attn_mask=ahead, need_weights=False
    )
    valid = np.arange(times) < (np.full((batch, 1), times) if cross else lengths[:, None])
    found, want = layer(params, *inputs), expected.detach().numpy()
    np.testing.assert_allclose(found[valid], want[valid], **EXACT)
    (torch.sin(expected) * expected)[torch.tensor(valid)].sum().backward()

    def loss(params: Any) -> Any:
        y = layer(params, *inputs)
        xp = namespace(y)
        return xp.sum(xp.sin(y) * y * valid[..., None])

    gradient = tinynn.grad(loss)(params)
    found = np.hstack([gradient[name]["weight"] for name in ("query", "key", "value")])
    np.testing.assert_allclose(found.T, theirs.in_proj_weight.grad.numpy(), **EXACT)
    found, want = gradient["out"]["weight"].T, theirs.out_proj.weight.grad.numpy()
    np.testing.assert_allclose(found, want, **EXACT)


def test_factors_are_those_of_dropped_weights(backend: Backend) -> None:
    draw = np.random.default_rng(0)
    q, k, v = (draw.normal(size=(2, 3, h, 5)).astype("float32") for h in (4, 2, 2))
    factors = (draw.random((2, 4, 3, 3)) > 0.5).astype("float32") * 2
    placed = [backend.asarray(a) for a in (q, k, v, factors)]
    found = functional.attention(*placed[:3], causal=True, factors=placed[3])
    scores = np.einsum("bthw,bkhw->bhtk", q, np.repeat(k, 2, axis=2)) / np.sqrt(5)
    powers = np.exp(np.where(np.tril(np.ones((3, 3))) > 0, scores, -np.inf))
    weights = powers / powers.sum(-1, keepdims=True) * factors
    expected = np.einsum("bhtk,bkhw->bthw", weights, np.repeat(v, 2, axis=2))
    assert_close(found, expected, backend, rtol=1e-5, atol=1e-6)


@pytest.mark.only("numpy")
def test_a_layer_drops_weights_in_training_alone() -> None:
    x = np.random.default_rng(0).normal(size=(2, 40, 4))
    layer, plain = MultiHeadAttention(2, dropout=0.5), MultiHeadAttention(2)
    params, state = layer.init(0, x)
    np.testing.assert_array_equal(layer(params, x), plain(params, x))
    ones = tree.map(np.zeros_like, params)  # equal weights, of which half are dropped
    ones["value"]["bias"], ones["out"]["weight"] = np.ones(4), np.eye(4)
    y = layer.apply(ones, state, x, key=1, training=True)[0]
    assert 0.9 < y.mean() < 1.1
    assert 0.05 < y.std() < 0.5
    shares = y[..., ::2].ravel() * 20  # how many of forty keys were kept
    np.testing.assert_allclose(shares, shares.round(), atol=1e-9)
    with pytest.raises(ValueError, match="expected dropout to be a number in"):
        MultiHeadAttention(2, dropout=0.5, block=8)
    q = np.ones((1, 2, 1, 3))
    with pytest.raises(ShapeError, match=r"factors of shape .* here \(1, 1, 2, 2\)"):
        functional.attention(q, q, q, factors=np.ones((2, 2)))
    with pytest.raises(ValueError, match="factors or block, got both"):
        functional.attention(q, q, q, factors=np.ones((1, 1, 2, 2)), block=1)


@pytest.mark.only("numpy", "torch")
def test_half_precision_sums_in_float32(backend: Backend) -> None:
    """4,096 equal keys: a sum in float16 of as many ones would stop at 2,048."""
    dtype, keys = backend.compute_dtypes()["float16"], 4096
    q, k = (backend.xp.zeros((1, n, 1, 2), dtype=dtype, device=backend.device) for n in (1, keys))
    v = backend.xp.ones((1, keys, 1, 2), dtype=dtype, device=backend.device)
    for block in (None, 512):
        y = functional.attention(q, k, v, block=block)
        assert y.dtype == dtype
        np.testing.assert_allclose(backend.to_host(y).astype("float64"), 1.0, rtol=1e-3)
