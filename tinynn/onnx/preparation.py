"""A table's preparation, and the meaning of outputs, as ONNX operators.

Written from the description of a preparation that a model's file holds as well.
"""

from collections.abc import Mapping, Sequence
from math import pi
from typing import Any

from tinynn.onnx.emitter import DTYPES, INT64, Emitter, OnnxError

STRING = 8  # ONNX's number for texts
FLOAT64 = DTYPES["float64"]
DAY = 86400.0
YEAR = 365.2425 * DAY


class Columns:
    """The inputs of a file that takes the columns of a table, each (batch,).

    Numbers are float64, NaN where missing; dates likewise, in seconds since 1970 (UTC); categories
    are texts, "" where missing.
    """

    def __init__(self, emitter: Emitter, columns: Sequence[Mapping[str, Any]], dtype: int) -> None:
        self.emitter, self.dtype = emitter, dtype
        self.declared: list[Any] = []
        names = [self._declared(column) for column in columns]
        emitter.read_batch_from(names[0])
        parts = [
            part
            for name, column in zip(names, columns, strict=True)
            for part in getattr(self, f"_{column['kind']}")(name, column)
        ]
        self.matrix = emitter.emit("Concat", parts, axis=1)  # (batch, width)

    def _declared(self, column: Mapping[str, Any]) -> str:
        if column.get("kind") not in ("number", "date", "category"):
            raise OnnxError(
                f"to_onnx: column {column.get('name')!r}: expected a number, a date or a category, "
                f"got {column.get('kind')!r}. To fix it: write the network alone, "
                "to_onnx(path, preparation=False)"
            )
        name = self.emitter.unique(column["name"])
        kind = STRING if column["kind"] == "category" else FLOAT64
        make = self.emitter.onnx.helper.make_tensor_value_info
        self.declared.append(make(name, kind, ["batch"]))
        return name

    def _column(self, name: str) -> str:
        """(batch,) as (batch, 1), in the network's dtype."""
        as_float = self.emitter.emit("Cast", [name], to=self.dtype)
        return self.emitter.emit("Unsqueeze", [as_float, self.emitter.integers([1])])

    def _standardized(self, name: str, absent: str, scale: Mapping[str, float]) -> str:
        emit, number = self.emitter.emit, self.emitter.number
        filled = emit("Where", [absent, number(scale["median"], FLOAT64), name])
        centred = emit("Sub", [filled, number(scale["mean"], FLOAT64)])
        return self._column(emit("Div", [centred, number(scale["deviation"], FLOAT64)]))

    def _number(self, name: str, column: Mapping[str, Any]) -> list[str]:
        absent = self.emitter.emit("IsNaN", [name])
        value = self._standardized(name, absent, column["scale"])
        return [value, self._column(absent)] if column["missing"] else [value]

    def _date(self, name: str, column: Mapping[str, Any]) -> list[str]:
        emit, number = self.emitter.emit, self.emitter.number
        absent = emit("IsNaN", [name])
        parts = [self._standardized(name, absent, column["scale"])]
        for cycle in column["cycles"]:
            turn = emit("Mul", [self._phase(name, cycle), number(2 * pi, FLOAT64)])
            angle = emit("Cast", [turn], to=DTYPES["float32"])
            for operator in ("Sin", "Cos"):
                wave = emit(operator, [angle])
                known = emit("Where", [absent, number(0.0, DTYPES["float32"]), wave])
                parts.append(self._column(known))
        return [*parts, self._column(absent)] if column["missing"] else parts

    def _phase(self, name: str, cycle: str) -> str:
        """The part of a cycle that is over, in [0, 1)."""
        emit, number = self.emitter.emit, self.emitter.number
        length = {"day": DAY, "week": 7.0, "year": YEAR}[cycle]
        if cycle == "week":  # whose days count, and 1970 began on a Thursday
            days = emit("Floor", [emit("Div", [name, number(DAY, FLOAT64)])])
            name = emit("Add", [days, number(3.0, FLOAT64)])
        turns = emit("Div", [name, number(length, FLOAT64)])
        return emit("Sub", [turns, emit("Floor", [turns])])

    def _category(self, name: str, column: Mapping[str, Any]) -> list[str]:
        emit = self.emitter.emit
        texts = self.emitter.texts(column["categories"], (1, len(column["categories"])))
        cell = emit("Unsqueeze", [name, self.emitter.integers([1])])
        met = emit("Cast", [emit("Equal", [cell, texts])], to=self.dtype)
        if not column["missing"]:
            return [met]
        most = emit("ReduceMax", [met, self.emitter.integers([1])], keepdims=1)
        return [met, emit("Sub", [self.emitter.number(1.0, self.dtype), most])]


def answer(emitter: Emitter, output: str, config: Mapping[str, Any]) -> Any:
    """The declaration of "label", the name of the class, or of "prediction", in its unit."""
    emit, target = emitter.emit, config["target"]
    make = emitter.onnx.helper.make_tensor_value_info
    if target["kind"] == "quantity":
        scale = target["scale"]
        flat = emit("Cast", [emit("Reshape", [output, emitter.integers([-1])])], to=FLOAT64)
        wide = emit("Mul", [flat, emitter.number(scale["deviation"], FLOAT64)])
        emitter.rename(emit("Add", [wide, emitter.number(scale["mean"], FLOAT64)]), "prediction")
        return make("prediction", FLOAT64, ["batch"])
    if config["activation"] == "sigmoid":
        flat = emit("Reshape", [output, emitter.integers([-1])])
        positive = emit("Greater", [flat, emitter.number(0.0, emitter.float_dtype)])
        codes = emit("Cast", [positive], to=INT64)
    else:
        codes = emit("ArgMax", [output], axis=1, keepdims=0)
    names, kind = _classes(emitter, target)
    emitter.rename(emit("Gather", [names, codes], axis=0), "label")
    return make("label", kind, ["batch"])


def _classes(emitter: Emitter, target: Mapping[str, Any]) -> tuple[str, int]:
    """The classes as a vector, and its dtype: texts, integers or booleans."""
    classes = list(target["classes"])
    if target["labels"] == "integer":
        return emitter.integers(list(map(int, classes))), INT64
    if target["labels"] == "boolean":
        values = [text == "true" for text in classes]
        return emitter.tensor(DTYPES["bool"], (len(values),), values), DTYPES["bool"]
    return emitter.texts(classes, (len(classes),)), STRING
