"""Recurrent layers: one step each, and one scan for all of them."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar

from tinynn import functional
from tinynn.config import require, require_count
from tinynn.functional.errors import ShapeError
from tinynn.functional.lengths import shape_of, valid_rows, without_padding
from tinynn.initializers import Initializer, glorot_uniform, orthogonal, zeros
from tinynn.layers.base import Layer
from tinynn.layers.dropout import Dropout, require_rate
from tinynn.layers.scope import Array, Scope, Tree
from tinynn.layers.sequences.inputs import without_cache
from tinynn.trace import backend_of, namespace
from tinynn.transforms.scan import scan

Carry = tuple[Array, ...]


@dataclass(frozen=True)
class _Recurrent(Layer):
    gates: ClassVar[int]  # the weights of all gates stand side by side in one array
    carried: ClassVar[tuple[str, ...]] = ("h",)  # the first of them is the output
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

    def advance(self, carry: Carry, x: Array, weight: Array, bias: Array | None) -> Carry:
        """The next carry, of the input's product and the weight of the output before it."""
        return self.step(carry, x, functional.linear(carry[0], weight, bias))

    def carry(self, x: Array) -> dict[str, Array]:
        """The carry before the first step, zeros: (batch, features) of each of its arrays.

        Parameters
        ----------
        x
            (batch, ...), whose batch, floating dtype and device it has.
        """
        backend = backend_of(x)
        shape = (int(x.shape[0]), self.features)
        with backend.scope():
            # Each in memory of its own, so that they may be donated.
            return {
                name: backend.xp.zeros(shape, dtype=x.dtype, device=backend.device)
                for name in self.carried
            }

    def forward(self, scope: Scope, *inputs: Tree) -> Tree:
        inputs, given = without_cache(inputs)
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
            new = self.advance(carry, row[0], recurrent, recurrent_bias)
            if len(row) == 2:
                pairs = zip(new, carry, strict=True)
                new = tuple(namespace(n, c).where(row[1], n, c) for n, c in pairs)
            return new, new[0] if self.return_sequences else None

        # Made of x, so that a recording for every size of the batch knows whose size it has.
        zero = xp.zeros_like(x[0, :, : self.features])
        start = (zero,) * len(self.carried) if given is None else self._start(scope, given, zero)
        rows: tuple[Array, ...] = (x,)
        if seen is not None:
            turned = namespace(seen).moveaxis(seen, 0, 1)
            rows = (x, namespace(seen).expand_dims(turned, axis=2))
        carry, ys = scan(body, start, rows, reverse=self.reverse)
        y = namespace(ys).moveaxis(ys, 0, 1) if self.return_sequences else carry[0]
        return y if given is None else (y, dict(zip(self.carried, carry, strict=True)))

    def _start(self, scope: Scope, given: dict[str, Any], like: Array) -> Carry:
        """The carry to begin with, which was given."""
        shapes = {name: shape_of(a) for name, a in given.items()}
        if shapes != dict.fromkeys(self.carried, shape_of(like)):
            named = ", ".join(map(repr, self.carried))
            raise ShapeError(
                f"{self}: expected a carry of {named}, each of shape (batch, features), here "
                f"{shape_of(like)}, got {shapes}. To fix it: begin with this layer's carry(x)"
            )
        return tuple(scope.as_float(given[name]) for name in self.carried)

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
    has had none yet), and their values change nothing. Lengths out of range are an error, in
    `init`, in a pass, in `fit` and in `predict`; in a compiled program of one's own one above the
    number of steps counts as that number. The output is (batch, features), of
    `return_sequences` (batch, time, features).

    The first carry is zeros. A dict as the last input is the carry to begin with, {"h": (batch,
    features)}, and the output then is a pair of it and the carry after the last step, from which
    the next call goes on: `y, carry = layer(params, x, carry)`. `carry(x)` makes the first.

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
    reset_after
        Apply the reset gate after the product, as PyTorch and Keras do. False: before it, as the
        paper has it, and ONNX unless told otherwise; there is then one bias, as in Keras.

    Notes
    -----
    With a = x @ weight + bias and b = h @ recurrent_weight + recurrent_bias, cut into three gates
    in PyTorch's order::

        r = sigmoid(a_r + b_r)
        z = sigmoid(a_z + b_z)
        n = tanh(a_n + r * b_n)
        h = (1 - z) * n + z * h

    Without `reset_after` there is n = tanh(a_n + (r * h) @ recurrent_weight_n) instead.

    Input, lengths and output are those of `RNN`. Parameters: weight (inputs, 3 * features),
    recurrent_weight (features, 3 * features), bias and, with `reset_after`, recurrent_bias
    (3 * features,). Their transposes are PyTorch's.

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

    _: KW_ONLY
    reset_after: bool = True

    @property
    def recurrent_bias(self) -> bool:  # type: ignore[override]
        """True if the product with the output before has a bias of its own."""
        return self.reset_after

    def advance(self, carry: Carry, x: Array, weight: Array, bias: Array | None) -> Carry:
        if self.reset_after:
            return super().advance(carry, x, weight, bias)
        (h,), gates = carry, 2 * self.features
        r, z = self._gates(x, functional.linear(h, weight[:, :gates]))
        n = functional.tanh(self._part(x, 2) + functional.linear(r * h, weight[:, gates:]))
        return ((1.0 - z) * n + z * h,)

    def step(self, carry: Carry, x: Array, product: Array) -> Carry:
        (h,), (r, z) = carry, self._gates(x, product)
        n = functional.tanh(self._part(x, 2) + r * self._part(product, 2))
        return ((1.0 - z) * n + z * h,)

    def _gates(self, x: Array, product: Array) -> list[Array]:
        """The reset gate and the update gate."""
        return [
            functional.sigmoid(self._part(x, gate) + self._part(product, gate)) for gate in (0, 1)
        ]


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
    output is h, and a carry has "h" and "c". Parameters: weight (inputs, 4 * features),
    recurrent_weight (features, 4 * features) and bias (4 * features,), the sum of PyTorch's two.

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
    carried = ("h", "c")

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
    "opposite"; a carry has those of both under these names.

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

    def carry(self, x: Array) -> dict[str, Any]:
        """The carry before the first step of both directions: see `RNN`.

        Parameters
        ----------
        x
            (batch, ...), whose batch, floating dtype and device it has.
        """
        return {name: self.layer.carry(x) for name in ("layer", "opposite")}

    def forward(self, scope: Scope, *inputs: Tree) -> Tree:
        inputs, given = without_cache(inputs)
        opposite = replace(self.layer, reverse=not self.layer.reverse)
        both = {"layer": self.layer, "opposite": opposite}
        ys, carry = _carried_through(self, scope, both, lambda _, before: inputs, given)
        y = namespace(*ys).concat(ys, axis=-1)
        return y if given is None else (y, carry)


@dataclass(frozen=True)
class Stacked(Layer):
    """Recurrent layers of the same settings on top of each other, with dropout between.

    Parameters
    ----------
    layer
        `RNN`, `GRU`, `LSTM` or a `Bidirectional` of one: the last layer. Those below it give the
        outputs of all steps.
    layers
        How many there are.
    dropout
        The rate at which outputs of all layers but the last are dropped in training, as PyTorch's
        `dropout=`.

    Notes
    -----
    Input and output are those of `RNN`; lengths go to each layer. Parameters: those of each layer
    under its number, "0" for the first; a carry has those of each under the same names.

    References
    ----------
    Graves, Mohamed and Hinton 2013, arXiv:1303.5778; dropout between: Zaremba et al. 2014,
    arXiv:1409.2329.

    Examples
    --------
    >>> import numpy as np
    >>> layer, x = Stacked(GRU(4), layers=2, dropout=0.1), np.ones((2, 5, 3))
    >>> layer(layer.init(0, x)[0], x).shape
    (2, 4)
    """

    layer: Any
    _: KW_ONLY
    layers: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        kinds = (_Recurrent, Bidirectional)
        expected = "RNN, GRU, LSTM or a Bidirectional of one"
        require(self, "layer", lambda layer: isinstance(layer, kinds), expected)
        require_count(self, "layers")
        require_rate(self, "dropout")

    def carry(self, x: Array) -> dict[str, Any]:
        """The carry before the first step of all layers: see `RNN`.

        Parameters
        ----------
        x
            (batch, ...), whose batch, floating dtype and device it has.
        """
        return {str(i): self.layer.carry(x) for i in range(self.layers)}

    def forward(self, scope: Scope, *inputs: Tree) -> Tree:
        inputs, given = without_cache(inputs)
        x, *lengths = inputs[0] if isinstance(inputs[0], tuple | list) else inputs
        stack = dict.fromkeys(map(str, range(self.layers - 1)), _of_all_steps(self.layer))
        stack[str(self.layers - 1)] = self.layer

        def given_to(name: str, before: list[Array]) -> tuple[Array, ...]:
            if not before:
                return (x, *lengths)
            y = before[-1]
            drop = Dropout(self.dropout)
            return (scope(f"dropout{name}", drop, y) if self.dropout else y, *lengths)

        ys, carry = _carried_through(self, scope, stack, given_to, given)
        return ys[-1] if given is None else (ys[-1], carry)


def _of_all_steps(layer: Any) -> Any:
    if isinstance(layer, Bidirectional):
        return replace(layer, layer=_of_all_steps(layer.layer))
    return replace(layer, return_sequences=True)


def _carried_through(
    layer: Any,
    scope: Scope,
    parts: dict[str, Any],
    given_to: Callable[[str, list[Array]], tuple[Tree, ...]],
    carry: dict[str, Any] | None,
) -> tuple[list[Array], dict[str, Any]]:
    """The outputs of the layers in one, and their carries if one was given.

    given_to: the inputs of a layer, of its name and the outputs of those before it.
    """
    if carry is not None and carry.keys() != parts.keys():
        raise ShapeError(
            f"{layer}: expected a carry with one for each of {', '.join(map(repr, parts))}, got "
            f"one of {', '.join(map(repr, carry))}. To fix it: begin with this layer's carry(x)"
        )
    ys: list[Array] = []
    after: dict[str, Any] = {}
    for name, part in parts.items():
        inputs = given_to(name, ys)
        if carry is None:
            ys.append(scope(name, part, *inputs))
        else:
            y, after[name] = scope(name, part, *inputs, carry[name])
            ys.append(y)
    return ys, after
