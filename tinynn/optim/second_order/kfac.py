"""K-FAC: the natural gradient by Kronecker factors of each dense layer's block."""

from dataclasses import KW_ONLY, dataclass
from math import prod
from typing import Any, NamedTuple

from tinynn import tree
from tinynn.config import label, require
from tinynn.optim.base import Optimizer, State, require_params, required
from tinynn.optim.schedules import NOT_NEGATIVE, is_number
from tinynn.optim.second_order.levenberg_marquardt import POSITIVE
from tinynn.optim.second_order.objective import Objective, Surface
from tinynn.trace import backend_of, namespace
from tinynn.transforms import grad, jvp, vjp, vmap

Array = Any
Tree = Any
_EASE = 19 / 20  # the paper's factor of the damping, in each step
_REFUSED = 2.0  # a further one, where the step was not taken


@dataclass(frozen=True)
class KFAC(Optimizer):
    """K-FAC: natural-gradient steps by Kronecker factors of each layer's Fisher information.

    For networks of `Linear` layers, and for batches too: the matrices that it solves with are of a
    layer's inputs and of its outputs, so that it takes widths that `NaturalGradient` does not. The
    losses are those of it. The length of a step, and how much of the step before is kept, are the
    best by the exact second-order model on the batch, so that there is no learning rate; batches
    are to be large enough, some hundred rows, to speak for the others: of a few rows a step goes as
    far as is best for these alone, and the loss of all may rise without bound.

    Parameters
    ----------
    damping
        What the model's curvature starts to be added, everywhere.
    decay
        What remains of the running means of the factors in each step; a step's own share is never
        less than that of one among the steps so far.
    adapt
        Whether the damping follows how well the model foretells the loss of the batch, and a step
        that makes it rise is not taken.
    with_momentum
        Whether the step before is part of the next.
    l2
        The strength of a penalty, half of it times the squares of the parameters.
    memory_limit
        Bytes that the derivatives of the prediction by the layers' outputs may take.

    Raises
    ------
    ValueError
        For parameters that are not a `Linear`'s, for one that is called more than once, for a loss
        that is not convex in the prediction, and for derivatives above the limit, before they are
        made.

    Notes
    -----
    With a the inputs of a layer, and a 1 for its bias, and s its outputs, its block of the Fisher
    information is taken for `A` x `G`: A the mean of a a^T over rows, G the sum of J^T H J with J
    the derivatives of the prediction by s and H those of the loss by it. J^T H J is what the
    paper's gradients for drawn targets are on average; here nothing is drawn. Where a layer is
    applied along further axes, each place counts as a row.

    The step is the paper's: factored damping (section 6.3), the rescaling and momentum of sections
    6.4 and 7, the running means of section 5. Its damping follows the Levenberg-Marquardt rule of
    section 6.5 in each step, and that of the factors is the root of it (the paper looks at three
    candidates from time to time); the inverses are computed in each step. That a step is not taken
    is not of the paper: it happens where rows are too few.

    References
    ----------
    Martens and Grosse 2015, "Optimizing Neural Networks with Kronecker-factored Approximate
    Curvature", arXiv:1503.05671.

    Examples
    --------
    >>> import numpy as np
    >>> import tinynn
    >>> from tinynn.functional import tanh
    >>> from tinynn.layers import Linear, Sequential
    >>> x = np.linspace(-1.0, 1.0, 40).reshape(-1, 1)
    >>> net = Sequential(Linear(6), tanh, Linear(1))
    >>> model = tinynn.fit(net, x, np.sin(3 * x), optimizer=KFAC(), epochs=60, batch_size=None)
    >>> min(model.history["loss"]) < 1e-2
    True
    """

    damping: float = 1e-2
    _: KW_ONLY
    decay: float = 0.95
    adapt: bool = True
    with_momentum: bool = True
    l2: float = 0.0
    memory_limit: float = 4e9

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "damping", *POSITIVE)
        require(self, "decay", lambda d: is_number(d) and 0 <= d < 1, "a number in [0, 1)")
        require(self, "l2", *NOT_NEGATIVE)
        require(self, "memory_limit", *POSITIVE)

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"objective"}

    def init(self, params: Any) -> State:
        """Factors of zeros, the damping, and no step before."""
        first = require_params(self, params)[0]
        backend = backend_of(first)

        def zeros(array: Array, size: int) -> Array:
            return backend.xp.zeros((size, size), dtype=array.dtype, device=backend.device)

        factors = {
            name: {
                "inputs": zeros(weight, weight.shape[0] + (bias is not None)),
                "outputs": zeros(weight, weight.shape[1]),
            }
            for name, (weight, bias) in self._layers(params).items()
        }
        return {
            "step": backend.asarray(0, dtype=backend.xp.int32),
            "damping": backend.asarray(self.damping, dtype=first.dtype),
            "factors": factors,
            "move": tree.map(lambda leaf: namespace(leaf).zeros_like(leaf), params),
        }

    def update(self, gradients: Any, state: State, params: Any, **extras: Any) -> tuple[Any, Any]:
        """(params, state) one step on; gradients are not looked at.

        extras: objective, an `Objective`.
        """
        objective = required(self, extras)["objective"].penalized(self.l2, params)
        surface, layers = Surface(self, objective, params), self._layers(params)
        point = surface.flat.vector(params)
        value, gradient = surface.value_and_gradient(point)
        step, damping = state["step"] + 1, state["damping"]
        factors = self._averaged(state["factors"], self._factors(objective, params, layers), step)
        xp = namespace(point, damping)
        direction = surface.flat.vector(
            _preconditioned(factors, layers, surface.flat.tree(gradient), xp.sqrt(damping))
        )
        before = surface.flat.vector(state["move"])
        moves = [-direction, before] if self.with_momentum else [-direction]
        move, predicted = self._rescaled(surface, point, gradient, moves, damping)
        new = point + move
        if self.adapt:
            there = surface.value(new)
            damping = _adapted(damping, value - there, predicted)
            falls = there <= value  # False for what is no number
            damping = xp.where(falls, damping, _REFUSED * damping)
            move = xp.where(falls, move, xp.zeros_like(move))
            new = xp.where(falls, new, point)
        return surface.flat.tree(new), {
            "step": step,
            "damping": damping,
            "factors": factors,
            "move": surface.flat.tree(move),
        }

    def _layers(self, params: Tree) -> dict[str, "_Dense"]:
        """The dense layers by path; ValueError for a parameter that is of another kind."""
        found: dict[str, dict[str, Array]] = {}
        for path, leaf in tree.paths(params):
            layer, _, name = path.rpartition(".")
            found.setdefault(layer, {})[name] = leaf
        for layer, own in found.items():
            weight, bias = own.get("weight"), own.get("bias")
            fits = weight is not None and len(weight.shape) == 2
            fits = fits and (bias is None or tuple(bias.shape) == (weight.shape[1],))  # type: ignore[union-attr]
            if not fits or own.keys() - {"weight", "bias"}:
                shapes = ", ".join(f"{name} {tuple(leaf.shape)}" for name, leaf in own.items())
                raise self._not_dense(layer, f"parameters {shapes}")
        return {layer: _Dense(own["weight"], own.get("bias")) for layer, own in found.items()}

    def _not_dense(self, layer: str, got: str) -> ValueError:
        return ValueError(
            f"{label(self)}: expected every parameter to be of a Linear that is called once, got "
            f"{got} for {layer or 'the network'!r}. To fix it: take LevenbergMarquardt or "
            "NaturalGradient, with solver='cg' for large networks, or make the layer a Linear"
        )

    def _factors(
        self, objective: Objective, params: Tree, layers: dict[str, "_Dense"]
    ) -> dict[str, dict[str, Array]]:
        """The factors of each layer's block, on this batch."""
        if objective.tapped is None or objective.cost is None:
            raise ValueError(f"{label(self)}: {objective.unfit}")
        prediction, taps = objective.tapped(params, {})
        inputs = {name: taps.get(f"{name}.input".lstrip(".")) for name in layers}
        outputs = {name: f"{name}.output".lstrip(".") for name in layers}
        for name, weight in layers.items():
            own = inputs[name]
            if own is None or own.shape[-1] != weight.weight.shape[0]:
                raise self._not_dense(name, "a layer that is no Linear")
            if f"{outputs[name]}[1]" in taps:
                raise self._not_dense(name, "a Linear that is called again")
        curvatures = self._of_outputs(
            objective, params, prediction, {path: taps[path] for path in outputs.values()}
        )
        return {
            name: {
                "inputs": _second_moment(inputs[name], layers[name].bias, objective.weights),
                "outputs": curvatures[outputs[name]],
            }
            for name in layers
        }

    def _of_outputs(
        self, objective: Objective, params: Tree, prediction: Array, outputs: dict[str, Array]
    ) -> dict[str, Array]:
        """J^T H J, summed over the rows, by the output of each layer."""
        if not hasattr(prediction, "shape"):
            raise ValueError(
                f"{label(self)}: expected a network that answers with one array, got a tree of "
                "them. To fix it: take LevenbergMarquardt or NaturalGradient"
            )
        xp, answers = namespace(prediction), prod(prediction.shape[1:])
        self._check_memory(answers, outputs, xp)
        zeros = {path: namespace(a).zeros_like(a) for path, a in outputs.items()}
        pullback = vjp(lambda p: objective.tapped(params, p)[0], zeros)[1]  # type: ignore[misc]

        cost: Any = objective.cost

        def curve(change: Array) -> Array:
            return jvp(grad(cost), (prediction,), (change,))[1]

        eye = xp.eye(answers, dtype=prediction.dtype, device=backend_of(prediction).device)
        units = xp.reshape(eye, (answers, 1, *prediction.shape[1:]))
        units = xp.broadcast_to(units, (answers, *prediction.shape))
        rows = prediction.shape[0]
        curved = xp.permute_dims(
            xp.reshape(vmap(curve)(units), (answers, rows, answers)), (1, 2, 0)
        )
        found = {}
        for path, jac in vmap(lambda unit: pullback(unit)[0])(units).items():
            size = jac.shape[-1]
            by_row = xp.permute_dims(xp.reshape(jac, (answers, rows, -1)), (1, 0, 2))
            moved = xp.reshape(xp.matmul(curved, by_row), (-1, size))
            found[path] = xp.matmul(xp.matrix_transpose(xp.reshape(by_row, (-1, size))), moved)
        return found

    def _check_memory(self, answers: int, outputs: dict[str, Array], xp: Any) -> None:
        first = next(iter(outputs.values()))
        numbers = 2 * answers * sum(prod(a.shape) for a in outputs.values())
        needed = xp.finfo(first.dtype).bits // 8 * numbers
        if needed > self.memory_limit:
            raise ValueError(
                f"{label(self)}: expected the derivatives of {answers} answers by the outputs of "
                f"{len(outputs)} layers on a batch of {first.shape[0]} rows to take "
                f"{self.memory_limit / 1e9:.3g} GB at most, got {needed / 1e9:.3g} GB. To fix it: "
                "give smaller batches, or a larger memory_limit"
            )

    def _averaged(self, old: Tree, new: Tree, step: Array) -> Tree:
        """The running means, in which the first steps weigh the same."""

        def mean(old: Array, new: Array) -> Array:
            xp = namespace(old, new, step)
            count = xp.astype(step, old.dtype)
            kept = xp.minimum(1.0 - 1.0 / count, xp.full_like(count, self.decay))
            return xp.add(kept * old, (1.0 - kept) * new)

        return tree.map(mean, old, new)

    def _rescaled(
        self, surface: Surface, point: Array, gradient: Array, moves: list[Array], damping: Array
    ) -> tuple[Array, Array]:
        """(the move, by how much the model falls): the best sum of multiples of these moves."""
        objective, flat = surface.objective, surface.flat
        strengths = surface.strengths(point)

        def predict(vector: Array) -> Array:
            return objective.predict(flat.tree(vector))  # type: ignore[misc]

        cost: Any = objective.cost

        def curve(prediction: Array, change: Array) -> Array:
            return jvp(grad(cost), (prediction,), (change,))[1]

        xp = namespace(point, damping)
        pairs = [jvp(predict, (point,), (move,)) for move in moves]
        changes = [change for _, change in pairs]
        curved = [curve(pairs[0][0], change) for change in changes]

        def form(i: int, j: int) -> Array:
            added = damping if strengths is None else xp.add(strengths, damping)
            own = xp.sum(xp.multiply(added, xp.multiply(moves[i], moves[j])))
            inner = xp.sum(xp.multiply(changes[i], curved[j]))
            return xp.add(xp.astype(inner, own.dtype), own)

        slopes = [xp.vecdot(gradient, move) for move in moves]
        first = form(0, 0)
        tiny = float(xp.finfo(first.dtype).smallest_normal)
        alone = -slopes[0] / (first + tiny)
        if len(moves) == 1:
            return alone * moves[0], -0.5 * alone * slopes[0]
        across, second = form(0, 1), form(1, 1)
        det = first * second - across * across
        # Of the first step there is none before; moves along one another decide nothing either.
        eps = float(xp.finfo(first.dtype).eps)
        regular = det > 100.0 * eps * first * second
        safe = xp.where(regular, det, xp.ones_like(det))
        a = (across * slopes[1] - second * slopes[0]) / safe
        b = (across * slopes[0] - first * slopes[1]) / safe
        a, b = xp.where(regular, a, alone), xp.where(regular, b, xp.zeros_like(b))
        return a * moves[0] + b * moves[1], -0.5 * (a * slopes[0] + b * slopes[1])


class _Dense(NamedTuple):
    weight: Array
    bias: Array | None


def _second_moment(inputs: Array, bias: Array | None, weights: Array | None) -> Array:
    """The mean of a a^T over rows and places; with a bias a has a 1 at its end."""
    xp, size = namespace(inputs), inputs.shape[-1]
    rows = xp.reshape(inputs, (-1, size))
    if bias is not None:
        ones = xp.ones((rows.shape[0], 1), dtype=rows.dtype, device=backend_of(rows).device)
        rows = xp.concat([rows, ones], axis=1)
    if weights is None:
        return xp.matmul(xp.matrix_transpose(rows), rows) / float(rows.shape[0])
    xp = namespace(rows, weights)
    each = xp.reshape(xp.astype(weights, rows.dtype), (-1, 1))
    places = rows.shape[0] // each.shape[0]
    each = xp.reshape(xp.broadcast_to(each, (each.shape[0], places)), (-1, 1))
    return xp.matmul(xp.matrix_transpose(rows), xp.multiply(each, rows)) / xp.sum(each)


def _preconditioned(
    factors: dict[str, dict[str, Array]], layers: dict[str, _Dense], gradients: Tree, root: Array
) -> Tree:
    """The gradients times the inverse of the damped blocks; root: of the damping."""
    given = dict(tree.paths(gradients))
    found = {}
    for name, layer in layers.items():
        place = f"{name}." if name else ""
        xp = namespace(root, given[f"{place}weight"])
        columns = [given[f"{place}weight"]]
        if layer.bias is not None:
            columns.append(xp.expand_dims(given[f"{place}bias"], axis=0))
        gradient = xp.concat(columns) if len(columns) > 1 else columns[0]
        inputs, outputs = _damped(factors[name]["inputs"], factors[name]["outputs"], root)
        left = xp.linalg.solve(inputs, gradient)
        both = xp.matrix_transpose(xp.linalg.solve(outputs, xp.matrix_transpose(left)))
        found[f"{place}weight"] = both[: layer.weight.shape[0], :]
        if layer.bias is not None:
            found[f"{place}bias"] = both[layer.weight.shape[0], :]
    paths = [path for path, _ in tree.paths(gradients)]
    return tree.flatten(gradients)[1].unflatten([found[path] for path in paths])


def _damped(inputs: Array, outputs: Array, root: Array) -> tuple[Array, Array]:
    """Factored Tikhonov damping: the larger factor, by its mean eigenvalue, is added the more."""
    xp = namespace(inputs, outputs, root)
    root = xp.astype(root, inputs.dtype)
    tiny = float(xp.finfo(inputs.dtype).smallest_normal) ** 0.5
    means = [xp.linalg.trace(m) / float(m.shape[0]) + tiny for m in (inputs, outputs)]
    share = xp.sqrt(means[0] / means[1])
    device = backend_of(inputs).device
    eyes = [xp.eye(m.shape[0], dtype=m.dtype, device=device) for m in (inputs, outputs)]
    return inputs + share * root * eyes[0], outputs + root / share * eyes[1]


def _adapted(damping: Array, fall: Array, predicted: Array) -> Array:
    """The damping of the next step: less where the model foretold the loss, more where not."""
    xp = namespace(damping, fall, predicted)
    good, bad = fall > 0.75 * predicted, xp.logical_not(fall >= 0.25 * predicted)
    factor = xp.where(good, xp.full_like(fall, _EASE), xp.ones_like(fall))
    factor = xp.where(bad, xp.full_like(fall, 1.0 / _EASE), factor)
    least = float(xp.finfo(damping.dtype).eps)
    eased = xp.multiply(damping, xp.astype(factor, damping.dtype))
    return xp.maximum(eased, xp.full_like(eased, least))
