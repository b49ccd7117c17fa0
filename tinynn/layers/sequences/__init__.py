"""Layers over sequences: arrays of shape (batch, time, features), or of tokens' ids."""

from .attention import MultiHeadAttention
from .embedding import Embedding, EmbeddingBag, PositionEmbedding, SinusoidalEncoding
from .recurrent import GRU, LSTM, RNN, Bidirectional, Stacked
from .transformer import TransformerDecoderBlock, TransformerEncoderBlock

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Bidirectional",
    "Embedding",
    "EmbeddingBag",
    "MultiHeadAttention",
    "PositionEmbedding",
    "SinusoidalEncoding",
    "Stacked",
    "TransformerDecoderBlock",
    "TransformerEncoderBlock",
]
