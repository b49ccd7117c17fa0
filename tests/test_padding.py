"""What stands in the padding changes nothing by one bit: every layer of lengths or masks."""

from typing import Any, NamedTuple

import numpy as np
import pytest

import backends
import tinynn
from tinynn import tree
from tinynn.layers import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    EmbeddingBag,
    Linear,
    MixtureOfExperts,
    MultiHeadAttention,
    Stacked,
    TransformerDecoderBlock,
    TransformerEncoderBlock,
)
from tinynn.trace import namespace

DRAW = np.random.default_rng(0)
LENGTHS = np.asarray([3, 0, 4, 1])
VALID = np.arange(4) < LENGTHS[:, None]
X = DRAW.normal(size=(4, 4, 4)).astype("float32")
IDS = DRAW.integers(0, 5, size=(4, 4)).astype("int32")
SPOILT = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "huge": 3e38}
STEPS = {"dpnp": 2}  # where a call takes as long as hundreds of NumPy's; else 10


class Case(NamedTuple):
    """A layer, what its inputs are, and whether it is tested on libraries that compile as well."""

    layer: Any
    inputs: str = "x"
    everywhere: bool = False


CASES = {
    "rnn": Case(RNN(3, return_sequences=True)),
    "gru": Case(GRU(3, reverse=True), everywhere=True),
    "lstm": Case(LSTM(3)),
    "bidirectional": Case(Bidirectional(GRU(3, return_sequences=True))),
    "stacked": Case(Stacked(LSTM(3, return_sequences=True), layers=2, dropout=0.5)),
    "attention": Case(MultiHeadAttention(2, causal=True, rotary=True, dropout=0.5)),
    "grouped": Case(MultiHeadAttention(2, key_heads=1)),
    "blocks": Case(MultiHeadAttention(2, block=3)),
    "crossed": Case(MultiHeadAttention(2), "x context", everywhere=True),
    "encoder": Case(TransformerEncoderBlock(2, hidden=3, dropout=0.3)),
    "post": Case(TransformerEncoderBlock(2, hidden=3, norm_first=False)),
    "experts": Case(MixtureOfExperts(Linear(3), experts=3)),
    "decoder": Case(TransformerDecoderBlock(2, hidden=3), "x context"),
    **{mode: Case(EmbeddingBag(5, 3, mode=mode), "ids", mode == "max")
       for mode in ("mean", "sum", "max")},
}  # fmt: skip


def given(case: Case, backend: backends.Backend, spoilt: float | None, masked: bool) -> list[Any]:
    """The inputs, with zeros in the padding, or what spoils it."""
    data = IDS if case.inputs == "ids" else X
    padding: Any = 0 if spoilt is None else spoilt
    if case.inputs == "ids":
        padding = 0 if spoilt is None else (999 if spoilt > 0 else -7)
    mask = VALID.reshape(*VALID.shape, *(1,) * (data.ndim - 2))
    x = backend.asarray(np.where(mask, data, np.asarray(padding, data.dtype)))
    valid = backend.asarray(VALID if masked else LENGTHS)
    return [x, valid, x, valid] if case.inputs == "x context" else [x, valid]


@pytest.mark.reads_scalars
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of infinite numbers that nobody reads
@pytest.mark.parametrize("name", list(CASES))
def test_training_is_the_same_whatever_is_in_the_padding(
    name: str, backend: backends.Backend
) -> None:
    case = CASES[name]
    if backend.name in ("jax", "dpnp", "cupy") and not case.everywhere:
        pytest.skip("it compiles for seconds: there, one layer of each kind")
    example = given(case, backends.get("numpy"), None, False)
    params, state = case.layer.init(0, *example)
    params = tree.map(lambda a: backend.asarray(np.asarray(a, "float32")), params)
    state = tree.map(backend.asarray, state)

    def loss(params: Any, x: Any, *more: Any) -> Any:
        inputs = (x, more[0], x, more[0]) if len(more) == 3 else (x, *more)
        y, _ = case.layer.apply(params, state, *inputs, training=True, key=1)
        xp = namespace(y)
        return xp.sum(xp.sin(3.0 * y))

    floating = case.inputs != "ids"

    def train(params: Any, *inputs: Any) -> Any:
        argnums = (0, 1) if floating else (0,)
        value, gradients = tinynn.value_and_grad(loss, argnums=argnums)(params, *inputs)
        new = tree.map(lambda p, g: p - 0.001 * g, params, gradients[0])
        return new, (value, gradients, case.layer(params, *inputs))

    step = tinynn.compile(train)

    def run(masked: bool, spoilt: float | None) -> list[Any]:
        inputs, held, told = given(case, backend, spoilt, masked), params, []
        for _ in range(STEPS.get(backend.name, 10)):
            held, shown = step(held, *inputs)
            told.append(shown)
        return [backend.to_host(a) for a in tree.leaves((held, told))]

    for masked in (False, True) if backend.name == "numpy" else (False,):
        expected = run(masked, None)
        assert all(np.isfinite(a).all() for a in expected)
        assert np.any(expected[0] != backend.to_host(tree.leaves(params)[0])), "it has learned"
        kinds = list(SPOILT.values()) if backend.name == "numpy" else [np.nan, np.inf]
        for spoilt in kinds:
            for a, b in zip(run(masked, spoilt), expected, strict=True):
                np.testing.assert_array_equal(a, b)
