"""The table from ONNX operators to layers and functions: a row each, called as `row(build, step)`.

Layers have channels first, as the file; their weights are turned into the order of ours.
"""

from collections.abc import Callable
from functools import partial
from operator import pow, sub, truediv
from typing import Any

from tinynn import functional
from tinynn.layers import BatchNorm, Dropout, LayerNorm
from tinynn.onnx import operators, recurrent_readers, scan_reader, shape_readers, spatial_readers
from tinynn.onnx.builder import Builder
from tinynn.onnx.emitter import DTYPES
from tinynn.onnx.network import ChannelsFirst
from tinynn.onnx.source import Step

Row = Callable[[Builder, Step], None]
FLOATS = (DTYPES["float32"], DTYPES["float64"])
NAMES = {number: name for name, number in DTYPES.items()}


# --- products and sums


def _gemm(build: Builder, step: Step) -> None:
    weight, bias, options = step.given(1), step.given(2), step.attributes
    alpha, beta = options.get("alpha", 1.0), options.get("beta", 1.0)
    flat = bias is None or bias.size == bias.shape[-1] if bias is None or bias.ndim else True
    if weight is None or options.get("transA") or not flat or (bias is None and step.input(2)):
        settings = {"alpha": alpha, "beta": beta}
        settings |= {f"trans_{m.lower()}": bool(options.get(f"trans{m}")) for m in "AB"}
        build.call(step, partial(operators.gemm, **settings))
        return
    weight = (weight.T if options.get("transB") else weight) * weight.dtype.type(alpha)
    if bias is not None:
        bias = (bias * bias.dtype.type(beta)).reshape(-1) + 0 * weight[0]
    build.linear(step, weight, bias, (step.input(1), step.input(2)))


def _matmul(build: Builder, step: Step) -> None:
    weight = step.given(1)
    if weight is None or weight.ndim != 2 or step.rank() < 2:
        build.call(step, operators.KNOWN["matmul"])
    else:
        build.linear(step, weight, None, (step.input(1),))


def _arithmetic(function: Any, as_affine: Callable[[Any], Any], either: bool = False) -> Row:
    """Of two arrays, one of which may be constant; `either`: the constant may come first too.

    as_affine: the scale and the shift that a constant stands for.
    """

    def row(build: Builder, step: Step) -> None:
        if "axis" in step.attributes:  # of opset 6
            _stand_beside(build, step)
        places = [place for place in (0, 1) if step.given(place) is not None]
        constant = step.given(places[0]) if len(places) == 1 else None
        fits = constant is not None and constant.dtype.kind == "f"
        if fits and (either or places == [1]):
            scale, shift = as_affine(constant)
            build.affine(step, scale, shift, 1 - places[0])
        else:
            build.call(step, function)

    return row


def _stand_beside(build: Builder, step: Step) -> None:
    """Let the second array of an operator of opset 6 stand beside the axes from `axis` on."""
    array, rank = step.given(1), step.rank()
    behind = rank - step.attributes["axis"] % rank - step.rank(1)
    if behind and array is None:
        raise step.fail("arrays that stand beside the last axes")
    if behind:
        build.source.constants[step.input(1)] = array.reshape(*array.shape, *(1,) * behind)


def _times(build: Builder, step: Step) -> None:
    for x, gate in (step.inputs, step.inputs[::-1]):
        call = build.maker(gate)
        if call and call.layer is functional.sigmoid and call.args == (build.value(x),):
            build.drop(call)
            build.call(step, functional.silu, [x])
            return
    _MULTIPLIED(build, step)


_MULTIPLIED = _arithmetic(operators.KNOWN["mul"], lambda c: (c, None), either=True)


_DIVIDED = _arithmetic(truediv, lambda c: (1 / c, None))


def _divide(build: Builder, step: Step) -> None:
    if step.source.kind(step.outputs[0]) not in (0, *FLOATS):
        raise step.fail("floating-point numbers")
    _DIVIDED(build, step)


def _scaler(build: Builder, step: Step) -> None:
    offset, scale = (
        build.source.vector(step.attributes.get(key, [default]))
        for key, default in (("offset", 0.0), ("scale", 1.0))
    )
    build.affine(step, scale, -offset * scale)


# --- functions


def _plain(function: Any, **settings: Any) -> Row:
    """A function of all inputs."""
    call = partial(function, **settings) if settings else function
    return lambda build, step: _done(build.call(step, call))


def _named(name: str) -> Row:
    return _plain(operators.KNOWN[name])


def _done(_: Any) -> None:
    """A row gives nothing."""


def _function(function: Any, **renamed: tuple[str, Any]) -> Row:
    """A function of all inputs; `renamed`: its keyword -> the attribute and that one's default."""

    def row(build: Builder, step: Step) -> None:
        settings = {key: step.scalar(*given) for key, given in renamed.items()}
        build.call(step, partial(function, **settings) if settings else function)

    return row


def _along_an_axis(function: Any, log: bool = False) -> Row:
    """softmax, along the last axis if no other is named; before opset 13 over all from one on."""

    def row(build: Builder, step: Step) -> None:
        rank, old = step.rank(), step.source.opset < 13
        axis = step.attributes.get("axis", 1 if old else -1) % rank
        if old and axis < rank - 1:
            over = tuple(range(axis, rank))
            build.call(step, partial(operators.softmax_over, axis=over, log=log))
        else:
            build.call(step, function if axis == rank - 1 else partial(function, axis=axis))

    return row


def _celu(build: Builder, step: Step) -> None:
    alpha = step.scalar("alpha", 1.0)
    if alpha <= 0:
        raise step.fail("a positive alpha")
    build.call(step, partial(operators.celu, alpha=alpha))


def _hardmax(build: Builder, step: Step) -> None:
    rank, old = step.rank(), step.source.opset < 13
    axis = step.attributes.get("axis", 1 if old else -1) % rank
    if old and axis < rank - 1:
        raise step.fail("the last axis alone")
    build.call(step, partial(operators.hardmax, axis=axis))


def _attention(build: Builder, step: Step) -> None:
    if any(map(step.input, (4, 5, 6))) or any(
        name in step.source.uses for name in step.outputs[1:]
    ):
        raise step.fail("attention without keys of the past, and its first output alone")
    if step.scalar("softcap", 0.0) or step.scalar("softmax_precision", FLOATS[0]) not in FLOATS:
        raise step.fail("no softcap, and a softmax in float32 or float64")
    settings = {
        "heads": step.scalar("q_num_heads", 0), "key_heads": step.scalar("kv_num_heads", 0),
        "scale": step.scalar("scale", None), "causal": bool(step.scalar("is_causal", 0)),
    }  # fmt: skip
    given = {name: value for name, value in settings.items() if value or name == "scale"}
    build.call(step, partial(operators.attention, **given), [n for n in step.inputs[:4] if n])


def _gelu(build: Builder, step: Step) -> None:
    approximate = step.text("approximate", "none") == "tanh"
    build.call(step, operators.gelu_tanh if approximate else functional.gelu)


def _clip(build: Builder, step: Step) -> None:
    ends = [step.scalar(name, None, place) for place, name in enumerate(("min", "max"), 1)]
    given = {k: end for k, end in zip(("low", "high"), ends, strict=True) if end is not None}
    build.call(step, partial(operators.clip, **given), [step.input(0)])


def _prelu(build: Builder, step: Step) -> None:
    slope = step.known(1, "slopes")
    if step.source.opset < 7 and slope.size > 1:  # one for each channel, which is the first axis
        shape = (-1, *(1,) * (step.rank() - 2))
        build.source.constants[step.input(1)] = slope.reshape(shape)
    build.call(step, operators.prelu)


def _dropout(build: Builder, step: Step) -> None:
    if step.input(2) and step.known(2, "training_mode").any():
        raise step.fail("inference, training_mode=False")
    if len(step.outputs) > 1 and step.outputs[1] in step.source.uses:
        raise step.fail("no use of its mask")
    rate = float(step.scalar("ratio", 0.5, 1))
    if 0.0 < rate < 1.0:
        build.call(step, Dropout(rate), [step.input(0)])
    else:
        build.alias(step, step.input(0))


def _cast(build: Builder, step: Step) -> None:
    """From one float to another, or to that of a linear layer, is what layers do themselves."""
    to, of = step.attributes["to"], step.source.kind(step.input(0))
    if to not in NAMES:
        raise step.fail(f"one to {', '.join(NAMES.values())}")
    if to in FLOATS and (of in FLOATS or _is_for_products(step)):
        build.alias(step, step.input(0))
    else:
        build.call(step, partial(operators.astype, dtype=NAMES[to]))


def _is_for_products(step: Step) -> bool:
    """True if all that takes the result is a linear layer."""
    (made,) = step.outputs
    users = [node for node in step.source.nodes if made in step.source.read_by(node)]
    return made != step.source.output and all(
        node.op_type in ("Gemm", "MatMul")
        and made == node.input[0]
        and step.source.given(node.input[1]) is not None
        and not any(a.name == "transA" and a.i for a in node.attribute)
        for node in users
    )


def _nothing(build: Builder, step: Step) -> None:
    """It changes nothing."""
    build.alias(step, step.input(0))


# --- reductions


def _reduction(name: str) -> Row:
    function = operators.KNOWN[f"reduce_{name}"]
    rounds = name in ("mean", "l2", "log_sum", "logsumexp")

    def row(build: Builder, step: Step) -> None:
        if rounds and step.source.kind(step.outputs[0]) not in (0, *FLOATS):
            raise step.fail("floating-point numbers")
        axes = step.integers("axes", 1)
        if not axes and step.attributes.get("noop_with_empty_axes"):
            build.alias(step, step.input(0))
            return
        keep = bool(step.attributes.get("keepdims", 1))
        settings: dict[str, Any] = {"axis": tuple(axes)} if axes else {}
        settings |= {} if keep else {"keepdims": False}
        call = partial(function, **settings) if settings else function
        build.call(step, call, [step.input(0)])

    return row


def _largest(name: str) -> Row:
    def row(build: Builder, step: Step) -> None:
        if step.attributes.get("select_last_index"):
            raise step.fail("the first of equal elements, select_last_index=0")
        keep = bool(step.attributes.get("keepdims", 1))
        axis = step.attributes.get("axis", 0)
        build.call(step, partial(operators.KNOWN[name], axis=axis, keepdims=keep))

    return row


def _remainder(build: Builder, step: Step) -> None:
    if step.attributes.get("fmod"):
        raise step.fail("the sign of the divisor, fmod=0")
    build.call(step, operators.KNOWN["remainder"])


# --- norms


def _batch_norm(build: Builder, step: Step) -> None:
    if step.attributes.get("training_mode") or not step.attributes.get("spatial", 1):
        raise step.fail("statistics for each channel, of inference")
    weight, bias, mean, variance = (step.known(i, "statistics") for i in range(1, 5))
    epsilon, usual = step.scalar("epsilon", 1e-5), BatchNorm().epsilon
    if epsilon == 0 and (variance > 0.999 * usual).all():  # as ours are written; 0 trains badly
        epsilon, variance = usual, (variance - usual).clip(0)
    layer: Any = BatchNorm(momentum=step.scalar("momentum", 0.9), epsilon=epsilon)
    params: dict[str, Any] = {"weight": weight, "bias": bias}
    state: dict[str, Any] = {"mean": mean, "var": variance}
    if step.rank() != 2:
        layer, params, state = ChannelsFirst(layer), {"layer": params}, {"layer": state}
    build.call(step, layer, [step.input(0)], params, state, arrays=step.inputs[1:5])


def _layer_norm(build: Builder, step: Step) -> None:
    weight, bias, axis = step.given(1), step.given(2), step.attributes.get("axis", -1)
    epsilon = step.scalar("epsilon", 1e-5)
    last = axis in (-1, step.rank() - 1) and step.shape()[-1]
    fits = weight is not None and weight.ndim == 1 and last in (None, weight.size)
    if fits and not (bias is None and step.input(2)):
        bias = 0 * weight + (0 if bias is None else bias)
        params = {"weight": weight, "bias": bias}
        build.call(step, LayerNorm(epsilon=epsilon), [step.input(0)], params,
                   arrays=step.inputs[1:])  # fmt: skip
    else:
        build.call(step, partial(operators.layer_norm, axis=axis, epsilon=epsilon))


def _mean_variance(build: Builder, step: Step) -> None:
    axes = tuple(step.attributes.get("axes", (0, 2, 3)))
    build.call(step, partial(operators.mean_variance_norm, axis=axes))


EPSILON = ("epsilon", 1e-5)
READERS: dict[str, Row] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _arithmetic(operators.KNOWN["add"], lambda c: (None, c), either=True),
    "Sub": _arithmetic(sub, lambda c: (None, -c)),
    "Mul": _times,
    "Div": _divide,
    "Pow": _plain(pow),
    "Mod": _remainder,
    "Max": _named("maximum"),
    "Min": _named("minimum"),
    "Sum": _named("add"),
    "Mean": _plain(operators.mean_of),
    "Scaler": _scaler,
    **{
        operator: _named(name)
        for operator, name in {
            "Neg": "negative",
            "Not": "logical_not",
            "IsInf": "isinf",
            "IsNaN": "isnan",
            "BitwiseNot": "bitwise_invert",
            "GreaterOrEqual": "greater_equal",
            "LessOrEqual": "less_equal",
            **{n.capitalize(): n for n in ("equal", "greater", "less", "where")},
            **{n: f"logical_{n.lower()}" for n in ("And", "Or", "Xor")},
            **{f"Bitwise{n}": f"bitwise_{n.lower()}" for n in ("And", "Or", "Xor")},
            **{
                n.capitalize(): n
                for n in operators.UNARY
                if "_" not in n and n not in ("negative", "isinf", "isnan")
            },
            "Erf": "erf",
        }.items()
    },
    "Relu": _function(functional.relu),
    "Sigmoid": _function(functional.sigmoid),
    "Tanh": _function(functional.tanh),
    "Softplus": _function(functional.softplus),
    "Elu": _function(functional.elu, alpha=("alpha", 1.0)),
    "LeakyRelu": _function(functional.leaky_relu, slope=("alpha", 0.01)),
    "Softmax": _along_an_axis(functional.softmax),
    "LogSoftmax": _along_an_axis(functional.log_softmax, log=True),
    "Gelu": _gelu,
    "Attention": _attention,
    "Selu": _function(operators.selu, alpha=("alpha", 1.6732632), gamma=("gamma", 1.0507010)),
    "Celu": _celu,
    "HardSigmoid": _function(operators.hard_sigmoid, alpha=("alpha", 0.2), beta=("beta", 0.5)),
    "HardSwish": _function(operators.hard_swish),
    "Hardmax": _hardmax,
    "Mish": _function(operators.mish),
    "Softsign": _function(operators.softsign),
    "Swish": _function(operators.swish, alpha=("alpha", 1.0)),
    "ThresholdedRelu": _function(operators.thresholded_relu, alpha=("alpha", 1.0)),
    "Shrink": _function(operators.shrink, lambd=("lambd", 0.5), bias=("bias", 0.0)),
    "PRelu": _prelu,
    "Clip": _clip,
    **{
        f"Reduce{operator}": _reduction(name)
        for operator, name in {
            "LogSum": "log_sum",
            "LogSumExp": "logsumexp",
            "SumSquare": "sum_square",
            **{n.capitalize(): n for n in ("l1", "l2", *operators.REDUCED)},
        }.items()
    },
    "ArgMax": _largest("argmax"),
    "ArgMin": _largest("argmin"),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _function(operators.rms_norm, axis=("axis", -1), epsilon=EPSILON),
    "InstanceNormalization": _function(operators.instance_norm, epsilon=EPSILON),
    "GroupNormalization": _function(
        operators.group_norm, groups=("num_groups", 1), epsilon=EPSILON
    ),
    "LpNormalization": _function(operators.lp_norm, axis=("axis", -1), p=("p", 2)),
    "LRN": _function(
        operators.local_response_norm, size=("size", 1), alpha=("alpha", 1e-4),
        beta=("beta", 0.75), bias=("bias", 1.0),
    ),
    "MeanVarianceNormalization": _mean_variance,
    "Dropout": _dropout,
    "Identity": _nothing,
    "Cast": _cast,
    "ZipMap": _nothing,
    **shape_readers.READERS,
    **spatial_readers.READERS,
    **recurrent_readers.READERS,
    "Scan": lambda build, step: scan_reader.scan(READERS, build, step),
}  # fmt: skip
