"""Layers over sequences with drawn options, each beside torch.nn's: see torch_layers."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.torch_layers import TIMES, WIDTH, Pair, array, both, same
from tinynn import functional, layers, tree


def embedded(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    """Vectors of tokens, or one for all of a sequence's, whose lengths differ."""
    ids = draw.integers(0, 6, size=(3, TIMES))
    if kind == "Embedding":
        theirs = nn.Embedding(6, WIDTH)
        layer: Any = layers.Embedding(6, WIDTH)
        return Pair(layer, theirs, theirs, (ids,), lambda: {"weight": array(theirs.weight)})
    mode = options.draw(st.sampled_from(["sum", "mean", "max"]))
    lengths = draw.integers(1, TIMES + 1, size=3)
    theirs, layer = nn.Embedding(6, WIDTH), layers.EmbeddingBag(6, WIDTH, mode=mode)
    pool = {"sum": lambda x: x.sum(0), "mean": lambda x: x.mean(0), "max": lambda x: x.amax(0)}

    def call(ids: Any, *lengths: Any) -> Any:
        import torch

        counts = lengths[0].tolist() if lengths else [TIMES] * 3
        rows = zip(theirs(ids), counts, strict=True)
        return torch.stack([pool[mode](row[:n]) for row, n in rows])

    inputs = (ids, lengths) if options.draw(st.booleans()) else (ids,)
    return Pair(layer, theirs, call, inputs, lambda: {"weight": array(theirs.weight)})


def positioned(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    """Vectors of places, which are learned or of sines and cosines."""
    import torch

    x = draw.normal(size=(3, TIMES, WIDTH))
    if kind == "PositionEmbedding":
        theirs = nn.Embedding(TIMES + options.draw(st.integers(0, 2)), WIDTH)
        layer: Any = layers.PositionEmbedding(theirs.num_embeddings)
        call = lambda x: x + theirs.weight[:TIMES]  # noqa: E731
        return Pair(layer, theirs, call, (x,), lambda: {"weight": array(theirs.weight)})
    base = options.draw(st.sampled_from([100.0, 10_000.0]))
    angles = torch.arange(float(TIMES))[:, None] * base ** (-torch.arange(0, WIDTH, 2) / WIDTH)
    waves = torch.stack([angles.sin(), angles.cos()], -1).reshape(TIMES, WIDTH)
    layer = layers.SinusoidalEncoding(base=base)
    return Pair(layer, nn.Identity(), lambda x: x + waves, (x,), dict)


def unseen_of(options: Any, draw: Any) -> tuple[Any, tuple[Any, ...]]:
    """What is padding, (batch, time), and how a layer is told: by nothing, lengths or a mask."""
    told = options.draw(st.sampled_from(["nothing", "lengths", "mask"]))
    lengths = draw.integers(1, TIMES + 1, size=3)
    unseen = np.arange(TIMES) >= lengths[:, None]
    if told == "nothing":
        return np.zeros_like(unseen), ()
    return unseen, (lengths,) if told == "lengths" else (~unseen,)


def recurrent(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    """Stacked or not, in one direction or two, with lengths and a carry or without."""
    ways = 2 if kind == "Bidirectional" else options.draw(st.integers(1, 2))
    count = 2 if kind == "Stacked" else options.draw(st.integers(1, 3))
    cell = kind if hasattr(nn, kind) else options.draw(st.sampled_from(["RNN", "GRU", "LSTM"]))
    out, bias, whole = (
        options.draw(st.integers(1, 4)),
        *(options.draw(st.booleans()) for _ in range(2)),
    )
    reverse = ways == 1 and options.draw(st.booleans())
    theirs = getattr(nn, cell)(
        WIDTH, out, count, bias=bias, batch_first=True, bidirectional=ways == 2
    )
    ended = [f"_l{i}{way}" for i in range(count) for way in ("", "_reverse")[:ways]]
    for end in ended if bias and cell != "GRU" else ():  # of the two biases we have the sum
        getattr(theirs, f"bias_hh{end}").requires_grad_(False).zero_()
    layer = getattr(layers, cell)(out, bias=bias, return_sequences=whole, reverse=reverse)
    layer = layers.Bidirectional(layer) if ways == 2 else layer
    layer = layers.Stacked(layer, layers=count) if count > 1 else layer
    parts = (("h", "c") if cell == "LSTM" else ("h",)), ("layer", "opposite")

    def nested(of: Callable[[str], Any]) -> Any:
        """What each direction of each layer has, as our trees have it."""
        found = [of(end) for end in ended]
        if ways == 2:
            pairs = zip(found[::2], found[1::2], strict=True)
            found = [dict(zip(parts[1], pair, strict=True)) for pair in pairs]
        return {str(i): each for i, each in enumerate(found)} if count > 1 else found[0]

    def own(end: str) -> Any:
        names = {"weight_ih": "weight", "weight_hh": "recurrent_weight"}
        if bias:
            names |= {"bias_ih": "bias"} | ({"bias_hh": "recurrent_bias"} if cell == "GRU" else {})
        return {ours: array(getattr(theirs, name + end)).T for name, ours in names.items()}

    unseen, told = unseen_of(options, draw)
    given = options.draw(st.booleans(), "a carry")
    x = draw.normal(size=(3, TIMES, WIDTH))
    carry = nested(lambda _: {name: draw.normal(size=(3, out)) for name in parts[0]})
    lengths = TIMES - unseen.sum(1)
    turned = np.where(unseen, np.arange(TIMES), lengths[:, None] - 1 - np.arange(TIMES))

    def call(x: Any, *rest: Any) -> Any:
        import torch
        from torch.nn.utils import rnn

        rows = torch.arange(3)[:, None]
        x = x[rows, turned] if reverse else x
        packed = rnn.pack_padded_sequence(x, torch.tensor(lengths), True, False)
        start = None
        if given:
            flat = tree.leaves(rest[-1])
            states = [torch.stack(flat[i :: len(parts[0])]) for i in range(len(parts[0]))]
            start = tuple(states) if cell == "LSTM" else states[0]
        y, after = theirs(packed, start)
        y = rnn.pad_packed_sequence(y, True, 0.0, TIMES)[0]
        y = y[rows, turned] if reverse else y
        states = after if cell == "LSTM" else (after,)
        if not whole:
            y = torch.cat(list(states[0][-ways:]), -1)
        place = iter(range(count * ways))

        def one(_: str) -> Any:
            i = next(place)
            return {name: state[i] for name, state in zip(parts[0], states, strict=True)}

        return (y, nested(one)) if given else y

    keep = ~unseen[..., None] if whole else True
    inputs = (x, *told, carry) if given else (x, *told)
    if given:
        keep = (keep, nested(lambda _: dict.fromkeys(parts[0], True)))
    return Pair(layer, theirs, call, inputs, lambda: nested(own), keep)


def attended(module: Any) -> dict[str, Any]:
    """The parameters of PyTorch's attention as ours."""
    parts = np.split(array(module.in_proj_weight), 3)
    names = ("query", "key", "value")
    found = {name: {"weight": part.T} for name, part in zip(names, parts, strict=True)}
    if module.in_proj_bias is not None:
        for name, part in zip(names, np.split(array(module.in_proj_bias), 3), strict=True):
            found[name]["bias"] = part
    return found | {"out": both(module.out_proj)}


def attention(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    bias, causal, crossed = (options.draw(st.booleans()) for _ in range(3))
    theirs = nn.MultiheadAttention(WIDTH, 2, bias=bias, batch_first=True)
    blocks = options.draw(st.sampled_from([None, 1, 2, 7]))
    layer = layers.MultiHeadAttention(2, bias=bias, causal=causal, block=blocks)
    unseen, told = unseen_of(options, draw)
    x, context = draw.normal(size=(2, 3, TIMES, WIDTH))

    def call(x: Any, *rest: Any) -> Any:
        given = rest[0] if crossed else x
        ahead = x.new_ones(TIMES, TIMES).triu(1).bool() if causal else None
        hidden = x.new_tensor(unseen).bool()
        return theirs(x, given, given, hidden, attn_mask=ahead, need_weights=False)[0]

    inputs = (x, context, *told) if crossed else (x, *told)
    keep = True if crossed else ~unseen[..., None]
    return Pair(layer, theirs, call, inputs, lambda: attended(theirs), keep)


def grouped(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    """Attention with fewer heads of keys, and with turned queries and keys, written by hand."""
    import torch

    key_heads, rotary, causal = (
        options.draw(st.sampled_from([1, 2, 4])),
        *(options.draw(st.booleans()) for _ in range(2)),
    )
    width, head = 8, 2
    outs = {"query": width, "key": key_heads * head, "value": key_heads * head, "out": width}
    theirs = nn.ModuleDict({name: nn.Linear(width, out) for name, out in outs.items()})
    layer = layers.MultiHeadAttention(4, key_heads=key_heads, rotary=rotary, causal=causal)

    def turned(x: Any) -> Any:
        angle = torch.arange(float(TIMES))[:, None, None]  # of one pair: its rate is 1
        a, b = x[..., :1], x[..., 1:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    def call(x: Any) -> Any:
        q, k, v = (theirs[name](x).unflatten(-1, (-1, head)) for name in ("query", "key", "value"))
        q, k = (turned(q), turned(k)) if rotary else (q, k)
        k, v = (a.repeat_interleave(4 // key_heads, dim=2) for a in (k, v))
        scores = torch.einsum("bqhw,bkhw->bhqk", q, k) / math.sqrt(head)
        if causal:
            ahead = torch.ones(TIMES, TIMES).triu(1).bool()
            scores = scores.masked_fill(ahead, -math.inf)
        y = torch.einsum("bhqk,bkhw->bqhw", scores.softmax(-1), v)
        return theirs["out"](y.flatten(2))

    x = draw.normal(size=(2, TIMES, width))
    return Pair(layer, theirs, call, (x,), lambda: {n: both(m) for n, m in theirs.items()})


def block(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    activation = options.draw(st.sampled_from(["relu", "gelu", "silu"]))
    first, hidden = options.draw(st.booleans()), options.draw(st.sampled_from([3, None]))
    norm = options.draw(st.sampled_from(["LayerNorm", "RMSNorm"]))
    epsilon = options.draw(st.sampled_from([1e-5, 1e-2]))
    chosen: dict[str, Any] = {"norm_first": first, "activation": getattr(functional, activation)}
    chosen |= {"norm": getattr(layers, norm)(epsilon=epsilon), "hidden": hidden}
    x, context = draw.normal(size=(2, 3, TIMES, WIDTH))
    unseen, told = unseen_of(options, draw)
    theirs = getattr(nn, kind.replace("Block", "Layer"))(
        WIDTH, 2, hidden or 4 * WIDTH, 0.0, getattr(nn.functional, activation), epsilon,
        batch_first=True, norm_first=first,
    )  # fmt: skip
    if norm == "RMSNorm":
        theirs.activation_relu_or_gelu = 0  # what is fast in inference has LayerNorm alone
        for i in range(1, 3 + ("Decoder" in kind)):
            setattr(theirs, f"norm{i}", nn.RMSNorm(WIDTH, eps=epsilon))
    if "Decoder" in kind and options.draw(st.booleans(), "other heads"):
        theirs.multihead_attn = nn.MultiheadAttention(WIDTH, 1, batch_first=True)
        chosen["cross"] = 1
    own = {"attention": theirs.self_attn, "cross": getattr(theirs, "multihead_attn", None)}
    norms = [getattr(theirs, f"norm{i}", None) for i in (1, 2, 3)]

    def weights() -> Any:
        found = {name: attended(module) for name, module in own.items() if module is not None}
        found |= {f"norm{i}": both(n, same) for i, n in enumerate(norms, 1) if n is not None}
        return found | {"hidden": both(theirs.linear1), "out": both(theirs.linear2)}

    if "Encoder" in kind:

        def call(x: Any, *told: Any) -> Any:
            return theirs(x, src_key_padding_mask=x.new_tensor(unseen).bool())

        layer: Any = layers.TransformerEncoderBlock(2, **chosen)
        return Pair(layer, theirs, call, (x, *told), weights, ~unseen[..., None])

    def of_two(x: Any, context: Any, *told: Any) -> Any:
        ahead = x.new_ones(TIMES, TIMES).triu(1).bool()
        hidden = x.new_tensor(unseen).bool()
        return theirs(x, context, tgt_mask=ahead, memory_key_padding_mask=hidden)

    layer = layers.TransformerDecoderBlock(2, **chosen)
    return Pair(layer, theirs, of_two, (x, context, *told), weights)


KINDS: dict[str, Callable[..., Pair]] = {
    **dict.fromkeys(("Embedding", "EmbeddingBag"), embedded),
    **dict.fromkeys(("PositionEmbedding", "SinusoidalEncoding"), positioned),
    **dict.fromkeys(("RNN", "GRU", "LSTM", "Bidirectional", "Stacked"), recurrent),
    "MultiHeadAttention": attention,
    "grouped queries": grouped,
    **dict.fromkeys(("TransformerEncoderBlock", "TransformerDecoderBlock"), block),
}
