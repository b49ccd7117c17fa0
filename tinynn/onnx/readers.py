"""The table from ONNX operators to layers: a row each, called as `row(chain, step)`."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from tinynn import functional
from tinynn.data import host
from tinynn.layers import BatchNorm, Flatten, LayerNorm, Linear
from tinynn.onnx.emitter import DTYPES, OnnxError


class Step(NamedTuple):
    """One operator of a chain: `x` is the name of its input, `given` are its constants by place."""

    operator: str
    name: str
    x: str
    given: Mapping[int, Any]
    attributes: Mapping[str, Any]

    def number(self, name: str, default: float) -> float:
        """An attribute of float32 as the shortest number that is it: 0.9 for 0.8999999762."""
        return float(f"{self.attributes.get(name, default):.7g}")

    def fail(self, expected: str) -> OnnxError:
        """The error for a step of a kind that is not read."""
        return OnnxError(
            f"operator {self.operator} ({self.name}): expected {expected}. To fix it: export the "
            "network without it, or name another output"
        )


class Chain:
    """Layers so far, with their parameters; the last linear layer, as long as it may change.

    `rank` is the number of axes of what the last layer gives.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.layers: list[Any] = []
        self.kept: dict[str, dict[str, dict[str, Any]]] = {"params": {}, "state": {}}
        self._scale: Any = None  # of the input, for the linear layer to come
        self._shift: Any = None

    def add(self, layer: Any, params: Any = None, state: Any = None) -> None:
        """One more layer."""
        if self._scale is not None and not isinstance(layer, Linear):
            raise OnnxError(
                f"factors and shifts before {layer}: expected them beside a product with a matrix. "
                "To fix it: export the network without them"
            )
        if isinstance(layer, Flatten):
            self.rank = 2
        name = str(len(self.layers))
        self.layers.append(layer)
        for kind, arrays in (("params", params), ("state", state)):
            if arrays:
                self.kept[kind][name] = arrays

    def linear(self, weight: Any, bias: Any = None) -> None:
        """x @ weight + bias, of an x that may have to be scaled and shifted before."""
        if self._scale is not None:
            moved = (self._shift + 0 * weight[:, 0]) @ weight
            weight = weight * (self._scale + 0 * weight[:, 0])[:, None]
            bias = moved if bias is None else bias + moved
        params = {"weight": weight} | ({} if bias is None else {"bias": bias})
        self.add(Linear(weight.shape[1], bias=bias is not None), params)
        self._scale = self._shift = None

    def affine(self, step: Step, scale: Any, shift: Any) -> None:
        """x * scale + shift, of vectors or numbers: part of the linear layer before or after."""
        if max(scale.size, shift.size) not in (1, max(scale.shape[-1:] + shift.shape[-1:] + (1,))):
            raise step.fail("a number or a vector of one number for each feature")
        scale, shift = scale.reshape(-1), shift.reshape(-1)
        if self.layers and isinstance(self.layers[-1], Linear):
            params = self.kept["params"][str(len(self.layers) - 1)]
            params["weight"] = params["weight"] * scale
            features = params["weight"].shape[1]
            before = params.get("bias")
            zeros = 0 * params["weight"][0]
            params["bias"] = (zeros if before is None else before * scale) + shift
            self.layers[-1] = Linear(features)
        elif self._scale is None:
            self._scale, self._shift = scale, shift
        else:
            self._scale, self._shift = self._scale * scale, self._shift * scale + shift

    def last_linear(self, step: Step) -> dict[str, Any]:
        """The parameters of the linear layer that comes just before."""
        if not self.layers or not isinstance(self.layers[-1], Linear):
            raise step.fail("a product with a matrix before it")
        return self.kept["params"][str(len(self.layers) - 1)]

    def finish(self) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        """The layers, parameters and state."""
        if self._scale is not None or not self.layers:
            raise OnnxError(
                "expected a network with layers, got one of factors and shifts alone. To fix it: "
                "name another output"
            )
        return self.layers, self.kept["params"], self.kept["state"]


def _gemm(chain: Chain, step: Step) -> None:
    weight, bias, options = step.given.get(1), step.given.get(2), step.attributes
    if weight is None or options.get("transA"):
        raise step.fail("a product of the input with a constant matrix")
    weight = (weight.T if options.get("transB") else weight) * weight.dtype.type(
        options.get("alpha", 1.0)
    )
    if bias is not None:
        bias = (bias * bias.dtype.type(options.get("beta", 1.0))).reshape(-1) + 0 * weight[0]
    chain.linear(weight, bias)


def _matmul(chain: Chain, step: Step) -> None:
    if 1 not in step.given or step.given[1].ndim != 2:
        raise step.fail("a product of the input with a constant matrix")
    chain.linear(step.given[1])


def _arithmetic(scale_and_shift: Callable[[Any], tuple[Any, Any]], either: bool = False) -> Any:
    """x with a constant vector; `either`: the constant may come first as well."""

    def row(chain: Chain, step: Step) -> None:
        ((place, value),) = step.given.items() if len(step.given) == 1 else ((0, None),)
        if value is None or (place == 0 and not either):
            raise step.fail("one constant, after the input")
        if "axis" in step.attributes:  # of opset 6
            raise step.fail("a constant that stands beside the last axes")
        chain.affine(step, *scale_and_shift(value))

    return row


def _scaler(chain: Chain, step: Step) -> None:
    offset, scale = (
        host().asarray(list(step.attributes.get(key, [default])), "float32")
        for key, default in (("offset", 0.0), ("scale", 1.0))
    )
    chain.affine(step, scale, -offset * scale)


def _function(function: Any, **renamed: tuple[str, Any]) -> Any:
    """A plain function; `renamed`: its keyword -> the attribute and that one's default."""

    def row(chain: Chain, step: Step) -> None:
        settings = {key: step.number(*given) for key, given in renamed.items()}
        chain.add(partial(function, **settings) if settings else function)

    return row


def _along_an_axis(function: Any) -> Any:
    """A function along an axis, the last one if no other is named."""

    def row(chain: Chain, step: Step) -> None:
        axis = step.attributes.get("axis", -1)
        last = axis in (-1, chain.rank - 1)
        chain.add(function if last else partial(function, axis=axis))

    return row


def _gelu(chain: Chain, step: Step) -> None:
    if step.attributes.get("approximate", b"none") not in (b"none", "none"):
        raise step.fail("the exact Gelu, approximate='none'")
    chain.add(functional.gelu)


def _flatten(chain: Chain, step: Step) -> None:
    if step.attributes.get("axis", 1) != 1:
        raise step.fail("one row for each sample, axis=1")
    chain.add(Flatten())


def _reshape(chain: Chain, step: Step) -> None:
    shape = [] if 1 not in step.given else step.given[1].tolist()
    if len(shape) != 2 or shape[0] not in (-1, 0):
        raise step.fail("one row for each sample")
    if not (chain.layers and isinstance(chain.layers[-1], Linear)):
        chain.add(Flatten())
    elif shape[1] not in (-1, chain.layers[-1].features):
        raise step.fail("one row for each sample")


def _batch_norm(chain: Chain, step: Step) -> None:
    if set(step.given) != {1, 2, 3, 4} or step.attributes.get("training_mode"):
        raise step.fail("constant parameters")
    if chain.rank != 2:
        raise step.fail("rows, (batch, features)")
    weight, bias, mean, variance = (step.given[place] for place in (1, 2, 3, 4))
    epsilon, usual = step.number("epsilon", 1e-5), BatchNorm().epsilon
    if epsilon == 0 and (variance > 0.999 * usual).all():  # as ours are written; 0 trains badly
        epsilon, variance = usual, (variance - usual).clip(0)
    layer = BatchNorm(momentum=step.number("momentum", 0.9), epsilon=epsilon)
    chain.add(layer, {"weight": weight, "bias": bias}, {"mean": mean, "var": variance})


def _layer_norm(chain: Chain, step: Step) -> None:
    weight, bias = step.given.get(1), step.given.get(2)
    if weight is None or weight.ndim != 1 or step.attributes.get("axis", -1) != -1:
        raise step.fail("one over the last axis, with constant parameters")
    bias = 0 * weight if bias is None else bias
    layer = LayerNorm(epsilon=step.number("epsilon", 1e-5))
    chain.add(layer, {"weight": weight, "bias": bias})


def _two_classes(chain: Chain, step: Step) -> None:
    """(1 - p, p) with p = sigmoid(z) is softmax((0, z))."""
    params = chain.last_linear(step)
    if params["weight"].shape[1] != 1:
        raise step.fail("one output before it")
    both = (params["weight"][0] + 1).reshape(-1).repeat(2) * 0
    both[1] = 1
    params["weight"] = params["weight"] * both
    params["bias"] = params.get("bias", 0 * both[:1]) * both
    chain.layers[-1] = Linear(2)
    chain.add(functional.softmax)


def _cast(chain: Chain, step: Step) -> None:
    """From a number to a float, which the layer to come does by itself."""
    if step.attributes["to"] not in (DTYPES["float32"], DTYPES["float64"]):
        raise step.fail("one to floating-point numbers")


def _nothing(chain: Chain, step: Step) -> None:
    """It changes nothing in inference."""


READERS: dict[str, Callable[[Chain, Step], None]] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _arithmetic(lambda c: (c * 0 + 1, c), either=True),
    "Sub": _arithmetic(lambda c: (c * 0 + 1, -c)),
    "Mul": _arithmetic(lambda c: (c, c * 0), either=True),
    "Div": _arithmetic(lambda c: (1 / c, c * 0)),
    "Scaler": _scaler,
    "Relu": _function(functional.relu),
    "Sigmoid": _function(functional.sigmoid),
    "Tanh": _function(functional.tanh),
    "Softplus": _function(functional.softplus),
    "Elu": _function(functional.elu, alpha=("alpha", 1.0)),
    "LeakyRelu": _function(functional.leaky_relu, slope=("alpha", 0.01)),
    "Softmax": _along_an_axis(functional.softmax),
    "LogSoftmax": _along_an_axis(functional.log_softmax),
    "Gelu": _gelu,
    "silu": _function(functional.silu),
    "of two classes": _two_classes,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Dropout": _nothing,
    "Identity": _nothing,
    "Cast": _cast,
    "ZipMap": _nothing,
}
