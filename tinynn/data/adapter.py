"""DataAdapter: X, y and weights of one call, brought onto one backend and checked."""

from collections.abc import Callable, Sequence
from typing import Any

import backends
from backends import Backend, MixedArrays
from tinynn import tree
from tinynn.data import hostdata
from tinynn.data.dataset import ArrayDataset, GivenDataset, Samples, Source, SparseDataset
from tinynn.data.hostdata import backend_at, host
from tinynn.data.ragged import Ragged, RaggedDataset

_FIRST = 32  # samples of a user's dataset that are looked at
_ROWS_AT_ONCE = 2**16  # that are looked at for NaN: a mapped file need not be in memory as a whole


class DataAdapter:
    """The adapter that brings the data of one call of fit, predict or evaluate to one backend.

    Arrays must be on `target`; only with `moves` (the caller named a backend) do arrays of the
    host's library come along, as lists and frames always do.

    Attributes
    ----------
    where
        The function, which begins every message.
    target
        The backend on which everything is to be.
    dtype
        The dtype that floats get; None before X has shown it.
    hint
        The end of the message about an array that is elsewhere.
    """

    def __init__(
        self,
        where: str,
        target: Backend,
        *,
        moves: bool = False,
        dtype: Any = None,
        hint: str = "",
    ) -> None:
        self.where, self.target, self.moves, self.dtype = where, target, moves, dtype
        self.hint = hint or "Bring them together first: backends.get(...).asarray(host data)."

    def at(self, where: str) -> "DataAdapter":
        """The same adapter, whose messages begin with `where`."""
        return DataAdapter(where, self.target, moves=self.moves, dtype=self.dtype, hint=self.hint)

    @staticmethod
    def following(where: str, x: Any, backend: str | Backend | None) -> "DataAdapter":
        """An adapter to the backend asked for, else to that of X, else to the host's library."""
        if backend is not None:
            return DataAdapter(where, backends.get(backend), moves=True)
        if hostdata.is_dataset(x):
            x = Samples(*x.between(0, 1)).x
        x = x.values if isinstance(x, Ragged) else x
        arrays = [a for a in tree.leaves(x) if backends.is_array(a)] if _is_tree(x) else [x]
        first = next(filter(backends.is_array, arrays), None)
        return DataAdapter(where, host() if first is None else backend_at(f"{where}: X", first))

    def dataset(
        self,
        x: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        prefix: str = "",
        columns: Sequence[str] = (),
    ) -> Source:
        """X, y and weights together, free of NaN and infinities."""
        names = {k: prefix + k for k in ("X", "y", "sample_weight")}
        if hostdata.is_dataset(x):
            return self._given(x, y, sample_weight, names["X"])
        ragged = isinstance(x, Ragged)
        inputs = self.inputs(x.values if ragged else x, names["X"], columns)
        if ragged:
            size = len(x.lengths)
        elif hostdata.is_sparse(inputs):
            size, dtype = inputs.shape[0], self.target.dtype_name(self.dtype)
        else:
            size = tree.leaves(inputs)[0].shape[0]
        targets = self.targets(y, size, names["y"])
        weights = self.sample_weight(sample_weight, size, names["sample_weight"])
        labels = columns or hostdata.columns_of(x)
        self.check_finite({names["y"]: targets})
        rest = Samples(targets, targets, weights)
        if hostdata.is_sparse(inputs):
            return SparseDataset(inputs, dtype, rest, self.target)
        self.check_finite({names["X"]: inputs}, labels)
        if ragged:
            return RaggedDataset(x, inputs, rest, self.target)
        return ArrayDataset(rest._replace(x=inputs), self.target)

    def _given(self, dataset: Any, y: Any, sample_weight: Any, name: str) -> Source:
        """A dataset of the user's, whose first samples are checked."""
        at = f"{self.where}: {name}"
        if y is not None or sample_weight is not None:
            raise ValueError(
                f"{at}: expected a dataset to give targets and weights itself, got "
                f"{'y' if y is not None else 'sample_weight'} beside it. To fix it: leave that out"
            )
        size = dataset.size
        if not hasattr(size, "__index__") or size < 1:
            raise ValueError(f"{at}: expected a dataset of size 1 or more, got size {size!r}")
        found = dataset.between(0, min(int(size), _FIRST))
        if not isinstance(found, tuple) or len(found) not in (2, 3):
            raise TypeError(
                f"{at}: expected a dataset whose between(start, stop) gives Samples(x, y), got "
                f"{type(found).__name__}. To fix it: return tinynn.data.Samples"
            )
        first = Samples(*found)
        for path, leaf in tree.paths(first):
            on = backend_at(f"{at}, {path}", leaf)
            if on != self.target:
                raise MixedArrays(
                    f"{at}, {path}: expected arrays on {self.target!r}, got them on {on!r}. "
                    "To fix it: let the dataset give them there"
                )
        self.dtype = self.dtype or self._common_float(tree.leaves(first.x), name)
        self.check_finite({f"{name}, first samples": first.x, f"{name}, first targets": first.y})
        return GivenDataset(dataset, self.target, first)

    def inputs(self, value: Any, name: str = "X", columns: Sequence[str] = ()) -> Any:
        """X: a tree of arrays (samples, ...), or a sparse matrix, which is left as it is.

        Floats get one dtype; integers and booleans stay what they are. `Ragged` is padded.
        """
        at = f"{self.where}: {name}"
        value = value.padded() if isinstance(value, Ragged) else value
        if hostdata.is_sparse(value):
            _check_filled(at, value.shape)
            self.dtype = self.dtype or self._sparse_dtype(value, name)
            matrix = value.tocsr()
            held = host().xp.astype(matrix.data, host().default_float, copy=False)
            if not to_scalar(host(), host().xp.all(host().xp.isfinite(held))):
                raise ValueError(
                    f"{self.where}: {name}: expected finite numbers, got NaN or infinity among the "
                    "entries that are stored. To fix it: fill the gaps, or drop those rows"
                )
            return matrix
        x = _map_tree(lambda leaf, path: self._bring(leaf, name + path, columns), value)
        leaves = tree.leaves(x)
        if not leaves:
            raise ValueError(f"{at}: expected an array, got none. To fix it: give data.")
        for path, leaf in tree.paths(x):
            _check_filled(at, leaf.shape)
            self._same_length(leaf, leaves[0].shape[0], name + _dotted(path))
        self.dtype = self.dtype or self._common_float(leaves, name)
        return tree.map(self._as_float, x)

    def targets(self, value: Any, size: int, name: str = "y") -> Any:
        """y: a tree of arrays (samples,) or (samples, ...). Integers and booleans stay labels."""
        y = _map_tree(lambda leaf, path: self._bring(leaf, name + path), value)
        if len(hostdata.columns_of(value)) == 1:
            y = self.target.xp.reshape(y, (-1,))
        for path, leaf in tree.paths(y):
            self._same_length(leaf, size, name + _dotted(path))
        return tree.map(self._as_float, y)

    def sample_weight(
        self, value: Any, size: int, name: str = "sample_weight", check: bool = True
    ) -> Any:
        """Weights of samples: (samples,), floats, none negative, not all zero; None stays None.

        Their signs are looked at only with `check`.
        """
        if value is None:
            return None
        xp = self.target.xp
        weights = xp.astype(self._bring(value, name), self.dtype, copy=False)
        self._same_length(weights, size, name)
        if not check and weights.ndim == 1:
            return weights
        sound = xp.all((weights >= 0) & xp.isfinite(weights)) & xp.any(weights > 0)
        if weights.ndim != 1 or not to_scalar(self.target, sound):
            raise ValueError(
                f"{self.where}: {name}: expected one number a sample, none negative and not all "
                f"zero, got shape {tuple(weights.shape)} or such values. Give a weight to each row."
            )
        return weights

    def check_finite(self, trees: dict[str, Any], columns: Sequence[str] = ()) -> None:
        """Refuse NaN and infinities, naming the column; one boolean is read from the device."""
        xp = self.target.xp
        named = [
            (name + _dotted(path), a) for name, t in trees.items() for path, a in tree.paths(t)
        ]
        floats = [(name, a) for name, a in named if xp.isdtype(a.dtype, "real floating")]
        flags = [
            xp.all(xp.isfinite(a[start : min(start + _ROWS_AT_ONCE, a.shape[0]), ...]))
            for _, a in floats
            for start in range(0, a.shape[0], _ROWS_AT_ONCE)
        ]
        if not flags or to_scalar(self.target, xp.all(xp.stack(flags))):
            return
        for name, array in floats:
            table = xp.reshape(array, (array.shape[0], array.shape[1] if array.ndim > 1 else 1, -1))
            bad = xp.sum(xp.astype(xp.any(~xp.isfinite(table), axis=2), xp.int32), axis=0)
            for j, count in enumerate(self.target.to_host(bad).tolist()):
                if count:
                    label = columns[j] if j < len(columns) else j
                    at = f", column {label!r}" if array.ndim > 1 else ""
                    raise ValueError(
                        f"{self.where}: {name}{at}: expected finite numbers, got {count} of "
                        f"{array.shape[0]} rows with NaN or infinity. To fix it: fill the gaps, or "
                        "drop those rows or that column."
                    )

    def _bring(self, value: Any, name: str, columns: Sequence[str] = ()) -> Any:
        """`value` as an array on the target: host floats in the dtype of X, the rest by kind.

        Where X itself is read they have the default dtype, or float32 where all columns have it.
        """
        at = f"{self.where}: {name}"
        if backends.is_array(value):
            on = backend_at(at, value)
            if on != self.target and not (self.moves and on == host()):
                raise MixedArrays(
                    f"{at}: expected an array on {self.target!r}, got one on {on!r}. {self.hint}"
                )
            hostdata.refuse_odd_array(at, value)
            try:
                real = on.xp.isdtype(value.dtype, ("bool", "integral", "real floating"))
            except TypeError as error:  # a dtype that the library itself does not know
                raise ValueError(
                    f"{at}: expected float32, float64, integers or booleans, got "
                    f'{value.dtype}. To fix it: cast it first, X.astype("float32")'
                ) from error
            if real:
                return value if on == self.target else self.target.asarray(value)
            if on != host() or on.xp.isdtype(value.dtype, "numeric"):
                raise ValueError(
                    f"{at}: expected real numbers, got dtype {value.dtype}. Give real and "
                    "imaginary parts as features of their own."
                )
        data, kind, by_column = hostdata.read(at, value, columns)
        floating = None
        if kind.startswith("float"):
            own = self.target.xp.float32 if kind == "float32" else self.target.default_float
            floating = self.dtype or own
        array = self.target.asarray(data, floating)
        return self.target.xp.permute_dims(array, (1, 0)) if by_column else array

    def _common_float(self, leaves: list[Any], name: str) -> Any:
        """The dtype of the first floats among X; the device's default if there are none."""
        xp = self.target.xp
        floats = (a.dtype for a in leaves if xp.isdtype(a.dtype, "real floating"))
        dtype = next(floats, self.target.default_float)
        if dtype not in self.target.dtypes().values():
            raise ValueError(
                f"{self.where}: {name}: expected float32 or float64, got {dtype}. "
                "Cast it first: xp.astype(X, xp.float32)."
            )
        return dtype

    def _sparse_dtype(self, value: Any, name: str) -> Any:
        known = self.target.dtypes()
        if value.dtype.kind not in "biuf":
            raise ValueError(f"{self.where}: {name}: expected real numbers, got {value.dtype}.")
        return known.get(value.dtype.name) if value.dtype.kind == "f" else self.target.default_float

    def _as_float(self, array: Any) -> Any:
        xp = self.target.xp
        if not xp.isdtype(array.dtype, "real floating"):
            return array
        return xp.astype(array, self.dtype, copy=False)

    def _same_length(self, array: Any, size: int, name: str) -> None:
        got = array.shape[0] if array.ndim else 0
        if got != size:
            raise ValueError(
                f"{self.where}: {name}: expected {size} entries, one for each row of X, "
                f"got shape {tuple(array.shape)}. Give X and {name} the same rows."
            )


def _check_filled(at: str, shape: tuple[int, ...]) -> None:
    """ValueError for an array without samples or features."""
    if not shape or 0 in shape:
        raise ValueError(
            f"{at}: expected at least one sample and one feature, got shape {tuple(shape)}. "
            "To fix it: check how it was read."
        )


def to_scalar(backend: Backend, scalar: Any) -> Any:
    """A 0-d array as a Python number; training reads single values only through this.

    Parameters
    ----------
    backend
        Where the array is.
    scalar
        () of any dtype.
    """
    return backend.to_host(scalar).item()


def _is_tree(value: Any) -> bool:
    """True for several inputs: a dict, or a tuple of arrays, frames and the like."""
    if isinstance(value, dict):
        return True
    return isinstance(value, tuple) and bool(value) and not any(map(_is_number_or_list, value))


def _is_number_or_list(value: Any) -> bool:
    if isinstance(value, tuple):
        return not _is_tree(value)
    return isinstance(value, list | int | float | str) or value is None


def _map_tree(f: Callable[[Any, str], Any], value: Any, path: str = "") -> Any:
    """`f` applied to each of several inputs, with its path; or to the only one."""
    if not _is_tree(value):
        return f(value, path)
    if isinstance(value, dict):
        return {str(k): _map_tree(f, v, f"{path}[{k!r}]") for k, v in value.items()}
    return tuple(_map_tree(f, v, f"{path}[{i}]") for i, v in enumerate(value))


def _dotted(path: str) -> str:
    return f"[{path}]" if path else ""
