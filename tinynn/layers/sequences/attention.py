"""Multi-head attention as a layer, with a cache for generation."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

from tinynn import functional
from tinynn.config import require, require_count
from tinynn.functional.errors import InputError, ShapeError
from tinynn.functional.lengths import counted, shape_of, without_padding
from tinynn.initializers import Initializer, glorot_uniform, zeros
from tinynn.layers.base import Layer
from tinynn.layers.linear import Linear
from tinynn.layers.scope import Array, Scope, Tree
from tinynn.layers.sequences.inputs import Cache, sequences, without_cache
from tinynn.trace import backend_of, is_readable, namespace


@dataclass(frozen=True)
class MultiHeadAttention(Layer):
    """Attention of each step of a sequence to the steps of it, or of another, in several heads.

    Parameters
    ----------
    heads
        The number of heads, which divides the number of features.
    key_heads
        The number of heads of keys and values, a divisor of `heads`, each shared by a group of
        queries' heads ("grouped queries"); None: as many as `heads`.
    causal
        Let no step see a later one.
    rotary
        Turn queries and keys by angles of their places: see `tinynn.functional.rotary`.
    block
        As for `tinynn.functional.attention`: so many steps at a time, in memory that grows with the
        length alone.
    dropout
        The rate at which weights of keys are dropped in training, as PyTorch's `dropout=`; not
        beside `block`.
    bias
        Add biases to queries, keys, values and the output.
    weight_init
        A function of (key, shape, dtype) that makes each weight: see `tinynn.initializers`.
    bias_init
        Likewise for the biases.

    Notes
    -----
    The inputs are x, (batch, time, features), whose steps ask, and a context, (batch, keys,
    context features), whose steps answer; without a context x answers itself. Lengths, (batch,)
    integers, or a mask, (batch, time) booleans that are True at valid steps, may follow each of the
    two, in a pair with it or as the next input: `layer(params, x, lengths)`, `layer(params, x,
    (context, lengths))`. Padding is not read, and its own outputs depend on the parameters alone.
    The output is (batch, time, features).

    A cache, the last input, holds the keys and values of the steps before: see `cache`. The output
    is then a pair, (output, new cache).

    Parameters: query, key, value and out, each a `Linear`, in the order of PyTorch's.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762.

    Examples
    --------
    >>> import numpy as np
    >>> layer, x = MultiHeadAttention(2), np.ones((5, 3, 4))
    >>> params, state = layer.init(0, x)
    >>> list(params), layer(params, x, np.asarray([3, 1, 2, 3, 3])).shape
    (['query', 'key', 'value', 'out'], (5, 3, 4))
    """

    heads: int
    _: KW_ONLY
    key_heads: int | None = None
    causal: bool = False
    rotary: bool = False
    block: int | None = None
    dropout: float = 0.0
    bias: bool = True
    weight_init: Initializer = glorot_uniform
    bias_init: Initializer = zeros

    def __post_init__(self) -> None:
        require_count(self, "heads")
        if self.key_heads is not None:
            require_count(self, "key_heads")
            require(self, "key_heads", lambda k: self.heads % k == 0, "a divisor of heads")
        if self.block is not None:
            require_count(self, "block")
        alone = self.block is None
        expected = "a number in [0, 1), and 0 beside block"
        require(self, "dropout", lambda p: 0.0 <= p < 1.0 and (alone or not p), expected)

    def forward(self, scope: Scope, *inputs: Tree) -> Any:
        inputs, cache = without_cache(inputs)
        (x, seen), *rest = sequences(self, inputs, 2)
        if cache is not None and (rest or seen is not None):
            raise InputError(
                f"{self}: expected one sequence of valid steps beside a cache, got a context, "
                "lengths or a mask. To fix it: give x and the cache alone"
            )
        if cache is not None and cache.keys() != {*_HELD, "index"}:
            raise InputError(
                f"{self}: expected a cache of 'key', 'value' and 'index', got one of "
                f"{', '.join(map(repr, cache))}. To fix it: make it with this layer's cache()"
            )
        width, head = int(x.shape[2]), self._head(int(x.shape[2]))
        x = without_padding(scope.as_float(x), seen)
        context, seen = rest[0] if rest else (x, seen)
        context = without_padding(scope.as_float(context), seen) if rest else context
        key_heads = self.heads if self.key_heads is None else self.key_heads
        q = self._part(scope, "query", x, self.heads, head)
        k = self._part(scope, "key", context, key_heads, head)
        v = self._part(scope, "value", context, key_heads, head)
        start = None if cache is None else cache["index"]
        if self.rotary:
            q, k = (functional.rotary(a, self._places(a, start)) for a in (q, k))
        options: dict[str, Any] = {"mask": seen, "causal": self.causal}
        if cache is not None:
            k, v, cache = self._remembered(k, v, cache)
            # One step sees what was before and itself, causal or not.
            if self.causal or x.shape[1] == 1:
                options = {"causal": True, "start": start}
            else:
                options = {"mask": self._until(x, k, start)}
        if scope.dropping and self.dropout:
            shape = (x.shape[0], self.heads, int(q.shape[1]), int(k.shape[1]))
            kept = scope.random.bernoulli(1.0 - self.dropout, shape)
            kept = namespace(kept).astype(kept, q.dtype)
            options["factors"] = kept / (1.0 - self.dropout)
        y = functional.attention(q, k, v, block=self.block, **options)
        y = namespace(y).reshape(y, (*y.shape[:2], self.heads * head))
        y = scope("out", self._linear(width), y)
        if cache is None:
            return y
        xp, steps = namespace(y, cache["index"]), int(cache["key"].shape[1])
        return xp.where(cache["index"] > steps, float("nan"), y), cache

    def cache(self, like: Array, shape: tuple[int, int, int]) -> Cache:
        """An empty cache, for inputs of one step or several after those before.

        Parameters
        ----------
        like
            An array of the dtype and device to be, a parameter for one.
        shape
            (batch, time, features) of an input of all steps that there may be.

        Returns
        -------
        dict
            "key" and "value", (batch, time, heads, width), and "index", the number of steps that
            they hold. Their shapes never change, so one compiled program serves every step. Steps
            that it has no room for are an error, or give NaN where "index" cannot be read.

        Examples
        --------
        >>> import numpy as np
        >>> layer, x = MultiHeadAttention(2, causal=True), np.eye(4)[None]
        >>> params, state = layer.init(0, x)
        >>> cache, ys = layer.cache(x, x.shape), []
        >>> for step in range(4):
        ...     y, cache = layer(params, x[:, step : step + 1], cache)
        ...     ys.append(y)
        >>> bool(np.allclose(np.concatenate(ys, axis=1), layer(params, x)))
        True
        """
        if len(shape) != 3:
            raise ShapeError(
                f"{self}: expected a cache for inputs of shape (batch, time, features), got "
                f"{tuple(shape)}. To fix it: give the features; a network of tokens has a cache() "
                "of its own, which adds the width of its embedding"
            )
        batch, steps, width = shape
        heads = self.heads if self.key_heads is None else self.key_heads
        backend = backend_of(like)
        with backend.scope():
            xp, device = backend.xp, backend.device
            full = (batch, steps, heads, self._head(width))
            held = {name: xp.zeros(full, dtype=like.dtype, device=device) for name in _HELD}
            return {**held, "index": xp.zeros((), dtype=xp.int32, device=device)}

    def _head(self, width: int) -> int:
        """The number of features of a head."""
        if not width or width % self.heads or (self.rotary and width // self.heads % 2):
            even = " into even widths" if self.rotary else ""
            raise ShapeError(
                f"{self}: expected a number of features that {self.heads} heads divide{even}, got "
                f"{width}. To fix it: change the width, or the number of heads"
            )
        return width // self.heads

    def _linear(self, features: int) -> Linear:
        return Linear(
            features, bias=self.bias, weight_init=self.weight_init, bias_init=self.bias_init
        )

    def _part(self, scope: Scope, name: str, x: Array, heads: int, head: int) -> Array:
        """Queries, keys or values: (batch, time, heads, width)."""
        y = scope(name, self._linear(heads * head), x)
        return namespace(y).reshape(y, (*y.shape[:2], heads, head))

    def _places(self, x: Array, start: Array | None) -> Array:
        """(time,), the places of the steps."""
        places = counted(x, x.shape[1])
        if start is None:
            return places
        xp = namespace(start, places)
        return xp.add(places, xp.astype(start, places.dtype))

    def _remembered(self, k: Array, v: Array, cache: Cache) -> tuple[Array, Array, Cache]:
        """All keys and values, and the cache that holds these as well."""
        index, steps, length = cache["index"], int(k.shape[1]), int(cache["key"].shape[1])
        if tuple(cache["key"].shape) != (k.shape[0], length, *k.shape[2:]):
            raise ShapeError(
                f"{self}: expected a cache of {shape_of(k)} for each step, got one of "
                f"{shape_of(cache['key'])}. To fix it: make it with this layer's cache()"
            )
        if steps > length or (is_readable(index) and int(index) + steps > length):
            raise ShapeError(
                f"{self}: expected a cache with room for {steps} more steps, got one of {length} "
                "that holds too many already. To fix it: make it longer, or begin a new one"
            )
        k, v = (
            functional.dynamic_update_slice(cache[name], given, index, axis=1)
            for name, given in zip(_HELD, (k, v), strict=True)
        )
        return k, v, {"key": k, "value": v, "index": index + steps}

    def _until(self, x: Array, k: Array, start: Array) -> Array:
        """(1, 1, 1, keys): the keys up to the last of the steps."""
        keys = counted(k, int(k.shape[1]))
        xp = namespace(start, keys)
        seen = xp.less(keys, xp.add(xp.astype(start, keys.dtype), int(x.shape[1])))
        return xp.reshape(seen, (1, 1, 1, keys.shape[0]))


_HELD = ("key", "value")
