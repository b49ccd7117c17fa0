"""The Array API standard as a table: every function, by how it is called.

The names before `|` are arrays, which a trace sees by position; those after it are settings that
the standard also lets a caller give by position. `*arrays` is any number of arrays.
Source: https://data-apis.org/array-api/2025.12/API_specification/
"""

CALLS = {
    # element-wise
    "x": """abs acos acosh asin asinh atan atanh bitwise_invert ceil conj cos cosh exp expm1 floor
        imag isfinite isinf isnan log log1p log2 log10 logical_not negative positive real
        reciprocal round sign signbit sin sinh square sqrt tan tanh trunc
        all any argsort count_nonzero cumulative_prod cumulative_sum diff flip max mean min
        nonzero prod sort std sum tril triu unique_all unique_counts unique_inverse
        unique_values unstack var argmax argmin matrix_transpose expand_dims
        empty_like ones_like zeros_like
        linalg.cholesky linalg.det linalg.diagonal linalg.eig linalg.eigh linalg.eigvals
        linalg.eigvalsh linalg.inv linalg.matrix_norm linalg.matrix_rank
        linalg.matrix_transpose linalg.pinv linalg.qr linalg.slogdet linalg.svd linalg.svdvals
        linalg.trace linalg.vector_norm
        fft.fft fft.ifft fft.fftn fft.ifftn fft.rfft fft.irfft fft.rfftn fft.irfftn fft.hfft
        fft.ihfft fft.fftshift fft.ifftshift""",
    "x1 x2": """add atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor
        copysign divide equal floor_divide greater greater_equal hypot less less_equal logaddexp
        logical_and logical_or logical_xor maximum minimum multiply nextafter not_equal pow
        remainder subtract matmul tensordot vecdot searchsorted isin
        linalg.matmul linalg.tensordot linalg.vecdot linalg.cross linalg.outer linalg.solve""",
    "x min max": "clip",
    "condition x1 x2": "where",
    "x indices": "take take_along_axis",
    "x repeats": "repeat",
    "x | axis": "squeeze",
    "x | axes": "permute_dims",
    "x | shape": "reshape broadcast_to",
    "x | source destination": "moveaxis",
    "x | shift": "roll",
    "x | repetitions": "tile",
    "x | dtype": "astype",
    "x | n": "linalg.matrix_power",
    "x | fill_value": "full_like",
    "[arrays]": "concat stack",
    "*arrays": "broadcast_arrays meshgrid",
}

CREATION = frozenset(
    "arange asarray empty eye from_dlpack full linspace ones zeros fft.fftfreq fft.rfftfreq".split()
)

INSPECTION = frozenset("broadcast_shapes can_cast finfo iinfo isdtype result_type".split())

#: What passes straight through: constants, data types, and the namespace's word about itself.
PLAIN = frozenset(
    """e inf nan newaxis pi bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64
    complex64 complex128 __array_api_version__ __array_namespace_info__""".split()
)

#: name -> (arrays, settings by position)
SIGNATURES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    name: (tuple(arrays.split()), tuple(settings.split()))
    for call, names in CALLS.items()
    for arrays, _, settings in [call.partition("|")]
    for name in names.split()
}

#: operator method -> (function of the standard, also with its operands swapped)
OPERATORS = {
    "add": ("add", True),
    "sub": ("subtract", True),
    "mul": ("multiply", True),
    "truediv": ("divide", True),
    "floordiv": ("floor_divide", True),
    "mod": ("remainder", True),
    "pow": ("pow", True),
    "matmul": ("matmul", True),
    "and": ("bitwise_and", True),
    "or": ("bitwise_or", True),
    "xor": ("bitwise_xor", True),
    "lshift": ("bitwise_left_shift", True),
    "rshift": ("bitwise_right_shift", True),
    "lt": ("less", False),
    "le": ("less_equal", False),
    "gt": ("greater", False),
    "ge": ("greater_equal", False),
    "eq": ("equal", False),
    "ne": ("not_equal", False),
    "neg": ("negative", None),
    "pos": ("positive", None),
    "abs": ("abs", None),
    "invert": ("bitwise_invert", None),
}
