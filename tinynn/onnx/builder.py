"""Builder: the network that is read, call after call."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import add, mul
from typing import Any, NamedTuple

from tinynn import tree
from tinynn.layers import Layer, Linear, Sequential
from tinynn.onnx import operators
from tinynn.onnx.emitter import OnnxError
from tinynn.onnx.network import Call, GraphNetwork
from tinynn.onnx.source import Source, Step

#: What a value of the file is: the name of a result, or a number.
Value = Any


class _Affine(NamedTuple):
    """x * scale + shift, of vectors or numbers, and the calls that compute it."""

    x: str
    scale: Any
    shift: Any
    calls: tuple[str, ...]


class Builder:
    """Calls so far, and the arrays that they take, by the names of values in the file.

    Operators between linear layers and around them become part of these where they can: products
    and sums with vectors, as in a scaler before the network.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.calls: dict[str, Call] = {}
        self.params: dict[str, Any] = {}
        self.state: dict[str, Any] = {}
        self._values: dict[str, Value] = {}  # of names in the file
        self._arrays: dict[str, str] = {}  # names in the file -> among params or state
        self._children: dict[Any, str] = {}  # (layer, names of its arrays) -> child
        self._affine: dict[str, _Affine] = {}  # by the name of the result
        self._taken: set[str] = set()
        for place, name in enumerate(source.inputs):
            self._values[name] = self.unique("x" if len(source.inputs) == 1 else f"x{place}")

    def unique(self, name: str) -> str:
        """An identifier like this one that no other value has."""
        plain = re.sub(r"\W+", "_", name).strip("_").lower() or "value"
        found, count = plain, 1
        while found in self._taken:
            count += 1
            found = f"{plain}_{count}"
        self._taken.add(found)
        return found

    # --- values

    def value(self, name: str) -> Value:
        """A value of the file among the network's: the name of a result or array, or a number."""
        if name in self._values:
            return self._values[name]
        if name not in self.source.constants:
            raise OnnxError(
                f"expected {name!r} to follow from the network's input by operators that are read. "
                "To fix it: name another output"
            )
        array = self.source.constants[name]
        if self._is_fixed(name) and array.size == 1 and array.ndim <= 1:
            return array.reshape(-1)[0].item()
        return self.array(name)

    def array(self, name: str) -> str:
        """A constant of the file as an array of the network's own, be it a single number."""
        if name not in self._arrays:
            array = self.source.constants[name]
            self._arrays[name] = made = self.unique(name)
            trained = not self._is_fixed(name) and array.dtype.kind == "f"
            (self.params if trained else self.state)[made] = array
        return self._arrays[name]

    def _is_fixed(self, name: str) -> bool:
        return name not in self.source.trained or self.source.constants[name].ndim == 0

    def alias(self, step: Step, name: str) -> None:
        """The result of a step is a value that is there."""
        self._values[step.outputs[0]] = self.value(name)

    def maker(self, name: str) -> Call | None:
        """The call that gives a value, if nothing else takes it."""
        value: Any = self._values.get(name)
        return self.calls.get(value) if self.source.uses.get(name) == 1 else None

    # --- calls

    def read(self, rows: Mapping[str, Callable[["Builder", Step], None]]) -> None:
        """Call after call, by the row of each operator."""
        for step in self.source.steps():
            row = rows.get(step.operator)
            if row is None:
                raise step.fail(f"one of {', '.join(sorted(rows))}")
            row(self, step)
            step.check_read()

    def call(
        self,
        step: Step,
        layer: Any,
        inputs: Sequence[str] | None = None,
        params: dict[str, Any] | None = None,
        state: dict[str, Any] | None = None,
        arrays: Sequence[str] = (),
        values: tuple[Value, ...] | None = None,
    ) -> Call:
        """One more call of a layer or function.

        inputs: the names in the file of what it takes; all of the step's inputs if left out
        params, state: of the layer
        arrays: the names in the file of those that these are made of
        values: the names here of what it takes, instead of inputs
        """
        if values is None:
            values = tuple(map(self.value, step.inputs if inputs is None else inputs))
        tied = self._children.get((str(layer), tuple(arrays))) if arrays else None
        if tied and not _equal(self.params[tied], params or {}):
            tied = None  # one was turned, or took a factor in
        name = self.unique(_title(step, arrays))
        self.calls[name] = made = Call(name, layer, values, child=tied or "")
        if params and not tied:
            self.params[name] = params
            self._children[str(layer), tuple(arrays)] = name
        if state and not tied:
            self.state[name] = state
        self._values[step.outputs[0]] = name
        return made

    def then(self, step: Step, function: Any, value: Value) -> Value:
        """A function of one value; two that undo each other are left out."""
        before = self.calls.get(value)
        if before is not None and _undoes(function, before.layer):
            return before.args[0]
        name = self.unique(f"{step.operator}_{function.func.__name__}")
        self.calls[name] = Call(name, function, (value,))
        return name

    def bind(self, name: str, value: Value) -> None:
        """Let a value of the file be one that is there."""
        self._values[name] = value

    def results(self, step: Step, function: Callable[[int], Any], count: int) -> None:
        """The results of a call that gives several: `function(place)` of the call's own."""
        first = self._values[step.outputs[0]]
        for place, name in enumerate(step.outputs[:count]):
            if name:
                part = self.unique(f"{first}_{place}")
                self.calls[part] = Call(part, function(place), (first,))
                self._values[name] = part

    def drop(self, call: Call) -> None:
        """Leave out a call whose result is not needed."""
        del self.calls[call.name]

    # --- linear layers

    def linear(self, step: Step, weight: Any, bias: Any, arrays: Sequence[str]) -> None:
        """x @ weight + bias, of an x that may be scaled and shifted before."""
        source = step.input(0)
        while (call := self.maker(source)) is not None and call.name in self._affine:
            before, scale, shift, _ = affine = self._affine[call.name]
            if shift is not None:
                moved = (shift.reshape(-1) + 0 * weight[:, 0]) @ weight
                bias = moved if bias is None else bias + moved
            if scale is not None:
                weight = weight * (scale.reshape(-1) + 0 * weight[:, 0])[:, None]
            self._undo(affine)
            source, arrays = before, ()
        params = {"weight": weight} | ({} if bias is None else {"bias": bias})
        layer = Linear(weight.shape[1], bias=bias is not None)
        self.call(step, layer, [source], params, arrays=[n for n in arrays if n])

    def affine(self, step: Step, scale: Any, shift: Any, x: int = 0) -> None:
        """x * scale + shift, of constants; part of the linear layer before it, if there is one."""
        name, call = step.input(x), self.maker(step.input(x))
        if call is not None and self._into_linear(call, step, scale, shift, x):
            self._values[step.outputs[0]] = call.name
            return
        value, made = self.value(name), []
        for function, constant in ((mul, scale), (add, shift)):
            if constant is not None:
                made.append(self.unique(_title(step, ())))
                self.calls[made[-1]] = Call(made[-1], function, (value, self._kept(step, constant)))
                value = made[-1]
        self._values[step.outputs[0]] = value
        if made and all(a is None or self._is_of_features(a, name) for a in (scale, shift)):
            self._affine[made[-1]] = _Affine(name, scale, shift, tuple(made))

    def _is_of_features(self, constant: Any, name: str) -> bool:
        """True for a number, or one for each feature, which leaves a value's shape as it is."""
        shape = self.source.shape(name)
        ranked = constant.ndim == 0 or (shape is not None and constant.ndim <= len(shape))
        return ranked and constant.size in (1, *constant.shape[-1:])

    def _kept(self, step: Step, constant: Any) -> Value:
        """A constant as a number, or as an array of the network's own."""
        if constant.size == 1 and constant.ndim <= 1:
            return constant.reshape(-1)[0].item()
        trained = any(name in self.source.trained for name in step.inputs)
        name = self.unique(next((n for n in step.inputs if n in self.source.constants), "constant"))
        (self.params if trained and constant.dtype.kind == "f" else self.state)[name] = constant
        return name

    def _undo(self, affine: "_Affine") -> None:
        for name in affine.calls:
            for arg in self.calls[name].args[1:]:
                self.params.pop(arg, None)
                self.state.pop(arg, None)
            self.drop(self.calls[name])

    def _into_linear(self, call: Call, step: Step, scale: Any, shift: Any, x: int) -> bool:
        """Put scale and shift into a linear layer; False where that cannot be."""
        if not isinstance(call.layer, Linear) or call.child:
            return False
        sizes = [(a.size, a.shape[-1:], a.ndim) for a in (scale, shift) if a is not None]
        features, rank = call.layer.features, step.rank(x)
        if any(r > rank or n not in (1, *last) or n not in (1, features) for n, last, r in sizes):
            return False
        if call.name in [each.child for each in self.calls.values()]:
            return False
        params = self.params[call.name]
        if scale is not None:
            scale = scale.reshape(-1)
            params["weight"] = params["weight"] * scale
            if "bias" in params:
                params["bias"] = params["bias"] * scale
        if shift is not None:
            zeros = 0 * params["weight"][0]
            params["bias"] = params.get("bias", zeros) + shift.reshape(-1)
            self.calls[call.name] = replace(call, layer=Linear(features))
        return True

    def two_outputs(self, call: Call) -> None:
        """Let a linear layer of the output z have the outputs 0 and z."""
        params = self.params[call.name]
        both = (params["weight"][0] + 1).reshape(-1).repeat(2) * 0
        both[1] = 1
        params["weight"] = params["weight"] * both
        params["bias"] = params.get("bias", 0 * both[:1]) * both
        self.calls[call.name] = replace(call, layer=Linear(2))

    # --- the end

    def _needed(self, *outputs: Value) -> list[Call]:
        """The calls that the outputs need; the arrays of others are left out."""
        wanted, kept = set(outputs), []
        for call in reversed(self.calls.values()):
            if call.name in wanted:
                kept.append(call)
                wanted.update(arg for arg in call.args if isinstance(arg, str))
        names = wanted | {call.child for call in kept}
        self.params, self.state = (
            {name: part[name] for name in part if name in names}
            for part in (self.params, self.state)
        )
        return kept[::-1]

    def loop(self, outputs: Sequence[str]) -> tuple[list[str], list[str], list[Call], list[str]]:
        """The graph inside a Scan: names of its inputs, of the file's arrays that follow them, the
        calls, and the names of the results."""
        values = [self.array(n) if n in self.source.constants else self.value(n) for n in outputs]
        calls, given = self._needed(*values), [self._values[name] for name in self.source.inputs]
        arrays = {
            name: made
            for name, made in self._arrays.items()
            if made in self.params or made in self.state
        }
        plain = not any(isinstance(call.layer, Layer) for call in calls)
        if not plain or {*self.params, *self.state} != set(arrays.values()):
            raise OnnxError(
                "expected functions alone, no layers with parameters. To fix it: export the "
                "network without the loop, or name another output"
            )
        return [*given, *arrays.values()], list(arrays), calls, values

    def finish(self) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """The network, its parameters and its state."""
        output = self.value(self.source.output)
        self.params, self.state = (
            tree.map(lambda a: a.copy(), part) for part in (self.params, self.state)
        )  # as views of turned arrays they would be slower, and not as they are read again
        calls = self._needed(output)
        if not calls or not isinstance(output, str):
            raise OnnxError(
                "expected a network with layers, got none of them. To fix it: name another output"
            )
        inputs = tuple(self._values[name] for name in self.source.inputs)
        before = [*inputs, *[call.name for call in calls]]
        chain = len(inputs) == 1 and not any(call.child for call in calls)
        chain = chain and output == calls[-1].name
        if chain and all(c.args == (b,) for c, b in zip(calls, before, strict=False)):
            places = {call.name: str(place) for place, call in enumerate(calls)}
            parts = [{places[k]: v for k, v in p.items()} for p in (self.params, self.state)]
            return Sequential(*[call.layer for call in calls]), parts[0], parts[1]
        arrays = [(k, tuple(a.shape)) for k, a in self.params.items() if hasattr(a, "shape")]
        buffers = [
            (k, tuple(a.shape), a.dtype.name) for k, a in self.state.items() if hasattr(a, "shape")
        ]
        net = GraphNetwork(
            inputs, tuple(calls), output, arrays=tuple(arrays), buffers=tuple(buffers)
        )
        return net, self.params, self.state


def _equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """True for the same arrays by the same names."""
    pairs = list(zip(tree.paths(a), tree.paths(b), strict=False))
    same = all(m == n and x.shape == y.shape and (x == y).all() for (m, x), (n, y) in pairs)
    return len(tree.paths(a)) == len(tree.paths(b)) and same


def _undoes(function: Any, before: Any) -> bool:
    """True if one function of shapes undoes the one before it."""
    made, last = getattr(function, "func", None), getattr(before, "func", None)
    if made is last is operators.permute_dims:
        axes, other = function.keywords["axes"], before.keywords["axes"]
        return [other[axis] for axis in axes] == list(range(len(axes)))
    undone = made is operators.squeeze and last is operators.unsqueeze
    return undone and function.keywords == before.keywords


def _title(step: Step, arrays: Sequence[str]) -> str:
    """The name of a call: that of the layer in its first array's name, or the operator's."""
    for name in arrays[:1]:
        path = name.rpartition(".")[0]
        if path and "::" not in path:
            return path
    return step.operator
