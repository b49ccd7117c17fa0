"""Blocks of transformers: attention and a network of two layers, each added to its input."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from tinynn import functional
from tinynn.config import require, require_count
from tinynn.functional.errors import InputError
from tinynn.functional.lengths import without_padding
from tinynn.layers.base import Layer, require_layer
from tinynn.layers.dropout import Dropout, require_rate
from tinynn.layers.linear import Linear
from tinynn.layers.normalization import LayerNorm
from tinynn.layers.scope import Array, Scope, Tree
from tinynn.layers.sequences.attention import MultiHeadAttention
from tinynn.layers.sequences.inputs import Cache, Sequence, sequences, without_cache

NORM = LayerNorm()


@dataclass(frozen=True)
class _Block(Layer):
    attention: Any
    _: KW_ONLY
    hidden: int | None = None
    activation: Callable[[Array], Array] = functional.gelu
    dropout: float = 0.0
    norm_first: bool = True
    norm: Any = NORM

    def __post_init__(self) -> None:
        _require_attention(self, "attention")
        if self.hidden is not None:
            require_count(self, "hidden")
        require_layer(self, "norm")
        require_rate(self, "dropout")

    def cache(self, like: Array, shape: tuple[int, int, int]) -> Cache:
        """An empty cache of the block's attention to its own sequence.

        See `MultiHeadAttention.cache`.
        """
        return self._own().cache(like, shape)

    def _own(self) -> MultiHeadAttention:
        """The attention to the block's own sequence."""
        raise NotImplementedError

    def _attend(
        self, scope: Scope, own: Sequence, cache: Cache | None
    ) -> tuple[Array, Cache | None]:
        x, seen = own
        held: list[Cache | None] = [None]

        def attend(x: Array) -> Array:
            if cache is None:
                y = scope("attention", self._own(), *given(x, seen))
            else:
                y, held[0] = scope("attention", self._own(), x, cache)
            return y

        return self._around(scope, 1, without_padding(scope.as_float(x), seen), attend), held[0]

    def _feed(self, scope: Scope, number: int, x: Array) -> Array:
        """The network of two layers, for each step by itself."""
        width = int(x.shape[-1])

        def feed(x: Array) -> Array:
            x = self.activation(scope("hidden", Linear(self.hidden or 4 * width), x))
            return scope("out", Linear(width), scope("drop", Dropout(self.dropout), x))

        return self._around(scope, number, x, feed)

    def _around(self, scope: Scope, number: int, x: Array, f: Callable[[Array], Array]) -> Array:
        """`f` of x, added to x, and normalised before or after."""
        norm, drop = f"norm{number}", f"drop{number}"
        if self.norm_first:
            return x + scope(drop, Dropout(self.dropout), f(scope(norm, self.norm, x)))
        return scope(norm, self.norm, x + scope(drop, Dropout(self.dropout), f(x)))


@dataclass(frozen=True)
class TransformerEncoderBlock(_Block):
    """Self-attention, then a network of two layers, each added to its input.

    Parameters
    ----------
    attention
        The number of heads, or a `MultiHeadAttention`, a causal one for a language model.
    hidden
        The width of the network's first layer; None is four times the number of features.
    activation
        A function between its two layers.
    dropout
        The rate of dropout after attention, after the activation and after the network.
    norm_first
        Normalise the input of each part, as GPT-2 does; False normalises each sum, as the first
        transformer did.
    norm
        The layer that normalises.

    Notes
    -----
    The input is x, (batch, time, features), or a pair (x, lengths), or these as two inputs, as
    `fit` gives them: (batch,) integers, or a mask, (batch, time) booleans. Padding is not read. The
    output is (batch, time, features). With a cache as the last input, see
    `MultiHeadAttention.cache`, it is a pair, (output, new cache).

    Parameters: norm1, attention, norm2, hidden and out, by the names of these children.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762; Xiong et al. 2020, arXiv:2002.04745, for the place of
    the norm.

    Examples
    --------
    >>> import numpy as np
    >>> layer, x = TransformerEncoderBlock(2), np.ones((5, 3, 4))
    >>> params, state = layer.init(0, x)
    >>> layer(params, x, np.asarray([3, 1, 2, 3, 3])).shape
    (5, 3, 4)
    """

    def forward(self, scope: Scope, *inputs: Tree) -> Any:
        inputs, cache = without_cache(inputs)
        (own,) = sequences(self, inputs, 1)
        x, held = self._attend(scope, own, cache)
        x = self._feed(scope, 2, x)
        return x if cache is None else (x, held)

    def _own(self) -> MultiHeadAttention:
        return _attention(self.attention)


@dataclass(frozen=True)
class TransformerDecoderBlock(_Block):
    """Causal self-attention, attention to a context, then a network of two layers, each added.

    Parameters
    ----------
    attention
        The number of heads, or a `MultiHeadAttention`, which is taken as it is, causal or not.
    hidden, activation, dropout, norm_first, norm
        As for `TransformerEncoderBlock`.
    cross
        Likewise the attention to the context; None has as many heads as `attention`.

    Notes
    -----
    The inputs are x, (batch, time, features), and a context, (batch, keys, context features), each
    alone or followed by its lengths or mask, as for `MultiHeadAttention`. The output is that of
    `TransformerEncoderBlock`.

    Parameters: norm1, attention, norm2, cross, norm3, hidden and out, by the names of these
    children.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762.

    Examples
    --------
    >>> import numpy as np
    >>> layer, x, context = TransformerDecoderBlock(2), np.ones((5, 3, 4)), np.ones((5, 7, 6))
    >>> layer(layer.init(0, x, context)[0], x, context).shape
    (5, 3, 4)
    """

    _: KW_ONLY
    cross: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cross is not None:
            _require_attention(self, "cross")

    def forward(self, scope: Scope, *inputs: Tree) -> Any:
        inputs, cache = without_cache(inputs)
        own, *rest = sequences(self, inputs, 2)
        if not rest:
            raise InputError(
                f"{self}: expected a sequence and a context, got the sequence alone. To fix it: "
                "give both, or use a TransformerEncoderBlock of causal attention"
            )
        x, held = self._attend(scope, own, cache)
        cross = self._own().heads if self.cross is None else self.cross
        x = self._around(
            scope, 2, x, lambda x: scope("cross", _attention(cross), x, *given(*rest[0]))
        )
        x = self._feed(scope, 3, x)
        return x if cache is None else (x, held)

    def _own(self) -> MultiHeadAttention:
        return _attention(self.attention, causal=True)


def given(x: Array, seen: Array | None) -> tuple[Array, ...]:
    """A sequence and its mask as inputs of a layer."""
    return (x,) if seen is None else (x, seen)


def _attention(given: Any, **settings: Any) -> MultiHeadAttention:
    if isinstance(given, MultiHeadAttention):
        return given
    return MultiHeadAttention(given, **settings)


def _require_attention(block: Any, name: str) -> None:
    value = getattr(block, name)
    if not isinstance(value, MultiHeadAttention):
        expected = "a number of heads, 1 or more, or a MultiHeadAttention"
        require(block, name, lambda heads: type(heads) is int and heads > 0, expected)
