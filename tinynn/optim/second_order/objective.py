"""The loss as methods of second order see it: a function of one vector, or of what a network
answers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tinynn import tree
from tinynn.config import label
from tinynn.optim.base import require_params
from tinynn.optim.flat import Flat
from tinynn.optim.second_order.linearized import (
    Dual,
    Linearized,
    Normal,
    Orthogonal,
    Products,
)
from tinynn.trace import backend_of, namespace
from tinynn.transforms import grad, jacobian, jvp, value_and_grad, vjp, vmap
from tinynn.transforms.derived import _basis as basis

Array = Any
Tree = Any

_DENSE = 2500  # parameters, or answers, up to which a matrix of their squares is made unasked


@dataclass(frozen=True)
class Objective:
    """What is made small, given to an optimizer that needs more of it than a gradient.

    Attributes
    ----------
    loss
        params -> 0-d array, all penalties included.
    predict
        params -> tree of arrays, of which the loss is a function; None where it is of no other.
    cost
        What `predict` gives -> 0-d array: the loss but for penalties. It is convex.
    row
        (params, row) -> what `predict` gives for a row of `rows`, where no other row counts for it.
    rows
        Tree of arrays with one row for each of the prediction, or None.
    strengths
        A tree like the params of 0-d arrays or numbers, or None: the penalty is half their product
        with the squares of the params.
    is_residual
        True if `cost` is half the sum of the squares of the prediction.
    tapped
        (params, perturbations) -> (prediction, taps): paths and what a layer showed with
        `scope.tap` there, the "input" and "output" of each `Linear` among them; or None.
    weights
        (rows,), of each row of the prediction in the cost, or None where all weigh the same.
    unfit
        Why the loss is no function `cost` of `predict`, where it is not.
    """

    loss: Callable[[Tree], Array]
    predict: Callable[[Tree], Tree] | None = None
    cost: Callable[[Tree], Array] | None = None
    row: Callable[[Tree, Tree], Tree] | None = None
    rows: Tree = None
    strengths: Tree = None
    is_residual: bool = False
    tapped: Callable[[Tree, dict[str, Array]], tuple[Tree, dict[str, Array]]] | None = None
    weights: Array = None
    unfit: str = ""

    def penalized(self, strength: float, params: Tree) -> "Objective":
        """The objective with strength / 2 times the squares of all params added."""
        if not hasattr(strength, "dtype") and not strength:  # one of many networks is an array
            return self
        own = self.strengths
        if own is None:
            own = tree.map(lambda leaf: 0.0, params)

        def loss(params: Tree) -> Array:
            value = self.loss(params)
            for leaf in tree.leaves(params):
                xp = namespace(leaf)
                value = value + 0.5 * strength * xp.sum(leaf * leaf)
            return value

        strengths = tree.map(lambda each: each + strength, own)
        return replace(self, loss=loss, strengths=strengths)


class Surface:
    """An objective over the vector of all parameters, for one optimizer.

    owner: has `memory_limit` and `solver`, and says its name in errors.
    """

    def __init__(self, owner: Any, objective: Objective, params: Tree) -> None:
        self.owner, self.objective = owner, objective
        self.flat = Flat(require_params(owner, params), tree.flatten(params)[1])

    def value(self, vector: Array) -> Array:
        """The loss, 0-d, of the vector's dtype."""
        value = self.objective.loss(self.flat.tree(vector))
        return namespace(value).astype(value, self.flat.dtype)

    def value_and_gradient(self, vector: Array) -> tuple[Array, Array]:
        """(value, gradient): 0-d and (n,)."""
        value, gradient = value_and_grad(self.value)(vector)
        return value, gradient

    def hessian(self, vector: Array) -> Callable[[Array], Array]:
        """The Hessian times a vector, as a function of that."""
        return lambda direction: jvp(grad(self.value), (vector,), (direction,))[1]

    def linearized(self, vector: Array) -> Linearized:
        """What the loss is near a point, if the prediction were linear in the parameters there."""
        said = self.objective
        if said.predict is None or said.cost is None:
            raise ValueError(f"{label(self.owner)}: {said.unfit}")
        prediction = said.predict(self.flat.tree(vector))
        outputs = Flat.of(prediction)
        strengths = self.strengths(vector)
        if not self._is_dense(outputs.size):
            return self._products(vector, outputs, strengths)
        jac = self._jacobian(vector, prediction, outputs)
        answers = outputs.vector(prediction)
        if said.is_residual and strengths is None:
            return Orthogonal(answers, jac)
        value, slope, curve = self._cost(outputs, answers)
        xp = namespace(jac, slope)
        curved = vmap(curve, 1, 1)(jac)
        gradient, pull = xp.matmul(slope, jac), None
        if strengths is not None:
            # Functions, not operators: the strengths may be known where the vector is recorded.
            xp = namespace(strengths, vector, jac)
            pull = xp.multiply(strengths, vector)
            value = value + 0.5 * xp.vecdot(pull, vector)
            gradient = gradient + pull
        if outputs.size < self.flat.size:
            return Dual(value, gradient, jac, curved, slope, curve, pull, strengths)
        matrix = xp.matmul(xp.matrix_transpose(jac), curved)
        if strengths is not None:
            matrix = xp.add(matrix, xp.multiply(strengths, _eye(vector)))
        return Normal(value, gradient, matrix, curved)

    def second(self, vector: Array, direction: Array) -> Array:
        """(m,): the second derivatives of the prediction along a direction."""
        predict = self.objective.predict
        assert predict is not None

        def answer(vector: Array) -> Array:
            out = predict(self.flat.tree(vector))
            return Flat.of(out).vector(out)

        def along(vector: Array) -> Array:
            return jvp(answer, (vector,), (direction,))[1]

        return jvp(along, (vector,), (direction,))[1]

    def _cost(self, outputs: Flat, answers: Array) -> tuple[Array, Array, Callable[[Array], Array]]:
        """(the cost, its gradient by the prediction, its Hessian times a vector as a function)."""

        def cost(answers: Array) -> Array:
            assert self.objective.cost is not None
            return self.objective.cost(outputs.tree(answers))

        value, slope = value_and_grad(cost)(answers)
        return value, slope, lambda t: jvp(grad(cost), (answers,), (t,))[1]

    def _products(self, vector: Array, outputs: Flat, strengths: Array | None) -> Products:
        predict = self.objective.predict
        assert predict is not None

        def answer(vector: Array) -> Array:
            return outputs.vector(predict(self.flat.tree(vector)))

        answers, pullback = vjp(answer, vector)
        value, slope, curve = self._cost(outputs, answers)
        gradient = pullback(slope)[0]

        def pulled(change: Array) -> Array:
            out: Array = pullback(curve(change))[0]
            return out

        def product(direction: Array) -> Array:
            moved = pulled(jvp(answer, (vector,), (direction,))[1])
            if strengths is None:
                return moved
            xp = namespace(strengths, direction)
            return moved + xp.multiply(strengths, direction)

        if strengths is not None:
            xp = namespace(strengths, vector)
            shares = xp.multiply(strengths, vector)
            value = value + 0.5 * xp.vecdot(shares, vector)
            gradient = gradient + shares
        return Products(
            value, gradient, product, pulled, self.owner.cg_steps, self.owner.cg_tolerance
        )

    def _jacobian(self, vector: Array, prediction: Tree, outputs: Flat) -> Array:
        """(m, n), all derivatives of the prediction's entries."""
        said, xp = self.objective, namespace(vector)
        if said.row is None:
            return jacobian(lambda v: outputs.vector(said.predict(self.flat.tree(v))))(vector)  # type: ignore[misc]
        params = self.flat.tree(vector)

        def of_row(row: Tree) -> Array:
            def answer(params: Tree) -> Array:
                out = said.row(params, row)  # type: ignore[misc]
                return namespace(out).reshape(out, (-1,))

            answers, pullback = vjp(answer, params)
            if answers.shape[0] == 1:
                only = self.flat.vector(pullback(namespace(answers).ones_like(answers))[0])
                return namespace(only).expand_dims(only, axis=0)
            return vmap(lambda unit: self.flat.vector(pullback(unit)[0]))(basis(answers))

        each = vmap(of_row)(said.rows)
        return xp.reshape(each, (outputs.size, self.flat.size))

    def strengths(self, vector: Array) -> Array | None:
        """The strengths of the penalty for each number of the vector."""
        if self.objective.strengths is None:
            return None
        given, xp = tree.leaves(self.objective.strengths), namespace(vector)
        asarray, dtype = backend_of(vector).asarray, self.flat.dtype
        parts = []
        for strength, size in zip(given, self.flat.sizes, strict=True):
            one = strength if hasattr(strength, "dtype") else asarray(strength, dtype=dtype)
            one = xp.astype(xp.reshape(one, (1,)), dtype)
            parts.append(xp.broadcast_to(one, (size,)))
        return xp.concat(parts)

    def _is_dense(self, answers: int) -> bool:
        """Whether matrices are made; ValueError for those asked for that are too large."""
        owner, n = self.owner, self.flat.size
        if owner.solver == "cg":
            return False
        bits = namespace(self.flat.leaves[0]).finfo(self.flat.dtype).bits
        # The QR decomposition of residuals is of as many columns as there are parameters.
        fewer = n if self.objective.is_residual else min(answers, n)
        jacobians = 3 if fewer < n else 2
        needed = bits // 8 * (jacobians * answers * n + 3 * fewer * fewer)
        if owner.solver == "auto":
            return fewer <= _DENSE and needed <= owner.memory_limit
        if needed > owner.memory_limit:
            raise ValueError(
                f"{label(owner)}: expected a Jacobian of {answers} outputs by {n} parameters, with "
                f"what is made of it, to take {owner.memory_limit / 1e9:.3g} GB at most, got "
                f"{needed / 1e9:.3g} GB. To fix it: take "
                f"{type(owner).__name__}(solver='cg'), which makes no matrix, smaller batches, or "
                "a larger memory_limit"
            )
        return True


def gain_ratio(fall: Array, predicted: Array) -> Array:
    """The ratio of the fall of the loss to the fall that the model predicted; 0 without one."""
    xp = namespace(fall, predicted)
    falls = predicted > 0
    by = xp.where(falls, predicted, xp.ones_like(predicted))
    return xp.where(falls, fall / by, xp.zeros_like(by))


def _eye(vector: Array) -> Array:
    xp = namespace(vector)
    return xp.eye(vector.shape[0], dtype=vector.dtype, device=backend_of(vector).device)
