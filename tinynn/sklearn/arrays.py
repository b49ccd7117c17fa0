"""X, y and weights as arrays on the backend of X."""

from numbers import Real
from typing import Any

from sklearn.utils import check_array

import backends
from backends import Backend
from tinynn.data import host
from tinynn.data.hostdata import is_sparse


def home_of(X: Any) -> Backend:
    """The backend of X; the host's own library for sparse matrices."""
    return host() if is_sparse(X) else backends.of(X)


def is_number(array: Any) -> bool:
    """True for numbers or booleans: only the host's own library has others."""
    return getattr(array.dtype, "kind", "i") in "biuf"


def on(home: Backend, value: Any, dtype: Any = None) -> Any:
    """An array on `home`, wherever it was; what is of another library passes through the host."""
    if not backends.is_array(value):
        return home.asarray(value, dtype)
    source = backends.of(value)
    if source != home:
        return home.asarray(source.to_host(value), dtype)
    return value if dtype is None else home.xp.astype(value, dtype, copy=False)


def floating(home: Backend, X: Any, dtype: Any = None) -> Any:
    """X in the dtype asked for, or in its own if that is float32 or float64."""
    if is_sparse(X):
        floats = X.dtype.name in ("float32", "float64")
        wanted = dtype or (None if floats else home.dtype_name(home.default_float))
        return X if wanted is None else X.astype(wanted)
    known = home.dtypes()
    wanted = known[dtype] if dtype else X.dtype
    if wanted not in (known.get("float32"), known.get("float64")):
        wanted = home.default_float
    return home.xp.astype(X, wanted, copy=False)


def sample_weights(owner: str, home: Backend, given: Any, count: int, dtype: Any) -> Any:
    """Weights as floats on `home`, (samples,); None stays None, and a number is that of each."""
    if given is None:
        return None
    if isinstance(given, Real):
        given = [float(given)] * count
    elif not backends.is_array(given):
        given = check_array(given, ensure_2d=False, allow_nd=True, input_name="sample_weight")
    weights = on(home, given, dtype)
    if weights.ndim != 1 or weights.shape[0] != count:
        raise ValueError(
            f"{owner}: sample_weight: expected one number for each of {count} samples, got shape "
            f"{tuple(weights.shape)}"
        )
    return weights
