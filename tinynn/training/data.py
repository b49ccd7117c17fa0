"""Bringing X and y in: onto one backend, checked, and taken apart into batches there.

Host data are nested lists, data frames and their columns (known by what they can do: `columns`,
`to_numpy`), and arrays of the host's own library. Everything else is an array that has a backend
already, and stays there.
"""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import backends
from backends import Backend, MixedArrays

_KINDS = ("bool", "int", "float")


class Samples(NamedTuple):
    """Samples on one backend: x (samples, ...), y (samples, ...), weights (samples,) or None."""

    x: Any
    y: Any
    weights: Any = None

    @property
    def size(self) -> int:
        """How many samples these are."""
        return int(self.x.shape[0])

    def take(self, xp: Any, order: Any) -> "Samples":
        """The samples at the integers `order`: (batch,)."""
        return Samples(*(None if a is None else xp.take(a, order, axis=0) for a in self))

    def between(self, start: int, stop: int) -> "Samples":
        """The samples from `start` up to `stop`."""
        return Samples(*(None if a is None else a[start:stop, ...] for a in self))


class Intake:
    """The way in for everything that one call of fit, predict or evaluate is given.

    `home` is where it all must be. Arrays that are elsewhere are refused; only `moved` (the caller
    named a backend) lets arrays of the host's library come along, as lists and frames always do.
    `where` begins every message; `hint` ends the one about an array that is elsewhere.
    """

    def __init__(self, where: str, home: Backend, *, moved: bool = False, hint: str = "") -> None:
        self.where, self.home, self.moved = where, home, moved
        self.hint = hint or "Bring them together first: backends.get(...).asarray(host data)."

    @staticmethod
    def of(where: str, x: Any, backend: str | Backend | None) -> "Intake":
        """The way to the backend asked for, else to that of X, else to the host's library."""
        if backend is not None:
            return Intake(where, backends.get(backend), moved=True)
        return Intake(where, _backend(f"{where}: X", x) if backends.is_array(x) else host())

    def features(
        self, value: Any, name: str = "X", *, dtype: Any = None, columns: Sequence[str] = ()
    ) -> Any:
        """X: (samples, features, ...), floating. Integers become the device's default float.

        `dtype` asks for another; `columns` are the names to read from a frame, in that order.
        """
        x = self._bring(value, name, self.home.default_float, columns)
        xp = self.home.xp
        if x.ndim < 2:
            raise ValueError(
                f"{self.where}: {name}: expected shape (samples, features), got {tuple(x.shape)}. "
                "Give a row for each sample; reshape(-1, 1) makes one column of a list of numbers."
            )
        if 0 in x.shape:
            raise ValueError(
                f"{self.where}: {name}: expected at least one sample and one feature, "
                f"got shape {tuple(x.shape)}: it is empty. Check how it was read."
            )
        if dtype is None:
            dtype = x.dtype if xp.isdtype(x.dtype, "real floating") else self.home.default_float
            if dtype not in self.home.dtypes().values():
                raise ValueError(
                    f"{self.where}: {name}: expected float32 or float64, got {dtype}. "
                    "Cast it first: xp.astype(X, xp.float32)."
                )
        return xp.astype(x, dtype, copy=False)

    def targets(self, value: Any, x: Any, name: str = "y") -> Any:
        """y: (samples,) or (samples, ...). Floats get the dtype of X; labels stay integers."""
        y = self._bring(value, name, x.dtype)
        if len(columns_of(value)) == 1:
            y = self.home.xp.reshape(y, (-1,))
        self._same_length(y, x, name)
        xp = self.home.xp
        return xp.astype(y, x.dtype, copy=False) if xp.isdtype(y.dtype, "real floating") else y

    def weights(self, value: Any, x: Any, name: str = "weights") -> Any:
        """Weights of samples: (samples,), of the dtype of X, none negative, not all zero."""
        if value is None:
            return None
        weights = self.home.xp.astype(self._bring(value, name, x.dtype), x.dtype, copy=False)
        self._same_length(weights, x, name)
        xp = self.home.xp
        sound = xp.all((weights >= 0) & xp.isfinite(weights)) & xp.any(weights > 0)
        if weights.ndim != 1 or not read(self.home, sound):
            raise ValueError(
                f"{self.where}: {name}: expected one number a sample, none negative and not all "
                f"zero, got shape {tuple(weights.shape)} or such values. Give a weight to each row."
            )
        return weights

    def samples(
        self,
        x: Any,
        y: Any,
        weights: Any = None,
        *,
        prefix: str = "",
        columns: Sequence[str] = (),
    ) -> Samples:
        """X, y and weights together, as the three above, and free of NaN and infinities."""
        taken = self.features(x, prefix + "X", columns=columns)
        out = Samples(
            taken,
            self.targets(y, taken, prefix + "y"),
            self.weights(weights, taken, prefix + "weights"),
        )
        self.check_finite({prefix + "X": out.x, prefix + "y": out.y}, columns or columns_of(x))
        return out

    def check_finite(self, arrays: dict[str, Any], columns: Sequence[str] = ()) -> None:
        """Refuse NaN and infinities, naming the column; one boolean is read from the device."""
        xp = self.home.xp
        floats = {k: a for k, a in arrays.items() if xp.isdtype(a.dtype, "real floating")}
        flags = [xp.all(xp.isfinite(a)) for a in floats.values()]
        if not flags or read(self.home, xp.all(xp.stack(flags))):
            return
        for name, array in floats.items():
            table = xp.reshape(array, (array.shape[0], array.shape[1] if array.ndim > 1 else 1, -1))
            bad = xp.sum(xp.astype(~xp.isfinite(table), xp.int32), axis=(0, 2))
            for j, count in enumerate(self.home.to_host(bad).tolist()):
                if count:
                    label = columns[j] if name.endswith("X") and columns else j
                    at = f", column {label!r}" if array.ndim > 1 else ""
                    raise ValueError(
                        f"{self.where}: {name}{at}: expected finite numbers, got {count} of "
                        f"{array.shape[0]} rows with NaN or infinity. "
                        "Fill the gaps, or drop those rows or that column."
                    )

    def _same_length(self, array: Any, x: Any, name: str) -> None:
        got = array.shape[0] if array.ndim else 0
        if got != x.shape[0]:
            raise ValueError(
                f"{self.where}: {name}: expected {x.shape[0]} entries, one for each row of X, "
                f"got shape {tuple(array.shape)}. Give X and {name} the same rows."
            )

    def _bring(self, value: Any, name: str, floating: Any, columns: Sequence[str] = ()) -> Any:
        """`value` as an array at home: floats from the host as `floating`, the rest by kind."""
        at = f"{self.where}: {name}"
        if backends.is_array(value):
            on = _backend(at, value)
            if on != self.home and not (self.moved and on == host()):
                raise MixedArrays(
                    f"{at}: expected an array on {self.home!r}, got one on {on!r}. {self.hint}"
                )
            if on.xp.isdtype(value.dtype, ("bool", "integral", "real floating")):
                return value if on == self.home else self.home.asarray(value)
            if on != host() or on.xp.isdtype(value.dtype, "numeric"):
                raise ValueError(f"{at}: expected real numbers, got dtype {value.dtype}")
        table, kind = _read_host(at, value, columns)
        array = self.home.asarray(table, floating if kind == "float" else None)
        if columns_of(value):  # read column by column
            return self.home.xp.permute_dims(array, (1, 0))
        return array


def host() -> Backend:
    """The backend of the host's own arrays, where data go that come from nowhere else."""
    return backends.get(backends.names()[0])


def _backend(at: str, array: Any) -> Backend:
    """`backends.of`, whose error says where."""
    try:
        return backends.of(array)
    except TypeError as error:
        raise TypeError(f"{at}: {error}") from error


def read(home: Backend, scalar: Any) -> Any:
    """A 0-d array as a Python number: the one way in which training looks at values."""
    return home.to_host(scalar).item()


def align(home: Backend, samples: Samples, prediction: Any) -> Samples:
    """y as the column (samples, 1) where the network's output is one, and as (samples,) likewise,
    so that nothing broadcasts.

    `prediction` may be of any number of samples.
    """
    if samples.y.ndim == 1 and tuple(prediction.shape[1:]) == (1,):
        return samples._replace(y=home.xp.reshape(samples.y, (-1, 1)))
    if prediction.ndim == 1 and tuple(samples.y.shape[1:]) == (1,):
        return samples._replace(y=home.xp.reshape(samples.y, (-1,)))
    return samples


def columns_of(value: Any) -> tuple[Any, ...]:
    """The names of a frame's columns; empty for anything else."""
    return tuple(value.columns) if hasattr(value, "columns") else ()


def _read_host(at: str, value: Any, columns: Sequence[str]) -> tuple[Any, str]:
    """Host data as what `Backend.asarray` takes, and their kind; a frame column by column."""
    present = columns_of(value)
    if present:
        named = {str(name): name for name in present}  # 0 and 1 where nobody gave them names
        wanted = tuple(columns) or tuple(named)
        missing = [name for name in wanted if name not in named]
        if missing or len(named) < len(present):
            problem = f"no column {missing[0]!r}" if missing else "two columns of one name"
            raise ValueError(
                f"{at}: expected the columns {', '.join(wanted)}, got a table with "
                f"{problem}. Rename or add columns."
            )
        parts = [_numbers(f"{at}, column {c!r}", value[named[c]].to_numpy()) for c in wanted]
        return [part for part, _ in parts], max((kind for _, kind in parts), key=_KINDS.index)
    if hasattr(value, "to_numpy"):
        label = getattr(value, "name", None)
        return _numbers(f"{at}, column {label!r}" if label else at, value.to_numpy())
    if hasattr(value, "dtype"):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise TypeError(
            f"{at}: expected an array, nested lists of numbers or a data frame, "
            f"got {type(value).__name__}"
        )
    return value, _survey(at, value)[1]


def _numbers(at: str, column: Any) -> tuple[Any, str]:
    """One column of a frame, and its kind."""
    kind = {"b": "bool", "i": "int", "u": "int", "f": "float"}.get(column.dtype.kind)
    if kind is not None:
        return column, kind
    if column.dtype.kind not in "OUST":
        raise ValueError(
            f"{at}: expected numbers, got {column.dtype}. Turn it into numbers, or drop the column."
        )
    values = column.tolist()
    return values, _survey(at, values)[1]


def _survey(at: str, value: Any, path: tuple[int, ...] = ()) -> tuple[tuple[int, ...], str]:
    """The shape and kind of nested lists of numbers; an error where they are something else."""
    if isinstance(value, list | tuple):
        found = [_survey(at, child, (*path, i)) for i, child in enumerate(value)]
        for i, (shape, _) in enumerate(found):
            if shape != found[0][0]:
                raise ValueError(
                    f"{at}{_place((*path, i))}: expected shape {found[0][0]} as in the row before, "
                    f"got {shape}. Give every row the same number of values."
                )
        inner = found[0][0] if found else ()
        kinds = (kind for _, kind in found)
        return (len(value), *inner), max(kinds, key=_KINDS.index, default="float")
    if isinstance(value, bool):
        return (), "bool"
    if isinstance(value, Integral):
        return (), "int"
    if isinstance(value, Real):
        return (), "float"
    if backends.is_array(value) and _backend(f"{at}{_place(path)}", value) == host():
        return _survey(at, value.tolist(), path)
    if isinstance(value, str):
        problem = f"text: {value!r}. Encode text as numbers (categories as 0 and 1, labels as 0, 1,"
        problem += " 2, ...), or drop the column."
    elif backends.is_array(value):
        problem = "an array inside a list. Stack the arrays to a single one first."
    else:
        problem = f"{value!r}, which is missing or no number. Fill the gap, or drop the row."
    raise ValueError(f"{at}{_place(path)}: expected a number, got {problem}")


def _place(path: tuple[int, ...]) -> str:
    """Where in nested lists: ", row 3, column 1"."""
    words = ("row", "column")
    return "".join(
        f", {words[i] if i < len(words) else 'index'} {index}" for i, index in enumerate(path)
    )
