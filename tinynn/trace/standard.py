"""The Array API standard as a table: every function, with the signature that it has there.

Source: https://data-apis.org/array-api/2025.12/API_specification/
"""

from collections.abc import Callable
from functools import cache
from inspect import Parameter, Signature, signature
from typing import Any, NamedTuple

_Table = dict[str, Callable[..., Any]]


def _listed(table: _Table) -> _Table:
    """A row for each name, from rows of names that share a signature."""
    return {name: call for names, call in table.items() for name in names.split()}


#: Functions of arrays, which traces see.
FUNCTIONS = _listed({
    """abs acos acosh asin asinh atan atanh bitwise_invert ceil conj cos cosh exp expm1 floor imag
    isfinite isinf isnan log log1p log2 log10 logical_not matrix_transpose negative nonzero positive
    real reciprocal round sign signbit sin sinh sqrt square tan tanh trunc unique_all unique_counts
    unique_inverse unique_values linalg.det linalg.eig linalg.eigh linalg.eigvals linalg.eigvalsh
    linalg.inv linalg.matrix_transpose linalg.slogdet linalg.svdvals""": lambda x, /: ...,
    """add atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor copysign
    divide equal floor_divide greater greater_equal hypot less less_equal logaddexp logical_and
    logical_or logical_xor matmul maximum minimum multiply nextafter not_equal pow remainder
    subtract linalg.matmul linalg.outer linalg.solve""": lambda x1, x2, /: ...,
    "clip": lambda x, /, min=None, max=None: ...,
    "where": lambda condition, x1, x2, /: ...,
    "all any argmax argmin count_nonzero max mean min":
        lambda x, /, *, axis=None, keepdims=False: ...,
    "prod sum": lambda x, /, *, axis=None, dtype=None, keepdims=False: ...,
    "std var": lambda x, /, *, axis=None, correction=0.0, keepdims=False: ...,
    "cumulative_prod cumulative_sum":
        lambda x, /, *, axis=None, dtype=None, include_initial=False: ...,
    "diff": lambda x, /, *, axis=-1, n=1, prepend=None, append=None: ...,
    "argsort sort": lambda x, /, *, axis=-1, descending=False, stable=True: ...,
    "searchsorted": lambda x1, x2, /, *, side="left", sorter=None: ...,
    "isin": lambda x1, x2, /, *, invert=False: ...,
    "take": lambda x, indices, /, *, axis=None: ...,
    "take_along_axis": lambda x, indices, /, *, axis=-1: ...,
    "astype": lambda x, dtype, /, *, copy=True, device=None: ...,
    "empty_like ones_like zeros_like": lambda x, /, *, dtype=None, device=None: ...,
    "full_like": lambda x, /, fill_value, *, dtype=None, device=None: ...,
    "broadcast_arrays": lambda *arrays: ...,
    "broadcast_to": lambda x, /, shape: ...,
    "concat stack": lambda arrays, /, *, axis=0: ...,
    "expand_dims squeeze": lambda x, /, axis: ...,
    "flip": lambda x, /, *, axis=None: ...,
    "meshgrid": lambda *arrays, indexing="xy": ...,
    "moveaxis": lambda x, source, destination, /: ...,
    "permute_dims": lambda x, /, axes: ...,
    "repeat": lambda x, repeats, /, *, axis=None: ...,
    "reshape": lambda x, /, shape, *, copy=None: ...,
    "roll": lambda x, /, shift, *, axis=None: ...,
    "tile": lambda x, repetitions, /: ...,
    "tril triu": lambda x, /, *, k=0: ...,
    "unstack": lambda x, /, *, axis=0: ...,
    "tensordot linalg.tensordot": lambda x1, x2, /, *, axes=2: ...,
    "vecdot linalg.cross linalg.vecdot": lambda x1, x2, /, *, axis=-1: ...,
    "linalg.cholesky": lambda x, /, *, upper=False: ...,
    "linalg.diagonal": lambda x, /, *, offset=0: ...,
    "linalg.matrix_norm": lambda x, /, *, keepdims=False, ord="fro": ...,
    "linalg.matrix_power": lambda x, n, /: ...,
    "linalg.matrix_rank linalg.pinv": lambda x, /, *, rtol=None: ...,
    "linalg.qr": lambda x, /, *, mode="reduced": ...,
    "linalg.svd": lambda x, /, *, full_matrices=True: ...,
    "linalg.trace": lambda x, /, *, offset=0, dtype=None: ...,
    "linalg.vector_norm": lambda x, /, *, axis=None, keepdims=False, ord=2: ...,
    "fft.fft fft.ifft fft.rfft fft.irfft fft.hfft fft.ihfft":
        lambda x, /, *, n=None, axis=-1, norm="backward": ...,
    "fft.fftn fft.ifftn fft.rfftn fft.irfftn":
        lambda x, /, *, s=None, axes=None, norm="backward": ...,
    "fft.fftshift fft.ifftshift": lambda x, /, *, axes=None: ...,
})  # fmt: skip

#: Functions that make arrays.
CREATION = _listed({
    "arange": lambda start, /, stop=None, step=1, *, dtype=None, device=None: ...,
    "asarray": lambda obj, /, *, dtype=None, device=None, copy=None: ...,
    "empty ones zeros": lambda shape, *, dtype=None, device=None: ...,
    "eye": lambda n_rows, n_cols=None, /, *, k=0, dtype=None, device=None: ...,
    "from_dlpack": lambda x, /, *, device=None, copy=None: ...,
    "full": lambda shape, fill_value, *, dtype=None, device=None: ...,
    "linspace": lambda start, stop, /, num, *, dtype=None, device=None, endpoint=True: ...,
    "fft.fftfreq fft.rfftfreq": lambda n, /, *, d=1.0, dtype=None, device=None: ...,
})  # fmt: skip

#: Functions that do not return arrays: only the dtypes of their arguments matter.
INSPECTION = _listed({
    "broadcast_shapes": lambda *shapes: ...,
    "can_cast": lambda from_, to, /: ...,
    "finfo iinfo": lambda type, /: ...,
    "isdtype": lambda dtype, kind: ...,
    "result_type": lambda *arrays_and_dtypes: ...,
})  # fmt: skip

#: What passes straight through: constants, data types, and the namespace's own information.
PLAIN = frozenset(
    """e inf nan newaxis pi bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64
    complex64 complex128 __array_api_version__ __array_namespace_info__""".split()
)

#: Parameters that take arrays; every other one is a kwarg.
ARRAYS = frozenset(
    "x x1 x2 condition min max indices repeats prepend append sorter rtol arrays".split()
)


class Call(NamedTuple):
    """The form of a function's call: its signature, and the names that a trace tells apart.

    `arrays` and `keyed` are the arrays given by position and by keyword, `kwargs` what else may
    be given by position. `required`: how many of `arrays` have no default.
    """

    signature: Signature
    arrays: tuple[str, ...]
    keyed: tuple[str, ...]
    kwargs: tuple[str, ...]
    required: int

    @property
    def nameless(self) -> bool:
        """The kwargs can be given by position only."""
        kinds = [self.signature.parameters[name].kind for name in self.kwargs]
        return Parameter.POSITIONAL_ONLY in kinds

    @property
    def variadic(self) -> bool:
        """Any number of arrays: `f(*arrays)`."""
        return not self.arrays

    @property
    def sequence(self) -> bool:
        """One sequence of arrays: `f([x1, x2])`."""
        return self.arrays == ("arrays",)


@cache
def call_of(name: str) -> Call:
    """The form in which the standard calls one of its functions of arrays."""
    found = signature(FUNCTIONS[name])
    arrays: list[str] = []
    keyed: list[str] = []
    kwargs: list[str] = []
    required = 0
    for parameter in found.parameters.values():
        if parameter.kind is Parameter.VAR_POSITIONAL:
            continue
        by_keyword = parameter.kind is Parameter.KEYWORD_ONLY
        if parameter.name in ARRAYS:
            (keyed if by_keyword else arrays).append(parameter.name)
            required += parameter.default is Parameter.empty
        elif not by_keyword:
            kwargs.append(parameter.name)
    return Call(found, tuple(arrays), tuple(keyed), tuple(kwargs), required)
