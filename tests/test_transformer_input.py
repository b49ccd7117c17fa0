"""Bad input and settings of embeddings, attention and blocks: errors that name the place."""

from typing import Any

import numpy as np
import pytest

import backends
import tinynn
from tests.checks import assert_equal
from tinynn.layers import (
    DtypeError,
    Embedding,
    EmbeddingBag,
    InputError,
    Linear,
    MultiHeadAttention,
    PositionEmbedding,
    Sequential,
    ShapeError,
    SinusoidalEncoding,
    TransformerDecoderBlock,
    TransformerEncoderBlock,
)
from tinynn.trace import namespace

DRAW = np.random.default_rng(0)
X, CONTEXT = DRAW.normal(size=(3, 5, 8)), DRAW.normal(size=(3, 4, 8))
LENGTHS = np.asarray([5, 2, 3])
VALID = np.arange(5) < LENGTHS[:, None]
IDS = np.arange(15).reshape(3, 5) % 7


@pytest.mark.only("numpy")
@pytest.mark.parametrize(
    ("layer", "given", "error", "message"),
    [
        (Embedding(7, 2), IDS * 1.0, DtypeError, r"layer 0, Embedding\(7, 2\): expected ids of an"),
        (Embedding(7, 2), IDS + 3, InputError, r"layer 0, .*ids from 0 to 6, got ids from 3 to 9"),
        (Embedding(7, 2), IDS - 1, InputError, r"expected ids from 0 to 6, got ids from -1 to 5"),
        (EmbeddingBag(7, 2), IDS[0], ShapeError, r"ids of shape \(batch, time\), .* got \(5,\)"),
        (EmbeddingBag(7, 2), IDS[:, :0], ShapeError, "of one step or more"),
        (EmbeddingBag(7, 2), (IDS, LENGTHS * 1.0), DtypeError, "lengths of an integer dtype"),
        (PositionEmbedding(4), X, ShapeError, "sequences of 4 steps or fewer, got 5"),
        (PositionEmbedding(4), X[0], ShapeError, r"got \(5, 8\). To fix it: embed the tokens"),
        (SinusoidalEncoding(), X[:, :, :3], ShapeError, "an even number of features, got 3"),
        (MultiHeadAttention(3), X, ShapeError, "layer 0, .*features that 3 heads divide, got 8"),
        (MultiHeadAttention(8, rotary=True), X, ShapeError, "divide into even widths, got 8"),
        (MultiHeadAttention(2), X[0], ShapeError, r"shape \(batch, time, features\)"),
        (MultiHeadAttention(2), X[:, :0], ShapeError, "of one step or more"),
        (MultiHeadAttention(2), (X, LENGTHS, VALID), InputError, "lengths or a mask once for each"),
        (MultiHeadAttention(2), (X, VALID[:, :3]), ShapeError, r"a mask of shape \(batch, time\)"),
        (MultiHeadAttention(2), (X, LENGTHS[:2]), ShapeError, r"lengths of shape \(batch,\), here"),
        (MultiHeadAttention(2), (X, CONTEXT[:1]), ShapeError, "expected sequences of one batch"),
        (MultiHeadAttention(2), (X, X, X), InputError, "expected 1 or 2 sequences, got 3"),
        (TransformerEncoderBlock(2), (X, CONTEXT), InputError, "expected 1 sequences, got 2"),
        (TransformerDecoderBlock(2), X, InputError, "expected a sequence and a context"),
    ],
)
def test_bad_input_is_named(layer: Any, given: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        Sequential(layer).init(0, given)


@pytest.mark.only("numpy")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Embedding(0, 2), "count"),
        (lambda: EmbeddingBag(3, 2, mode="min"), '"mean", "sum" or "max"'),
        (lambda: MultiHeadAttention(4, key_heads=3), "a divisor of heads"),
        (lambda: MultiHeadAttention(4, block=0), "block"),
        (lambda: TransformerEncoderBlock(0), "a number of heads"),
        (lambda: TransformerDecoderBlock(2, cross=Linear(2)), "or a MultiHeadAttention"),
        (lambda: TransformerEncoderBlock(2, dropout=1.0), r"a number in \[0, 1\)"),
    ],
)
def test_bad_settings_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.only("numpy")
def test_ids_of_a_later_batch_are_checked_too() -> None:
    layer = Sequential(Embedding(7, 2))
    params, _ = layer.init(0, IDS)
    with pytest.raises(InputError, match=r"layer 0, .*got ids from 7 to 7"):
        layer(params, np.asarray([7]))
    with pytest.raises(InputError, match="got ids from 7 to 7"):
        tinynn.grad(lambda p, ids: namespace(ids).sum(layer(p, ids)))(
            params, np.asarray([7], dtype="uint8")
        )
    assert_equal(tinynn.compile(layer)(params, np.asarray([7])), np.full((1, 2), np.nan),
                 backends.get("numpy"))  # fmt: skip
