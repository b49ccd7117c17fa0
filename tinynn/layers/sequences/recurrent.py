"""Recurrent layers: one step each, and one scan for all of them."""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar

from tinynn import functional
from tinynn.config import require, require_count
from tinynn.functional.errors import ShapeError
from tinynn.functional.lengths import shape_of, valid_rows, without_padding
from tinynn.initializers import Initializer, glorot_uniform, orthogonal, zeros
from tinynn.layers.base import Layer
from tinynn.layers.scope import Array, Scope, Tree
from tinynn.trace import namespace
from tinynn.transforms.scan import scan

Carry = tuple[Array, ...]


@dataclass(frozen=True)
class _Recurrent(Layer):
    gates: ClassVar[int]  # the weights of all gates stand side by side in one array
    carries: ClassVar[int] = 1  # the first of them is the output
    recurrent_bias: ClassVar[bool] = False

    features: int
    _: KW_ONLY
    return_sequences: bool = False
    reverse: bool = False
    bias: bool = True
    weight_init: Initializer = glorot_uniform
    recurrent_init: Initializer = orthogonal
    bias_init: Initializer = zeros

    def __post_init__(self) -> None:
        require_count(self, "features")

    def step(self, carry: Carry, x: Array, product: Array) -> Carry:
        """The next carry, of the products of the input and of the output before it."""
        raise NotImplementedError

    def forward(self, scope: Scope, *inputs: Tree) -> Array:
        x, seen = self._checked(inputs[0] if len(inputs) == 1 else inputs)
        width = self.gates * self.features
        weight = scope.param("weight", self.weight_init, (int(x.shape[-1]), width))
        recurrent = scope.param("recurrent_weight", self.recurrent_init, (self.features, width))
        bias = scope.param("bias", self.bias_init, (width,)) if self.bias else None
        own = self.bias and self.recurrent_bias
        recurrent_bias = scope.param("recurrent_bias", self.bias_init, (width,)) if own else None
        x = functional.linear(without_padding(scope.as_float(x), seen), weight, bias)
        xp = namespace(x, recurrent)
        x = xp.moveaxis(x, 1, 0)

        def body(carry: Carry, row: tuple[Array, ...]) -> tuple[Carry, Array | None]:
            new = self.step(carry, row[0], functional.linear(carry[0], recurrent, recurrent_bias))
            if len(row) == 2:
                pairs = zip(new, carry, strict=True)
                new = tuple(namespace(n, c).where(row[1], n, c) for n, c in pairs)
            return new, new[0] if self.return_sequences else None

        # Made of x, so that a recording for every size of the batch knows whose size it has.
        start = xp.zeros_like(x[0, :, : self.features])
        rows: tuple[Array, ...] = (x,)
        if seen is not None:
            turned = namespace(seen).moveaxis(seen, 0, 1)
            rows = (x, namespace(seen).expand_dims(turned, axis=2))
        carry, ys = scan(body, (start,) * self.carries, rows, reverse=self.reverse)
        return namespace(ys).moveaxis(ys, 0, 1) if self.return_sequences else carry[0]

    def _checked(self, given: Tree) -> tuple[Array, Array | None]:
        x, lengths = given, None
        if isinstance(given, tuple | list):
            if len(given) != 2:
                raise ShapeError(
                    f"{self}: expected an array or a pair (x, lengths), got {len(given)} inputs. "
                    "To fix it: pick the input that this layer is for in a layer of your own"
                )
            x, lengths = given
        if getattr(x, "ndim", 0) != 3 or not x.shape[1]:
            raise ShapeError(
                f"{self}: expected input of shape (batch, time, features), of one step or more, "
                f"got {shape_of(x)}. To fix it: reshape the data; one feature needs an axis, too"
            )
        if lengths is None:
            return x, None
        return x, valid_rows(self, lengths, x.shape[0], x.shape[1])

    def _part(self, x: Array, number: int) -> Array:
        return x[:, number * self.features : (number + 1) * self.features]


@dataclass(frozen=True)
class RNN(_Recurrent):
    """The recurrent layer of Elman: h = tanh(x @ weight + bias + h @ recurrent_weight).

    Parameters
    ----------
    features
        The number of outputs.
    return_sequences
        Give the outputs of all steps; otherwise that of the last one, as in Keras.
    reverse
        Go from the last step to the first. The outputs stand in the order of the input.
    bias
        Add biases.
    weight_init
        A function of (key, shape, dtype) that makes the weight of the input, all gates at once: see
        `tinynn.initializers`.
    recurrent_init
        Likewise for the weight of the output before.
    bias_init
        Likewise for the biases.

    Notes
    -----
    The input is x, (batch, time, inputs), or a pair (x, lengths), or these as two inputs, as `fit`
    gives them. The lengths are (batch,), of an integer dtype: steps from `lengths` on are padding.
    A mask, (batch, time) booleans that are True at valid steps, does as well. Padding steps leave
    the carry as it is, so the output there is that of the last valid step (zeros where `reverse`
    has had none yet), and their values change nothing. Lengths out of range are an error where they
    can be read, in `init` and in a pass that no recording follows; in a compiled program one above
    the number of steps counts as that number. The first carry is zeros. The output is (batch,
    features), of `return_sequences` (batch, time, features).

    Parameters: weight (inputs, features), recurrent_weight (features, features) and bias
    (features,), the sum of PyTorch's two.

    References
    ----------
    Elman 1990, Finding structure in time, Cognitive Science 14.

    Examples
    --------
    >>> import numpy as np
    >>> x, lengths = np.ones((2, 5, 3)), np.asarray([5, 2])
    >>> layer = RNN(4)
    >>> params, state = layer.init(0, x)
    >>> layer(params, x).shape, RNN(4, return_sequences=True)(params, (x, lengths)).shape
    ((2, 4), (2, 5, 4))
    """

    gates = 1

    def step(self, carry: Carry, x: Array, product: Array) -> Carry:
        return (functional.tanh(x + product),)


@dataclass(frozen=True)
class GRU(_Recurrent):
    """The gated recurrent unit, with the reset gate after the product, as in PyTorch and cuDNN.

    Parameters
    ----------
    features, return_sequences, reverse, bias, weight_init, recurrent_init, bias_init
        As for `RNN`.

    Notes
    -----
    With a = x @ weight + bias and b = h @ recurrent_weight + recurrent_bias, cut into three gates
    in PyTorch's order::

        r = sigmoid(a_r + b_r)
        z = sigmoid(a_z + b_z)
        n = tanh(a_n + r * b_n)
        h = (1 - z) * n + z * h

    Input, lengths and output are those of `RNN`. Parameters: weight (inputs, 3 * features),
    recurrent_weight (features, 3 * features), bias and recurrent_bias (3 * features,). Their
    transposes are PyTorch's.

    References
    ----------
    Cho et al. 2014, arXiv:1406.1078.

    Examples
    --------
    >>> import numpy as np
    >>> layer, x = GRU(4), np.ones((2, 5, 3))
    >>> layer(layer.init(0, x)[0], x).shape
    (2, 4)
    """

    gates = 3
    recurrent_bias = True

    def step(self, carry: Carry, x: Array, product: Array) -> Carry:
        (h,) = carry
        r, z = (
            functional.sigmoid(self._part(x, gate) + self._part(product, gate)) for gate in (0, 1)
        )
        n = functional.tanh(self._part(x, 2) + r * self._part(product, 2))
        return ((1.0 - z) * n + z * h,)


@dataclass(frozen=True)
class LSTM(_Recurrent):
    """The long short-term memory.

    Parameters
    ----------
    features, return_sequences, reverse, bias, weight_init, recurrent_init, bias_init
        As for `RNN`.

    Notes
    -----
    With a = x @ weight + bias + h @ recurrent_weight, cut into four gates in PyTorch's order::

        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)
        g = tanh(a_g)
        c = f * c + i * g
        h = o * tanh(c)

    where the order in the weights is i, f, g, o. Input, lengths and output are those of `RNN`; the
    output is h. Parameters: weight (inputs, 4 * features), recurrent_weight (features,
    4 * features) and bias (4 * features,), the sum of PyTorch's two.

    References
    ----------
    Hochreiter and Schmidhuber 1997, Neural Computation 9; Gers et al. 2000 for the forget gate.

    Examples
    --------
    >>> import numpy as np
    >>> layer, x = LSTM(4, return_sequences=True), np.ones((2, 5, 3))
    >>> layer(layer.init(0, x)[0], x).shape
    (2, 5, 4)
    """

    gates = 4
    carries = 2

    def step(self, carry: Carry, x: Array, product: Array) -> Carry:
        c, a = carry[1], x + product
        i, f, o = (functional.sigmoid(self._part(a, gate)) for gate in (0, 1, 3))
        c = f * c + i * functional.tanh(self._part(a, 2))
        return o * functional.tanh(c), c


@dataclass(frozen=True)
class Bidirectional(Layer):
    """A recurrent layer in both directions, each with parameters of its own.

    Parameters
    ----------
    layer
        `RNN`, `GRU` or `LSTM`; the other direction has the same settings but `reverse`.

    Notes
    -----
    The input is that of the layer, and the output (batch, ..., 2 * features): first the layer's,
    then that of the other direction. Parameters: those of the layer under "layer", the others under
    "opposite".

    References
    ----------
    Schuster and Paliwal 1997, IEEE Transactions on Signal Processing 45.

    Examples
    --------
    >>> import numpy as np
    >>> layer, x = Bidirectional(GRU(4)), np.ones((2, 5, 3))
    >>> layer(layer.init(0, x)[0], x).shape
    (2, 8)
    """

    layer: Any

    def __post_init__(self) -> None:
        require(self, "layer", lambda layer: isinstance(layer, _Recurrent), "RNN, GRU or LSTM")

    def forward(self, scope: Scope, *inputs: Tree) -> Array:
        opposite = replace(self.layer, reverse=not self.layer.reverse)
        ys = [scope("layer", self.layer, *inputs), scope("opposite", opposite, *inputs)]
        return namespace(*ys).concat(ys, axis=-1)
