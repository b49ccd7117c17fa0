"""Host data that are no arrays: nested lists, data frames and their columns, sparse matrices."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import backends

_KINDS = ("bool", "int", "float32", "float")


def host() -> backends.Backend:
    """The backend of host arrays, for data that belong to no array library."""
    return backends.get(backends.names()[0])


def is_sparse(value: Any) -> bool:
    """True for a sparse matrix of SciPy's."""
    return hasattr(value, "tocsr") and hasattr(value, "toarray")


def is_dataset(value: Any) -> bool:
    """True for a dataset, which gives samples by number; a frame's column is none.

    Parameters
    ----------
    value
        Anything.
    """
    methods = hasattr(value, "between") and hasattr(value, "take") and hasattr(value, "size")
    return methods and not hasattr(value, "dtype")


def refuse_odd_array(at: str, array: Any) -> None:
    """ValueError for an array that is sparse, or whose bytes lie in another machine's order."""
    if "sparse" in str(getattr(array, "layout", "")):
        raise ValueError(
            f"{at}: expected a dense array, got a sparse {type(array).__name__}. To fix it: make "
            "it dense, X.to_dense(), or give a sparse matrix of SciPy's, which is read by batch"
        )
    if not getattr(array.dtype, "isnative", True):
        raise ValueError(
            f"{at}: expected numbers in this machine's byte order, got dtype {array.dtype}. "
            "Convert them: X.astype(X.dtype.newbyteorder('='))."
        )


def columns_of(value: Any) -> tuple[Any, ...]:
    """The column names of a data frame; empty for anything else.

    Parameters
    ----------
    value
        Anything.
    """
    frame = _frame(value)
    return () if frame is None or _is_lazy(frame) else tuple(frame.columns)


def read(at: str, value: Any, columns: Sequence[str] = ()) -> tuple[Any, str, bool]:
    """Host data as what `Backend.asarray` takes.

    Args:
        at: what begins the message of an error.
        value: nested lists, a data frame, or a column of one.
        columns: the names to read from a frame, in that order; all of them if there are none.

    Returns:
        (data, kind, by_column): the kind is "bool", "int", "float" or, of columns that all are,
        "float32"; `by_column` says that the data are a list of columns.
    """
    frame = _frame(value)
    if frame is not None:
        if _is_lazy(frame):
            raise TypeError(
                f"{at}: expected a data frame with its rows, got a lazy {type(value).__name__}. To "
                f"fix it: compute it first, {_computed(value)}"
            )
        return _columns(at, frame, columns)
    series = _series(value)
    if series is not None:
        return (*_numbers(f"{at}, column {series.name!r}" if series.name else at, series), False)
    if hasattr(value, "to_pylist"):  # an array of Arrow's, which is no column of a frame
        value = value.to_pylist()
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        fix = "convert it first, for instance to an array"
        if is_sparse(value):
            fix = "make it dense, .toarray()"
        elif hasattr(value, "compute") or hasattr(value, "collect"):
            fix = f"compute it first, {_computed(value)}"
        elif value is None:
            fix = "give data (a dataset alone brings targets of its own)"
        raise TypeError(
            f"{at}: expected an array, nested lists of numbers or a data frame, "
            f"got {type(value).__name__}. To fix it: {fix}"
        )
    return value, _survey(at, value)[1], False


def _frame(value: Any) -> Any:
    """The frame as narwhals sees it, whatever library it is of, lazy or not; else None."""
    kind = type(value)  # of a lazy frame, to name the columns would be to compute them
    if not hasattr(kind, "columns") and not hasattr(kind, "column_names"):
        return None
    import narwhals.stable.v2 as nw  # only for frames

    found = nw.from_native(value, pass_through=True)
    return found if isinstance(found, nw.DataFrame | nw.LazyFrame) else None


def _is_lazy(frame: Any) -> bool:
    return hasattr(frame, "collect")


def _computed(value: Any) -> str:
    """The method that computes a lazy value, as source code."""
    return ".collect()" if hasattr(value, "collect") else ".compute()"


def _series(value: Any) -> Any:
    if not hasattr(value, "to_numpy") and not hasattr(value, "to_pylist"):
        return None
    import narwhals.stable.v2 as nw

    found = nw.from_native(value, series_only=True, pass_through=True)
    return found if isinstance(found, nw.Series) else None


def _columns(at: str, frame: Any, columns: Sequence[str]) -> tuple[Any, str, bool]:
    named = {str(name): name for name in frame.columns}  # 0 and 1 where nobody gave them names
    wanted = tuple(columns) or tuple(named)
    missing = [name for name in wanted if name not in named]
    if missing or len(named) < len(frame.columns):
        problem = f"no column {missing[0]!r}" if missing else "two columns of one name"
        raise ValueError(
            f"{at}: expected the columns {', '.join(wanted)}, got a table with "
            f"{problem}. Rename or add columns."
        )
    parts = [_numbers(f"{at}, column {c!r}", frame.get_column(named[c])) for c in wanted]
    kinds = {kind for _, kind in parts}
    kind = max(kinds, key=_KINDS.index)
    # float32 does not hold all integers, as a column of another kind may have them.
    kind = "float" if kind == "float32" and len(kinds) > 1 else kind
    return [part for part, _ in parts], kind, True


def _numbers(at: str, column: Any) -> tuple[Any, str]:
    """One column of a frame, as a NumPy array or a list, and its kind."""
    dtype = column.dtype
    kind = "float" if dtype.is_float() else "int" if dtype.is_integer() else ""
    kind = {"Boolean": "bool", "Float32": "float32"}.get(str(dtype), kind)
    if kind:
        if count := column.null_count():
            raise ValueError(
                f"{at}: expected numbers, got {count} of {len(column)} rows that are missing. To "
                "fix it: fill the gaps, or drop those rows or that column."
            )
        return column.to_numpy(), kind
    if str(dtype) in ("String", "Object", "Categorical", "Enum"):
        values = column.to_list()
        shape, kind = _survey(at, values)
        if len(shape) > 1:
            raise ValueError(
                f"{at}: expected numbers, got lists of {shape[1]}. To fix it: give each entry a "
                "column of its own"
            )
        return values, kind
    raise ValueError(f"{at}: expected numbers, got {dtype}. Turn it into numbers, or drop it.")


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
    if backends.is_array(value) and backend_at(f"{at}{_place(path)}", value) == host():
        return _survey(at, value.tolist(), path)
    if isinstance(value, str):
        problem = f"text: {value!r}. Encode text as numbers (categories as 0 and 1, labels as 0, 1,"
        problem += " 2, ...), or drop the column."
    elif backends.is_array(value):
        problem = "an array inside a list. Stack the arrays to a single one first."
    else:
        problem = f"{value!r}, which is missing or no number. Fill the gap, or drop the row."
    raise ValueError(f"{at}{_place(path)}: expected a number, got {problem}")


def backend_at(at: str, array: Any) -> backends.Backend:
    """`backends.of`, whose error says where."""
    try:
        return backends.of(array)
    except TypeError as error:
        raise TypeError(f"{at}: {error}") from error


def _place(path: tuple[int, ...]) -> str:
    """A position in nested lists, in words: ", row 3, column 1"."""
    words = ("row", "column")
    return "".join(
        f", {words[i] if i < len(words) else 'index'} {index}" for i, index in enumerate(path)
    )
