"""Layers with options that Hypothesis draws, each beside torch.nn's: what test_drawn_layers does.

A `Pair` is made by a function of (draws of options, a generator of numbers, torch.nn, the kind), in
PyTorch's default dtype, which the test sets to float64.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from tinynn import functional, layers
from tinynn.layers import Linear, Sequential

WIDTH, TIMES = 4, 5


class Pair(NamedTuple):
    """A layer and PyTorch's module, which `call` calls; inputs; and the module's parameters.

    `weights` and `state` give the module's as trees of ours; `keep` are the places of the output
    that count. Both callables give trees of one structure.
    """

    layer: Any
    theirs: Any
    call: Callable[..., Any]
    inputs: tuple[Any, ...]
    weights: Callable[[], Any]
    keep: Any = True
    state: Callable[[], Any] = dict


def array(parameter: Any) -> Any:
    return parameter.detach().numpy().copy()


def both(module: Any, weight: Callable[[Any], Any] = np.transpose) -> dict[str, Any]:
    """Weight and bias of a module of PyTorch's as ours."""
    found = {"weight": weight(array(module.weight))}
    return found if getattr(module, "bias", None) is None else found | {"bias": array(module.bias)}


def same(weight: Any) -> Any:
    return weight


def kernel_last(weight: Any) -> Any:
    """(outputs, inputs / groups, *kernel) as (*kernel, inputs / groups, outputs)."""
    return np.moveaxis(weight, (1, 0), (-2, -1))


def placed(options: Any, call: Callable[[Any], Any], x: Any) -> tuple[str, Any, Any]:
    """Where a layer has its channels; `call`, of channels first, in that layout; and the input."""
    if options.draw(st.booleans(), "channels first"):
        return "first", call, np.moveaxis(x, -1, 1)
    return "last", lambda x: call(x.movedim(-1, 1)).movedim(1, -1), x


def per_axis(options: Any, axes: int, least: int, most: int) -> Any:
    """A number for all axes, or one for each."""
    number = st.integers(least, most)
    return options.draw(st.one_of(number, st.tuples(*(number,) * axes)))


def each(given: Any, axes: int) -> tuple[int, ...]:
    return given if isinstance(given, tuple) else (given,) * axes


def paddings(axes: int, most: int) -> Any:
    """What padding may be: a word, a number, pairs."""
    number = st.integers(0, most)
    words = st.sampled_from(["valid", "same"] + ["causal"] * (axes == 1))
    return st.one_of(words, number, st.tuples(*(st.tuples(number, number),) * axes))


def ends(padding: Any, lengths: Any, reach: Any, stride: Any) -> list[tuple[int, int]]:
    """The definition of padding: before and after, of each axis."""
    if padding == "valid":
        return [(0, 0)] * len(reach)
    if padding == "causal":
        return [(reach[0] - 1, 0)]
    if padding == "same":
        sizes = zip(lengths, reach, stride, strict=True)
        missing = [max((-(-n // s) - 1) * s + r - n, 0) for n, r, s in sizes]
        return [(m // 2, m - m // 2) for m in missing]
    return list(padding) if isinstance(padding, tuple) else [(padding, padding)] * len(reach)


def padded(x: Any, pairs: Any, value: float = 0.0) -> Any:
    """x, (batch, channels, ...), with elements around its last axes, or without those cut."""
    import torch

    turned = [n for pair in reversed(pairs) for n in pair]
    return torch.nn.functional.pad(x, turned, value=value)


def convolved(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    axes, transposed = int(kind[-2]), "Transpose" in kind
    size, stride = per_axis(options, axes, 1, 3), per_axis(options, axes, 1, 2)
    dilation = per_axis(options, axes, 1, 2)
    groups = options.draw(st.sampled_from([1, 2, WIDTH]))
    padding = options.draw(paddings(axes, 1 if transposed else 2))
    bias, out = options.draw(st.booleans()), groups * options.draw(st.integers(1, 2))
    numbers = zip(*(each(given, axes) for given in (size, dilation)), strict=True)
    reach, steps = [(k - 1) * d + 1 for k, d in numbers], each(stride, axes)
    lengths = [options.draw(st.integers(r, max(5, r))) for r in reach]
    settings = {
        "kernel_size": size, "stride": stride, "dilation": dilation, "groups": groups, "bias": bias
    }  # fmt: skip
    ours, more = settings | {"padding": padding}, {}
    if transposed:
        steps_or_gaps = zip(steps, each(dilation, axes), strict=True)
        # PyTorch takes what is less than the stride or the dilation.
        behind = tuple(options.draw(st.integers(0, max(pair) - 1)) for pair in steps_or_gaps)
        more = {"output_padding": behind}
        ours |= more
        if padding not in ("same", "valid"):  # which leave a result of whatever length
            cuts = [low + high for low, high in ends(padding, lengths, reach, steps)]
            sizes = zip(lengths, steps, reach, behind, cuts, strict=True)
            assume(all((n - 1) * s + r + m > cut for n, s, r, m, cut in sizes))
    theirs = getattr(nn, kind)(WIDTH, out, **settings, **more)

    def call(x: Any) -> Any:
        if not transposed:
            return theirs(padded(x, ends(padding, x.shape[2:], reach, steps)))
        # Where no kernel reaches, past the end of "same", there is the bias.
        added = theirs.bias.reshape(-1, *(1,) * axes) if bias else 0.0
        y, whole = theirs(x) - added, [n * s for n, s in zip(x.shape[2:], steps, strict=True)]
        cut = [(-low, -high) for low, high in ends(padding, whole, reach, steps)]
        if padding == "same":  # the length * stride, and what is added
            sizes = zip(y.shape[2:], whole, more["output_padding"], cut, strict=True)
            cut = [(low, n + m - have - low) for have, n, m, (low, _) in sizes]
        return padded(y, cut) + added

    def turned(weight: Any) -> Any:
        if not transposed:
            return kernel_last(weight)
        parts = np.split(weight, groups)  # (inputs, outputs / groups, *kernel)
        return np.concatenate([np.moveaxis(part, (0, 1), (-2, -1)) for part in parts], axis=-1)

    channels, called, x = placed(options, call, draw.normal(size=(2, *lengths, WIDTH)))
    layer = getattr(layers, kind)(out, **ours, channels=channels)
    return Pair(layer, theirs, called, (x,), lambda: both(theirs, turned))


def without(layer: Any, call: Any, x: Any) -> Pair:
    """A layer without parameters."""
    import torch

    return Pair(layer, torch.nn.Identity(), call, (x,), dict)


def pooled(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    import torch

    greatest, axes = kind.startswith("Max"), int(kind[-2])
    window = per_axis(options, axes, 1, 3)
    stride = options.draw(st.none()) or per_axis(options, axes, 1, 3)
    gaps = per_axis(options, axes, 1, 2) if greatest else 1
    numbers = zip(each(window, axes), each(gaps, axes), strict=True)
    reach = [(k - 1) * d + 1 for k, d in numbers]
    padding = options.draw(paddings(axes, min(each(window, axes)) - 1))
    lengths = [options.draw(st.integers(r, 6)) for r in reach]
    steps = each(window if stride is None else stride, axes)
    more = {"dilation": gaps} if greatest else {}
    theirs = getattr(nn, kind)(window, stride=steps, **more)

    def call(x: Any) -> Any:
        pairs = ends(padding, x.shape[2:], reach, steps)
        if greatest:
            return theirs(padded(x, pairs, float("-inf")))
        return theirs(padded(x, pairs)) / theirs(padded(torch.ones_like(x), pairs))

    channels, called, x = placed(options, call, draw.normal(size=(2, *lengths, WIDTH)))
    layer = getattr(layers, kind)(window, stride=stride, padding=padding, channels=channels, **more)
    return without(layer, called, x)


def resized(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    """Pools to a size, Upsample and Pad, over any number of axes."""
    axes = options.draw(st.integers(1, 3))
    x = draw.normal(size=(2, *(options.draw(st.integers(2, 5)) for _ in range(axes)), 3))
    spatial = tuple(range(2, axes + 2))
    size = per_axis(options, axes, 1, 3)
    if "Global" in kind:
        reduced = (lambda x: x.mean(spatial)) if "Avg" in kind else (lambda x: x.amax(spatial))
        channels, _, x = placed(options, reduced, x)
        call = reduced if channels == "first" else lambda x: reduced(x.movedim(-1, 1))
        return without(getattr(layers, kind)(channels=channels), call, x)
    if "Adaptive" in kind:
        module = getattr(nn, f"{kind}{axes}d")(each(size, axes))
        channels, call, x = placed(options, module, x)
        return without(getattr(layers, kind)(size, channels=channels), call, x)
    if kind == "Upsample":
        method = options.draw(st.sampled_from(["nearest", "linear"]))
        mode = ["linear", "bilinear", "trilinear"][axes - 1] if method == "linear" else method
        scale = tuple(float(n) for n in each(size, axes))
        module = nn.Upsample(scale_factor=scale, mode=mode)
        channels, call, x = placed(options, module, x)
        return without(layers.Upsample(size, method=method, channels=channels), call, x)
    pair = st.tuples(st.integers(-1, 2), st.integers(0, 2))
    padding = options.draw(st.one_of(st.integers(0, 2), st.tuples(*(pair,) * axes)))
    value = options.draw(st.sampled_from([0.0, 1.5]))
    pairs = padding if isinstance(padding, tuple) else ((padding, padding),) * axes
    channels, call, x = placed(options, lambda x: padded(x, pairs, value), x)
    return without(layers.Pad(padding, value=value, channels=channels), call, x)


def normalised(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    axes = options.draw(st.integers(1, 3))
    x = draw.normal(size=(3, *(options.draw(st.integers(2, 4)) for _ in range(axes)), WIDTH))
    epsilon = options.draw(st.sampled_from([1e-5, 1e-2]))
    if kind in ("LayerNorm", "RMSNorm"):
        theirs = getattr(nn, kind)(WIDTH, eps=epsilon)
        layer = getattr(layers, kind)(epsilon=epsilon)
        return Pair(layer, theirs, theirs, (x,), lambda: both(theirs, same))
    state: Callable[[], Any] = dict
    if kind == "BatchNorm":
        momentum = options.draw(st.sampled_from([0.1, 0.5]))
        theirs = getattr(nn, f"BatchNorm{axes}d")(WIDTH, eps=epsilon, momentum=momentum)
        make: Any = lambda **more: layers.BatchNorm(momentum=1.0 - momentum, **more)  # noqa: E731

        def state() -> Any:
            return {"mean": array(theirs.running_mean), "var": array(theirs.running_var)}
    elif kind == "InstanceNorm":
        theirs = getattr(nn, f"InstanceNorm{axes}d")(WIDTH, eps=epsilon, affine=True)
        make = layers.InstanceNorm
    else:
        groups = options.draw(st.sampled_from([1, 2, WIDTH]))
        theirs = nn.GroupNorm(groups, WIDTH, eps=epsilon)
        make = lambda **more: layers.GroupNorm(groups, **more)  # noqa: E731
    channels, call, x = placed(options, theirs, x)
    layer = make(epsilon=epsilon, channels=channels)
    return Pair(layer, theirs, call, (x,), lambda: both(theirs, same), True, state)


def reparametrized(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    """Weight or spectral norm of a linear layer or a convolution."""
    times, spectral = options.draw(st.integers(1, 3)), kind == "SpectralNorm"
    linear, bias = options.draw(st.booleans()), options.draw(st.booleans())
    epsilon = options.draw(st.sampled_from([1e-12, 1e-3]))
    x = draw.normal(size=(3, TIMES, WIDTH))
    if linear:
        theirs, layer, turn = nn.Linear(WIDTH, 3, bias=bias), Linear(3, bias=bias), np.transpose
    else:
        theirs, layer = (
            nn.Conv1d(WIDTH, 3, 2, bias=bias),
            layers.Conv1d(3, kernel_size=2, bias=bias),
        )
        turn = kernel_last
    if spectral:
        nn.utils.parametrizations.spectral_norm(theirs, "weight", times, epsilon)
    else:
        nn.utils.parametrizations.weight_norm(theirs)
    hook = theirs.parametrizations.weight

    def weights() -> Any:
        own = {"bias": array(theirs.bias)} if bias else {}
        if spectral:
            return {"layer": {"weight": turn(array(hook.original)), **own}}
        scale, direction = array(hook.original0).reshape(-1), turn(array(hook.original1))
        return {"layer": {"weight_direction": direction, "weight_scale": scale, **own}}

    def state() -> Any:
        if not spectral:
            return {}
        # PyTorch's inputs are (inputs, *kernel), flat; ours (*kernel, inputs).
        right, left = array(hook[0]._u), array(hook[0]._v)
        left = left if linear else left.reshape(WIDTH, 2).T.reshape(-1)
        return {"layer": {"weight_left": left, "weight_right": right}}

    def call(x: Any) -> Any:
        x = x if linear else x.movedim(-1, 1)
        if spectral:
            y = theirs(x)
        else:  # PyTorch 2.13's own function of it has a wrong second derivative by the direction
            direction = hook.original1
            norm = direction.flatten(1).norm(dim=1).reshape(hook.original0.shape)
            f = nn.functional.linear if linear else nn.functional.conv1d
            y = f(x, hook.original0 * direction / norm, theirs.bias)
        return y if linear else y.movedim(1, -1)

    outer: Any = layers.WeightNorm(layer)
    if spectral:
        outer = layers.SpectralNorm(layer, iterations=times, epsilon=epsilon)
    return Pair(outer, theirs, call, (x,), weights, True, state)


ACTIVATIONS = (
    "celu", "elu", "gelu", "glu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh",
    "leaky_relu", "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink",
    "softplus", "softsign", "tanh", "tanh_shrink",
)  # fmt: skip
TORCHS = {
    "hard_silu": "hardswish", "hard_shrink": "hardshrink", "hard_tanh": "hardtanh",
    "log_sigmoid": "logsigmoid", "soft_shrink": "softshrink", "tanh_shrink": "tanhshrink",
}  # fmt: skip


def dense(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    """A linear layer with a function behind it."""
    bias, x = options.draw(st.booleans()), draw.normal(size=(3, TIMES, WIDTH))
    linear, name = nn.Linear(WIDTH, WIDTH, bias=bias), options.draw(st.sampled_from(ACTIVATIONS))
    f = getattr(nn.functional, TORCHS.get(name, name), None)
    if f is None:  # of hard_sigmoid PyTorch has no second derivative
        f = lambda x: nn.functional.relu6(x + 3.0) / 6.0  # noqa: E731
    layer = Sequential(Linear(WIDTH, bias=bias), layers.Lambda(getattr(functional, name)))
    x = x[0] if options.draw(st.booleans()) else x
    return Pair(layer, linear, lambda x: f(linear(x)), (x,), lambda: {"0": both(linear)})


def bilinear(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    bias = options.draw(st.booleans())
    a, b = draw.normal(size=(3, TIMES, 2)), draw.normal(size=(3, TIMES, WIDTH))
    theirs = nn.Bilinear(2, WIDTH, 3, bias=bias)
    turned = lambda weight: np.moveaxis(weight, 0, -1)  # noqa: E731
    return Pair(layers.Bilinear(3, bias=bias), theirs, theirs, (a, b), lambda: both(theirs, turned))


def prelu(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    shared = options.draw(st.booleans())
    theirs = nn.PReLU(1 if shared else WIDTH)
    channels, call, x = placed(options, theirs, draw.normal(size=(3, TIMES, WIDTH)))
    layer = layers.PReLU(shared=shared, channels=channels)
    return Pair(layer, theirs, call, (x,), lambda: both(theirs, same))


def residual(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    wide, x = options.draw(st.booleans()), draw.normal(size=(3, WIDTH))
    out = 3 if wide else WIDTH
    theirs = nn.ModuleDict({"layer": nn.Linear(WIDTH, out)})
    if wide:
        theirs["shortcut"] = nn.Linear(WIDTH, out, bias=options.draw(st.booleans()))
        short: Any = Linear(out, bias=theirs["shortcut"].bias is not None)
    layer = layers.Residual(Linear(out), shortcut=short if wide else None)
    call = lambda x: theirs["layer"](x) + (theirs["shortcut"](x) if wide else x)  # noqa: E731
    return Pair(layer, theirs, call, (x,), lambda: {n: both(m) for n, m in theirs.items()})


def parallel(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    import torch

    widths = options.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    axis = options.draw(st.sampled_from([-1, 1]))
    layer = Sequential(layers.Parallel(*map(Linear, widths)), layers.Concatenate(axis=axis))
    theirs = nn.ModuleList([nn.Linear(WIDTH, n) for n in widths])
    call = lambda x: torch.cat([module(x) for module in theirs], axis)  # noqa: E731
    weights = lambda: {"0": {str(i): both(m) for i, m in enumerate(theirs)}}  # noqa: E731
    return Pair(layer, theirs, call, (draw.normal(size=(3, WIDTH)),), weights)


def squeezed(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    ratio, axes = options.draw(st.sampled_from([1, 2, 16])), options.draw(st.integers(1, 3))
    hidden = max(WIDTH // ratio, 1)
    theirs = nn.ModuleDict(
        {"squeeze": nn.Linear(WIDTH, hidden), "excite": nn.Linear(hidden, WIDTH)}
    )

    def call(x: Any) -> Any:
        means = theirs["squeeze"](x.flatten(2).mean(2)).relu()
        return x * theirs["excite"](means).sigmoid().reshape(*x.shape[:2], *(1,) * axes)

    channels, called, x = placed(options, call, draw.normal(size=(2, *(3,) * axes, WIDTH)))
    layer = layers.SqueezeExcite(ratio, channels=channels)
    return Pair(layer, theirs, called, (x,), lambda: {n: both(m) for n, m in theirs.items()})


def experts(options: Any, draw: Any, nn: Any, kind: str) -> Pair:
    import torch

    count = options.draw(st.integers(1, 4))
    chosen = options.draw(st.integers(1, count))
    theirs = nn.ModuleDict({"gate": nn.Linear(WIDTH, count, bias=False)})
    theirs.update({f"expert{i}": nn.Linear(WIDTH, 3) for i in range(count)})

    def call(x: Any) -> Any:
        shares = theirs["gate"](x).softmax(-1)
        best, places = shares.topk(chosen)
        every = torch.stack([theirs[f"expert{i}"](x) for i in range(count)], -2)
        rows = every.gather(-2, places[..., None].expand(*places.shape, 3))
        return (rows * (best / best.sum(-1, keepdim=True))[..., None]).sum(-2)

    layer = layers.MixtureOfExperts(Linear(3), experts=count, chosen=chosen)
    x = draw.normal(size=(3, TIMES, WIDTH))
    return Pair(layer, theirs, call, (x,), lambda: {n: both(m) for n, m in theirs.items()})


KINDS: dict[str, Callable[..., Pair]] = {
    **{f"Conv{axes}d": convolved for axes in (1, 2, 3)},
    **{f"ConvTranspose{axes}d": convolved for axes in (1, 2, 3)},
    **{f"{kind}Pool{axes}d": pooled for kind in ("Max", "Avg") for axes in (1, 2, 3)},
    **{f"{kind}{of}Pool": resized for kind in ("Adaptive", "Global") for of in ("Avg", "Max")},
    **dict.fromkeys(("Upsample", "Pad"), resized),
    **dict.fromkeys(("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm"), normalised),
    **dict.fromkeys(("WeightNorm", "SpectralNorm"), reparametrized),
    "Linear": dense,
    "Bilinear": bilinear,
    "PReLU": prelu,
    "Residual": residual,
    "Parallel": parallel,
    "SqueezeExcite": squeezed,
    "MixtureOfExperts": experts,
}
